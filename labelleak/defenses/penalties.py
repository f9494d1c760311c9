"""Defenses that are a term of the active party's loss, not of a message.

See `Penalty` and `vfl.protocol`; a penalty that needs parameters of its own is
a top model that sows it, such as `bottleneck.mid`.
"""

import chex
import jax.numpy as jnp

from labelleak import validate
from labelleak.defenses.defense import Defense


def distance_correlation(*, weight: float, active: bool = False) -> Defense:
  """Adds weight * sum_p log dCor(h_p, y), over the passive parties.

  Labels and embeddings become independent, as far as distances tell (Szekely
  et al. 2007; Sun et al., arXiv 2203.01451). Memory is O(B^2).

  Args:
    weight: lambda.
    active: whether the sum includes the active party's own embedding, which
      nobody else sees.

  Raises:
    InputError: a weight that is no number of at least 0.
  """
  nothing = '0 is no penalty'
  validate.at_least('distance_correlation: weight', weight, 0, nothing)

  def penalty(hs, y, mask):
    hs = hs if active else hs[:-1]
    return weight * sum(jnp.log(correlation(h, y, mask)) for h in hs)

  return Defense(penalty=penalty)


def correlation(a: chex.Array, b: chex.Array, mask: chex.Array) -> chex.Array:
  """Returns the distance correlation of the rows of two matrices, [] in [0, 1].

  sqrt(<A, B>) / sqrt(|A| |B|) of the doubly centred distance matrices of
  a [B, D] and b [B, E], over the rows that `mask` [B] has.
  """
  chex.assert_rank([a, b, mask], [2, 2, 1])
  share = mask / jnp.maximum(mask.sum(), 1.0)
  pairs = share[:, None] * share[None]
  centred_a, centred_b = _center(a, share), _center(b, share)
  mean = lambda product: (pairs * product).sum()
  covariance = jnp.sqrt(jnp.maximum(mean(centred_a * centred_b), 0.0) + 1e-16)
  power_a = jnp.sqrt(mean(centred_a**2) + 1e-16)
  power_b = jnp.sqrt(mean(centred_b**2) + 1e-16)
  return covariance / jnp.sqrt(power_a * power_b)


def _center(rows, share):
  """Returns distances between rows, less the means of their row and column."""
  distances = _distances(rows)
  means = distances @ share
  return distances - means[:, None] - means[None] + share @ means


def _distances(rows):
  """Returns Euclidean ones, [B, B]; what rounding cannot tell from 0 is 0.

  From products, not differences: [B, B, D] of those would be moved by memory.
  """
  rows = rows - rows.mean(0, keepdims=True)
  squares = (rows**2).sum(-1)
  products = jnp.matmul(rows, rows.T, precision='highest')
  distances = squares[:, None] + squares[None] - 2 * products
  apart = distances > 1e-6 * squares.mean()
  return jnp.where(apart, jnp.sqrt(jnp.where(apart, distances, 1.0)), 0.0)
