"""Counts of labels by who has simulated such rounds before."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from labelleak import compilation
from labelleak.attacks.counts import likelihood, posterior
from labelleak.audit import simulation

_NODES = 15  # numbers of labels in the rest that are told apart


def count(
  num: int,
  rest: int,
  rounds: simulation.Rounds,
  scales: Sequence[float] = (1.0,),
) -> np.ndarray:
  """Counts N labels in the second half of the rounds, [R / 2, K].

  The first half says how the bias falls with the count of a class: a line for
  each, drawn to that of all, with a variance that is linear in the count. A
  label of the rest, which full batches leave, counts for another number.

  Args:
    num: N.
    rest: of the examples, how many full batches leave.
    rounds: leaves [R, K], the update being that of the bias.
    scales: which of them a defense may have left of the rounds that are
      counted, is inferred.
  """
  of_rest = _share_rest(num, rest)
  found = [_infer_once(*of_rest, rounds, np.float32(c)) for c in scales]
  probs, evidence = map(np.stack, zip(*found))
  share = special.softmax(evidence, axis=0)
  return np.asarray(_allocate(np.einsum('cr,crkn->rkn', share, probs)))


def _infer(of_rest, log_prob, rounds, scale):
  """Infers the counts of the second half, each [R / 2, ...], at a scale."""
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
  grid = np.arange(len(of_rest))[:, None]
  sizes = grid + extra * of_rest
  offset = bias.mean(0) - slope * size.mean(0)
  mean = offset[:, None, None] + slope[:, None, None] * sizes[None]
  spread = (at_zero + rise * grid + 1e-12)[None] * scale**2

  def infer(beta):
    error = (beta[:, None, None] - scale * mean) ** 2 / spread
    log_lik = log_prob[None] - 0.5 * (error + jnp.log(spread))
    return posterior.infer(jax.nn.logsumexp(log_lik, axis=-1))

  return jax.lax.map(infer, rounds.updates[half:])


# Compiled once for all rounds that share N.
_infer_once = compilation.jit_once(_infer)
_allocate = compilation.jit_once(lambda p: jax.lax.map(posterior.allocate, p))


def _share_rest(num, rest):
  """Tabulates how many of k labels are in the rest, and log P, [N + 1, J].

  Of a smaller rest than J - 1 some are impossible.
  """
  k = np.arange(num + 1)[:, None]
  middle = np.round(k * rest / num).astype(int)
  last = max(rest + 1 - _NODES, 0)
  r = np.clip(middle - _NODES // 2, 0, last) + np.arange(_NODES)
  return r, likelihood.log_hypergeometric(r, num, k, rest)


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
