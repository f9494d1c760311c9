"""What labels of all other rows would be worth: an upper bound, no attack."""

from typing import Optional

import jax.numpy as jnp
import numpy as np

from labelleak import validate
from labelleak.attacks.history import (
  diffusion,
  process,
  surrogate,
  trace,
  words,
)
from labelleak.base import Attack, InputError, attack

_NAME = 'history.true_labels'
_SURE = 1e-4  # probability that a true label leaves to another
_LEARNERS = 'process', 'network'


def true_labels(
  *,
  learner: str = 'process',
  anchors: Optional[int] = None,
  neighbours: Optional[int] = None,
) -> Attack:
  """Builds the upper bound that names a row by all other rows' true labels.

  It is no attack: what the own features are worth to one who has labels. Scores
  [N, K] of the pool are those of the process of `gaussian_process`, the row
  left out, or of the networks of `classifier`. Rows of the pool beyond the
  labels teach nothing, and are named.

  Args:
    learner: 'process' or 'network'.
    anchors, neighbours: of the process; None: 1500 and 10.

  Raises:
    InputError: another learner, sizes that are no positive whole numbers or of
      the network. (infer) Labels of another shape.
  """
  validate.one_of('true_labels: learner', learner, _LEARNERS)
  given = dict(anchors=anchors, neighbours=neighbours)
  given = {k: v for k, v in given.items() if v is not None}
  for field, value in given.items():
    validate.whole(f'true_labels: {field}', value, 1)
    if learner == 'network':
      raise InputError(
        f'true_labels: {field}={value} is of the process, and this is the'
        ' network; leave it out.'
      )
  sizes = dict(anchors=1500, neighbours=10) | given

  def infer(key, memory, known):
    del memory
    words.check_pool(_NAME, known)
    labels = np.zeros((known.pool.size, known.num_classes), np.float32)
    rows, classes = np.shape(known.labels)
    if not 0 < rows <= len(labels) or classes != known.num_classes:
      raise InputError(
        f'Known: labels are {rows} x {classes}, not of up to {len(labels)} rows'
        f' of the pool and {known.num_classes} classes; grant those.'
      )
    labels[:rows] = known.labels
    seen = np.arange(known.pool.size) < len(known.labels)
    if learner == 'network':
      odds = np.log(np.maximum(labels, _SURE))
      return surrogate.name_rows(key, known.pool.all(), odds, seen)
    kernel = diffusion.pool_spectrum(key, known.pool, **sizes)
    evidence = np.where(seen[:, None], labels - 1 / known.num_classes, 0.0)
    posterior = process.explain(kernel, evidence, seen.astype(float))
    return jnp.asarray(posterior.left_out)

  return attack(
    infer,
    name=_NAME,
    kind='vertical',
    needs=('pool', 'labels'),
    observe=trace.ignore,
  )
