"""Counts under an optimizer that steps each entry by the sign, nearly.

Adam divides the mean of an entry's gradients by their size. Over many steps, an
entry whose gradients have mean m and deviation d moves by about
m / sqrt(m^2 + d^2) a step: by 1 where they agree in sign, else in proportion to
the mean. Of a class that is a share x of the labels m is 1 / K - x, and
d^2 = x (1 - x) / b in steps of b examples. How far the entries bend so, and how
many steps there were, the update tells itself; the optimizer is not needed.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak.attacks.counts import integration, likelihood, posterior

# Chosen on updates of PyTorch clients at seeds 100 to 107, and on seed 1 of
# configs/clients.py.
_BENDS = np.geomspace(0.07, 2.0, 5)  # 1 / sqrt(b) and, as training goes, more
_SCALES = np.geomspace(0.7, 6.0, 10)  # over the largest entry
_FLOORS = np.geomspace(0.02, 0.4, 4)  # deviation, over the largest entry
_LEAST = 0.01  # deviation of a class without examples, as of its softmax


def infer_counts(beta: chex.Array, num: int) -> posterior.Posterior:
  """Infers counts from entries that saturate, without any scale.

  Args:
    beta: [K] bias update.
    num: N, of labels.
  """
  size = jnp.maximum(jnp.abs(beta).max(), 1e-30)
  x = jnp.arange(num + 1.0) / num
  mean = 1 / len(beta) - x
  shape = len(beta), num + 1

  def evaluate(bend, scale, floor):
    deviation = bend**2 * x * (1 - x) + _LEAST**2
    end = scale * size * mean / jnp.sqrt(mean**2 + deviation)
    log_lik = likelihood.log_likelihood(
      beta,
      jnp.broadcast_to(end, shape)[..., None],
      jnp.full(shape, floor * size),
      jnp.zeros((num + 1, 1)),
    )
    return posterior.infer(log_lik, num=num)

  floors = jax.vmap(evaluate, (None, None, 0))
  nodes = [np.float32(a).ravel() for a in np.meshgrid(_BENDS, _SCALES)]
  return integration.mix(
    jax.lax.map(lambda node: floors(*node, np.float32(_FLOORS)), tuple(nodes))
  )
