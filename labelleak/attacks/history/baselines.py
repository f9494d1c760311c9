"""What the own features and labels are worth, beside an attack over time."""

import jax
import jax.numpy as jnp
import numpy as np

from labelleak.attacks.history import diffusion, process
from labelleak.base import Attack, attack

_START = 'history.clusters'
_BOUND = 'history.true_labels'


def clusters(*, anchors: int = 1500, neighbours: int = 10) -> Attack:
  """Builds the baseline that groups rows by own features, and names none.

  Scores [N, K] are one-hot groups, whose numbers mean nothing: their
  `permuted_label_accuracy` is an upper bound on what features alone tell.
  """

  def infer(key, memory, known):
    del memory
    kernel = _kernel(key, known, anchors, neighbours)
    # The walk's slowest directions are the K groups that it seldom leaves.
    points = kernel.vectors[:, -known.num_classes :]
    points = points / jnp.linalg.norm(points, axis=1, keepdims=True)
    return jax.nn.one_hot(
      diffusion.group(key, points, known.num_classes), known.num_classes
    )

  return attack(
    infer, name=_START, kind='vertical', needs=('pool',), observe=_ignore
  )


def true_labels(*, anchors: int = 1500, neighbours: int = 10) -> Attack:
  """Builds the upper bound that names a row by all other rows' true labels.

  It is no attack: what the own features are worth to one who has labels. Scores
  [N, K] are those of the process of `gaussian_process`, the row left out.
  """

  def infer(key, memory, known):
    del memory
    kernel = _kernel(key, known, anchors, neighbours)
    evidence = np.asarray(known.labels) - 1 / known.num_classes
    posterior = process.explain(kernel, evidence, np.ones(len(evidence)))
    return jnp.asarray(posterior.left_out)

  return attack(
    infer,
    name=_BOUND,
    kind='vertical',
    needs=('pool', 'labels'),
    observe=_ignore,
  )


def _ignore(memory, view):
  """Remembers nothing of a training."""
  del view
  return memory


def _kernel(key, known, anchors, neighbours):
  x = np.asarray(known.pool.take(np.arange(known.pool.size)))
  return diffusion.spectrum(
    key, x.reshape(len(x), -1), anchors=anchors, neighbours=neighbours
  )
