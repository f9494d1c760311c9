"""What labels of all other rows would be worth: an upper bound, no attack."""

import jax.numpy as jnp
import numpy as np

from labelleak.attacks.history import diffusion, process, trace
from labelleak.base import Attack, attack

_NAME = 'history.true_labels'


def true_labels(*, anchors: int = 1500, neighbours: int = 10) -> Attack:
  """Builds the upper bound that names a row by all other rows' true labels.

  It is no attack: what the own features are worth to one who has labels. Scores
  [N, K] are those of the process of `gaussian_process`, the row left out.
  """

  def infer(key, memory, known):
    del memory
    kernel = diffusion.pool_spectrum(
      key, known.pool, anchors=anchors, neighbours=neighbours
    )
    evidence = np.asarray(known.labels) - 1 / known.num_classes
    posterior = process.explain(kernel, evidence, np.ones(len(evidence)))
    return jnp.asarray(posterior.left_out)

  return attack(
    infer,
    name=_NAME,
    kind='vertical',
    needs=('pool', 'labels'),
    observe=trace.ignore,
  )
