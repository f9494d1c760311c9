"""What labels of all other rows would be worth: an upper bound, no attack."""

import jax.numpy as jnp
import numpy as np

from labelleak import validate
from labelleak.attacks.history import diffusion, process, surrogate, trace
from labelleak.base import Attack, attack

_NAME = 'history.true_labels'
_SURE = 1e-4  # probability that a true label leaves to another
_LEARNERS = 'process', 'network'


def true_labels(
  *, learner: str = 'process', anchors: int = 1500, neighbours: int = 10
) -> Attack:
  """Builds the upper bound that names a row by all other rows' true labels.

  It is no attack: what the own features are worth to one who has labels. Scores
  [N, K] of the pool are those of the process of `gaussian_process`, the row
  left out, or of the networks of `classifier`. Rows of the pool beyond the
  labels teach nothing, and are named.

  Args:
    learner: 'process' or 'network'.
    anchors, neighbours: of the process.

  Raises:
    InputError: another learner.
  """
  validate.one_of('true_labels: learner', learner, _LEARNERS)

  def infer(key, memory, known):
    del memory
    labels = np.zeros((known.pool.size, known.num_classes), np.float32)
    labels[: len(known.labels)] = known.labels
    seen = np.arange(known.pool.size) < len(known.labels)
    if learner == 'network':
      odds = np.log(np.maximum(labels, _SURE))
      return surrogate.name_rows(key, known.pool.all(), odds, seen)
    kernel = diffusion.pool_spectrum(
      key, known.pool, anchors=anchors, neighbours=neighbours
    )
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
