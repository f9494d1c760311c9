"""Metrics: where the truth meets what an attack returned, and nowhere else.

One batch is the unit: counts [K] that an attack returned and truth [K], the
counts of the victim's labels, to one number. vmap over trials. An empty
denominator gives 0, as in scikit-learn: who names nothing is not precise.
"""

import chex
import jax.numpy as jnp
from jax.scipy import special


def _ratio(numerator, denominator):
  return numerator / jnp.maximum(denominator, 1)


def _check(counts, truth):
  chex.assert_rank([counts, truth], 1)
  chex.assert_equal_shape([counts, truth])


def count_accuracy(counts: chex.Array, truth: chex.Array) -> chex.Array:
  """Share of the labels recovered, [K], [K] -> [].

  sum_i min(counts_i, truth_i) / B, the published attack success rate (Gat and
  Sharif 2024, section 6.1): order does not matter and, as counts sum to B,
  every wrong guess costs one label.

  >>> float(count_accuracy(jnp.array([2, 1, 1]), jnp.array([3, 1, 0])))
  0.75
  """
  _check(counts, truth)
  return _ratio(jnp.minimum(counts, truth).sum(), truth.sum())


def presence_precision(counts: chex.Array, truth: chex.Array) -> chex.Array:
  """Share of the named classes that are in the batch, [K], [K] -> []."""
  _check(counts, truth)
  return _ratio(((counts > 0) & (truth > 0)).sum(), (counts > 0).sum())


def presence_recall(counts: chex.Array, truth: chex.Array) -> chex.Array:
  """Share of the classes in the batch that are named, [K], [K] -> []."""
  _check(counts, truth)
  return _ratio(((counts > 0) & (truth > 0)).sum(), (truth > 0).sum())


def count_error(counts: chex.Array, truth: chex.Array) -> chex.Array:
  """Mean absolute error of a class's count, sum_i |c_i - t_i| / K."""
  _check(counts, truth)
  return jnp.abs(counts - truth).sum() / truth.shape[0]


def chance_count_accuracy(truth: chex.Array) -> chex.Array:
  """Expected `count_accuracy` of B labels drawn uniformly, [K] -> [].

  sum_i E min(X, truth_i) / B with X ~ Binomial(B, p = 1/K), where

    E min(X, t) = B p (1 - P[X' >= t - 1]) + t P[X >= t],
    X' ~ Binomial(B - 1, p),

  and the tails are regularised incomplete beta functions (float32 leaves a
  relative error of up to 5e-4).
  """
  chex.assert_rank(truth, 1)
  p = 1.0 / truth.shape[0]
  total = truth.sum()

  def tail(n, j):  # P[Binomial(n, p) >= j]
    inside = (j >= 1) & (j <= n)
    a = jnp.where(inside, j, 1).astype(float)
    b = jnp.where(inside, n - j + 1, 1).astype(float)
    return jnp.where(inside, special.betainc(a, b, p), j <= 0)

  below = total * p * (1.0 - tail(total - 1, truth - 1))
  expected = jnp.where(truth > 0, below + truth * tail(total, truth), 0.0)
  return _ratio(expected.sum(), total)
