"""Rounds of sparse Bayesian learning: solve, then move the variances.

Those are the steps of `sparse`, on normal equations of any precision.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from labelleak.attacks.linear import matrix

EXACT = 1e-15  # noise, of the largest diagonal entry: rounding of float64
ROUGH = 1e-6  # of float32
_NOISE = 1e-4  # of an equation at first, as a share of the gradient's RMS
_FLOOR = 1e-6  # which is float32's rounding
_TRIES, _MORE = 4, 10.0  # with so much more noise
_LEAST = 1e-14  # variance of an entry
_STILL = 2  # rounds in which next to no label changes
_FEW = 500  # rows to one whose label may


class Posterior(NamedTuple):
  """What the equations say of B U = S - Y, each entry [B, K].

  Attributes:
    mean: of the entry.
    variance: of it.
    share: of the entry that the equations determine, in (0, 1].
    rounds: [] until labels stood still.
  """

  mean: chex.Array
  variance: chex.Array
  share: chex.Array
  rounds: chex.Array


class _Problem(NamedTuple):
  """Normal equations, those of sums of rows among them, and how to solve them.

  Attributes:
    gram: [n, n].
    rhs: [n].
    sums: [] weight of the equation that a row sums to zero.
    square: without those.
    probes: [n, P] signs.
    least: [] noise, beside the largest diagonal entry.
  """

  gram: chex.Array
  rhs: chex.Array
  sums: chex.Array
  square: matrix.Square
  probes: chex.Array
  least: float


class _State(NamedTuple):
  """What a round changes."""

  round: chex.Array  # []
  still: chex.Array  # [] rounds since a label changed
  variance: chex.Array  # [B, K] of the prior
  noise: chex.Array  # [] variance of an equation
  posterior: Posterior


def iterate(
  square: matrix.Square,
  first: chex.Array,
  probes: chex.Array,
  rounds: chex.Array,
  least: float,
) -> Posterior:
  """Runs rounds from variances in proportion to `first` [B, K].

  Args:
    square: normal equations of n = B K entries.
    first: variances to begin with.
    probes: [n, P] signs, that measure posterior variances.
    rounds: [] at most; they end when labels stand still.
    least: `EXACT`, or `ROUGH`: half of the entries are then moved after the
      first round, those of the largest variances.
  """
  dtype = square.gram.dtype
  first = first.astype(dtype)
  diagonal = jnp.diag(square.gram)
  # As large as the gradient they have to explain.
  scale = square.power / jnp.maximum(diagonal @ first.ravel(), 1e-30)
  # Rows sum to zero: equations that are as good as the others.
  sums = jnp.mean(diagonal) / first.shape[1]
  rows = jax.lax.iota(jnp.int32, first.size) // first.shape[1]
  gram = square.gram
  gram += jnp.where(rows[:, None] == rows[None], sums, 0.0)
  problem = _Problem(
    gram, square.rhs, sums, square, probes.astype(dtype), least
  )
  zero = jnp.zeros((), jnp.int32)
  nothing = Posterior(0 * first, first, jnp.full_like(first, 1e-2), zero)
  noise = jnp.full((), _NOISE**2, dtype)
  state = _State(zero, zero, scale * first, noise, nothing)
  some = first.size // 2 if least == ROUGH else first.size
  state = _advance(problem, state, first.size)
  going = lambda state: (state.round < rounds) & (state.still < _STILL)
  advance = lambda state: _advance(problem, state, some)
  return jax.lax.while_loop(going, advance, state).posterior


def _advance(problem, state, some):
  """Returns the state after a round that moves `some` of the entries."""
  shape, square = state.variance.shape, problem.square
  mean, left, noise = _solve_some(problem, state, some)
  misfit = square.power - 2 * square.rhs @ mean + mean @ (problem.gram @ mean)
  misfit -= problem.sums * (mean.reshape(shape).sum(1) ** 2).sum()
  told = noise * jnp.sum(1 - left)
  noise = (jnp.maximum(misfit, 0.0) + told) / jnp.maximum(square.count, 1)
  mean, left = mean.reshape(shape), left.reshape(shape)
  variance = state.variance * left
  share = jnp.maximum(1 - left, 1e-2)
  new = mean**2 + (mean**2 / share - mean**2 + variance) / 2
  new = jnp.where(left < 1, new, state.variance)  # of what has moved
  agree = _agree(mean, state.posterior.mean)
  found = _State(
    round=state.round + 1,
    still=jnp.where(agree, state.still + 1, 0),
    variance=jnp.maximum(new, _LEAST),
    noise=jnp.maximum(noise, _FLOOR**2),
    posterior=Posterior(mean, variance, share, state.round + 1),
  )
  # What cannot be solved any more ends where it was.
  ended = state._replace(still=jnp.full_like(state.still, _STILL))
  finite = jnp.isfinite(mean).all() & jnp.isfinite(left).all()
  return jax.tree.map(lambda a, b: jnp.where(finite, a, b), found, ended)


def _solve_some(problem, state, some):
  """Solves for the entries of the largest variances, the others being 0.

  Returns:
    [n] posterior means, shares of variances that are left, [] the noise.
  """
  variance, gram = state.variance.ravel(), problem.gram
  rhs, probes = problem.rhs, problem.probes
  if some < len(variance):
    _, places = jax.lax.top_k(variance, some)
    gram = gram[places[:, None], places[None]]
    part, rhs, probes = variance[places], rhs[places], probes[places]
    mean, left, noise = _solve(problem, state.noise, part, gram, rhs, probes)
    mean = jnp.zeros_like(variance).at[places].set(mean)
    return mean, jnp.ones_like(variance).at[places].set(left), noise
  return _solve(problem, state.noise, variance, gram, rhs, probes)


def _solve(problem, noise, variance, gram, rhs, probes):
  """Solves under variances, by Cholesky's factors.

  Where rounding makes the matrix indefinite it is given more noise.
  """
  root = jnp.sqrt(variance)
  inner = root[:, None] * gram * root[None]
  noise = jnp.maximum(noise, problem.least * jnp.diag(inner).max())
  both = jnp.concatenate([(root * rhs)[:, None], probes], 1)
  entries = jax.lax.iota(jnp.int32, len(root))
  diagonal = entries[:, None] == entries[None]

  def attempt(carry):
    tries, noise, _ = carry
    noise = jnp.where(tries > 0, _MORE * noise, noise)
    noisy = inner + jnp.where(diagonal, noise, 0.0)
    factor = jax.lax.linalg.cholesky(noisy, symmetrize_input=False)
    return tries + 1, noise, jax.scipy.linalg.cho_solve((factor, True), both)

  def must_retry(carry):
    tries, _, z = carry
    return (tries < _TRIES) & ~jnp.isfinite(z).all()

  start = jnp.zeros((), jnp.int32), noise, jnp.full_like(both, jnp.nan)
  _, noise, z = jax.lax.while_loop(must_retry, attempt, start)
  left = noise * jnp.mean(probes * z[:, 1:], 1)
  return root * z[:, 0], jnp.clip(left, 1e-4, 1.0), noise


def _agree(mean, other):
  """Returns whether rows of two means [B, K] agree on their least entry."""
  least = lambda a: a == a.min(1, keepdims=True)
  changed = (least(mean) != least(other)).any(1)
  return changed.sum() <= len(mean) / _FEW
