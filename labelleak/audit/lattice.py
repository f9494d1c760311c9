"""Counts of labels by who has simulated such rounds before."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from labelleak import base
from labelleak.attacks.counts import posterior
from labelleak.audit import simulation

# Rounds with leaves [R, K] -> counts of the second half [R / 2, K]
Count = Callable[[simulation.Rounds], jax.Array]

_NODES = 15  # numbers of labels in the rest that are told apart


@functools.cache
def compile_count(
  num: int, rest: int, scales: tuple[float, ...] = (1.0,)
) -> Count:
  """Returns what counts N labels, compiled once for all that share N.

  Args:
    num: N.
    rest: of the examples, how many full batches leave.
    scales: which of them a defense may have left of the rounds that are
      counted, is inferred.
  """
  return base.jit_once(functools.partial(_count, num, rest, scales))


def _count(num, rest, scales, rounds):
  """Counts N labels in the second half of the rounds, -> [R / 2, K].

  The first half says how the bias falls with the count of a class: a line for
  each, drawn to that of all, with a variance that is linear in the count. A
  label of the rest, which full batches leave, counts for another number.
  """
  half = simulation.ROUNDS // 2
  bias, labels, last = (leaf[:half] for leaf in rounds)
  centre = lambda a: a - a.mean(0)[None]
  extra = _weigh_rest(centre(bias), centre(labels), centre(last))
  size = labels + extra * last
  b, k = centre(bias), centre(size)
  square, product = (k**2).sum(0), (k * b).sum(0)
  prior = square.mean() + 1e-6
  slope = (product + prior * product.sum() / (square.sum() + 1e-6)) / (
    square + prior
  )
  error = (b - slope[None] * k) ** 2 * half / (half - 2)
  at_zero, rise = _fit_variance(labels, error)
  grid = np.arange(num + 1)[:, None]
  of_rest, log_prob = _share_rest(num, rest)
  sizes = grid + extra * of_rest
  offset = bias.mean(0) - slope * size.mean(0)
  mean = offset[:, None, None] + slope[:, None, None] * sizes[None]
  var = (at_zero + rise * grid + 1e-12)[None]

  def infer(beta, scale):
    spread = var * scale**2
    error = (beta[:, None, None] - scale * mean) ** 2 / spread
    log_lik = log_prob[None] - 0.5 * (error + jnp.log(spread))
    return posterior.infer(jax.nn.logsumexp(log_lik, axis=-1))

  def count_one(beta):
    beliefs = jax.lax.map(lambda c: infer(beta, c), np.float32(scales))
    share = jax.nn.softmax(beliefs.evidence)
    return posterior.allocate(jnp.einsum('c,ckn->kn', share, beliefs.probs))

  return jax.lax.map(count_one, rounds.updates[half:])


def _share_rest(num, rest):
  """Tabulates how many of k labels are in the rest, and log P, [N + 1, J]."""
  k = np.arange(num + 1)[:, None]
  middle = np.round(k * rest / num).astype(int)
  width = min(_NODES, rest + 1)
  r = np.clip(middle - width // 2, 0, rest + 1 - width) + np.arange(width)
  return r, stats.hypergeom.logpmf(r, num, k, rest)


def _weigh_rest(bias, labels, last):
  """Fits bias = slope * (labels + extra * last) for all classes; extra."""
  dot = lambda a, b: (a * b).sum()
  kk, kr, rr = dot(labels, labels), dot(labels, last), dot(last, last) + 1e-6
  kb, rb = dot(labels, bias), dot(last, bias)
  slope, extra = kb * rr - rb * kr, rb * kk - kb * kr
  return extra / jnp.where(slope == 0, 1.0, slope)


def _fit_variance(k, error):
  """Fits error = at_zero + rise * k; each counts by its likely size."""
  weight = 1 / (1 + k) ** 2
  weight /= weight.sum()
  k_mean, error_mean = (weight * k).sum(), (weight * error).sum()
  product = (weight * (k - k_mean) * error).sum()
  square = (weight * (k - k_mean) ** 2).sum()
  rise = jnp.maximum(product / (square + 1e-9), 0.0)
  return jnp.maximum(error_mean - rise * k_mean, 0.05 * error_mean), rise
