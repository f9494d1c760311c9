"""What the own features are worth, beside an attack over time."""

import jax
import jax.numpy as jnp

from labelleak.attacks.history import diffusion, trace
from labelleak.base import Attack, attack

_NAME = 'history.clusters'


def clusters(*, anchors: int = 1500, neighbours: int = 10) -> Attack:
  """Builds the baseline that groups rows by own features, and names none.

  Scores [N, K] are one-hot groups, whose numbers mean nothing: their
  `permuted_label_accuracy` is an upper bound on what features alone tell.
  """

  def infer(key, memory, known):
    del memory
    kernel = diffusion.pool_spectrum(
      key, known.pool, anchors=anchors, neighbours=neighbours
    )
    # The walk's slowest directions are the K groups that it seldom leaves.
    points = kernel.vectors[:, -known.num_classes :]
    points = points / jnp.linalg.norm(points, axis=1, keepdims=True)
    return jax.nn.one_hot(
      diffusion.group(key, points, known.num_classes), known.num_classes
    )

  return attack(
    infer, name=_NAME, kind='vertical', needs=('pool',), observe=trace.ignore
  )._replace(below_tops=True)
