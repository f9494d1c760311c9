"""Expectation propagation between linear equations and labels.

`linear.solve` says what a round does. The beliefs are Gaussian, N(m_b, v_b) on
row b of Y without the equations' own say; the equations A(S + E - Y) = B g are
those of `equations`. A row of Y is one of K that are given: one-hot, or what
a label code makes of those.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from labelleak.attacks.linear import equations
from labelleak.attacks.linear.equations import center

_STILL = 2e-4  # mean change of a row's probabilities at which rounds end
_DOUBT = 2.0  # least doubt at the start; it falls to 1 in the last round
_FEW = 16  # rows under which the others' constant logits are not estimated


class Shift(NamedTuple):
  """The constant c by which all rows' logits may differ from one's own.

  All rows move together with it, which is what the equations see best and what
  `solve`, row by row, would misread. So the K - 1 directions in which they see
  it are set aside (`_outside`) and tell c alone (`_estimate`).
  """

  h: chex.Array  # [B, K] own logits
  basis: chex.Array  # [M, K] orthonormal, zero where nothing is set aside
  image: chex.Array  # [K, K] c -> equations, in that basis
  prior: chex.Array  # [] variance of c's entries, before anything is seen


class Problem(NamedTuple):
  """What stays the same from round to round."""

  eq: equations.Equations
  shift: Shift
  rows: chex.Array  # [K, K] what a label of each class looks like
  key: chex.PRNGKey
  rounds: int
  steps: int
  ridge: float
  damping: float


class State(NamedTuple):
  """What a round changes."""

  round: chex.Array  # [] rounds done
  m: chex.Array  # [B, K] belief on Y without the equations' own say: mean
  v: chex.Array  # [B] and variance
  shift: chex.Array  # [K] the others' constant logits
  var: chex.Array  # [] variance of E
  y: chex.Array  # [B, K] posterior
  moved: chex.Array  # [] by the last round
  share: chex.Array  # [] of the unknowns that the equations determine


def run(problem: Problem) -> State:
  """Rounds until the labels stand still, at most `problem.rounds`."""
  going = lambda state: (state.round < problem.rounds) & (state.moved > _STILL)
  step = functools.partial(advance, problem)
  first = start(problem.shift.h, problem.rows)
  return jax.lax.while_loop(going, step, first)


def start(h: chex.Array, rows: chex.Array) -> State:
  """Beliefs before anything is seen, own logits [B, K]: every label alike."""
  classes = h.shape[1]
  s = jax.nn.softmax(h)
  even = jnp.full_like(s, 1 / classes)
  m, v = _moments(even, rows)
  zero, zeros = jnp.zeros((), s.dtype), jnp.zeros_like(s[0])
  # The others' logits are as telling as one's own.
  var = jnp.mean((s - even) ** 2) * classes / (classes - 1) + 1e-8
  round_ = jnp.zeros((), jnp.int32)
  return State(round_, m, v[:, 0], zeros, var, even, zero + 1, zero)


def advance(problem: Problem, state: State) -> State:
  """One round of `linear.solve`."""
  classes = state.m.shape[1]
  s = softmax(problem.shift, state.shift)
  misfit, power, pull, share = _solve_rows(problem, state, s)
  share, column = share[:, None], (state.v + state.var)[:, None]
  extrinsic = state.m - column * pull / share
  squared = (pull**2).sum(-1, keepdims=True) / (classes - 1)
  # Larger misfits than the beliefs allow are those of wrong beliefs. Smaller
  # ones do not count, and less so at first: as in annealing, what is decided
  # slowly is decided better.
  least = _DOUBT - (_DOUBT - 1.0) * state.round / problem.rounds
  doubt = jnp.clip((squared * column).sum() / share.sum(), least, 4.0)
  tau = doubt * (column * (1 - share) / share + state.var)
  powers = (problem.rows**2).sum(-1)[None]
  y = jax.nn.softmax((extrinsic @ problem.rows.T - powers / 2) / tau)
  m, v = _belief(y, problem.rows, extrinsic, tau)
  # EM on E: its posterior second moment.
  growth = state.var * (squared - share / column).mean()
  damp = lambda new, old: problem.damping * new + (1 - problem.damping) * old
  return State(
    round=state.round + 1,
    m=damp(m, state.m),
    v=damp(v, state.v),
    shift=_estimate(problem.shift, misfit, state.shift, power),
    var=state.var * jnp.clip(1 + growth, 0.3, 3.0),
    y=y,
    moved=jnp.abs(y - state.y).max(-1).mean(),
    share=share.mean(),
  )


def _solve_rows(problem, state, s):
  """The misfit, its noise, A^T (A V A^T + ridge)^-1 misfit, rows' shares."""
  eq, shift = problem.eq, problem.shift
  num, classes = s.shape
  var = state.v + state.var
  column = var[:, None]
  power = (classes - 1) * jnp.vdot(var, eq.gain) / jnp.maximum(eq.rank, 1)
  apply = lambda u: _outside(shift, eq.apply(u))
  adjoint = lambda z: eq.adjoint(_outside(shift, z))
  operator = lambda z: problem.ridge * power * z + apply(column * adjoint(z))
  invert = lambda b: equations.conjugate_gradient(operator, b, problem.steps)
  misfit = eq.observed - eq.apply(s - state.m)
  key = jax.random.fold_in(problem.key, state.round)
  noise = jax.random.normal(key, s.shape, s.dtype)
  probe = apply(jnp.sqrt(column) * center(noise))
  both = jnp.stack([_outside(shift, misfit), probe])
  z, z_probe = jax.vmap(invert)(both)
  mean = jnp.vdot(probe, z_probe) / ((classes - 1) * num)
  shares = _shares(var * eq.gain, jnp.clip(mean, 1e-4, 0.999))
  return misfit, power, adjoint(z), shares


def find_shift(eq: equations.Equations, h: chex.Array) -> Shift:
  """What the equations see of a constant beside own logits h [B, K]."""
  s = jax.nn.softmax(h)
  slope = lambda c: s * (c - (s * c).sum(-1, keepdims=True))
  units = jnp.eye(h.shape[1], dtype=h.dtype)
  image = jax.lax.map(lambda c: eq.apply(slope(c[None])), units).T  # [M, K]
  vectors, sizes, _ = jnp.linalg.svd(image, full_matrices=False)
  # In a batch of a few rows their directions would be much of what is known.
  seen = (sizes > 1e-4 * sizes[0]) & (len(h) >= _FEW)
  basis = jnp.where(seen, vectors, 0.0)
  # Their constant is as large as one's own, before anything is seen.
  mean = center(h.mean(0))
  prior = jnp.sum(mean**2) / (h.shape[1] - 1) + 1e-6
  return Shift(h, basis, basis.T @ image, prior)


def softmax(shift: Shift, c: chex.Array) -> chex.Array:
  """S of all parties if the others' logits are the constant c, [B, K]."""
  return jax.nn.softmax(shift.h + c[None])


def _outside(shift, z):
  """The equations without the directions that are set aside, [M] -> [M]."""
  return z - shift.basis @ (shift.basis.T @ z)


def _estimate(shift, misfit, c, noise):
  """Posterior mean of c given the misfit at c, under noise variance."""
  seen = shift.basis.T @ misfit + shift.image @ c
  gram = shift.image.T @ shift.image / noise
  precision = gram + jnp.eye(c.size, dtype=c.dtype) / shift.prior
  return jnp.linalg.solve(precision, shift.image.T @ seen / noise)


def _shares(strength, mean):
  """Share of each row that the equations determine, [B] -> [B].

  Row b of strength q_b sees the others as noise of one level 1/t, as for random
  equations: q_b t / (1 + q_b t), with t such that the mean is as measured.
  """
  shares = lambda log_t: jax.nn.sigmoid(log_t + jnp.log(strength))
  strength = jnp.maximum(strength, 1e-30)

  def halve(_, ends):
    low, high = ends
    middle = (low + high) / 2
    small = shares(middle).mean() < mean
    return jnp.where(small, middle, low), jnp.where(small, high, middle)

  center = -jnp.log(strength.mean())
  low, high = jax.lax.fori_loop(0, 40, halve, (center - 30, center + 30))
  return jnp.maximum(shares((low + high) / 2), 1e-6)


def _belief(y, rows, extrinsic, tau):
  """The Gaussian N(m, v) that turns N(extrinsic, tau) into y's two moments.

  Where y is no narrower than its evidence there is none: the prior's then.
  """
  mean, var = _moments(y, rows)
  _, prior = _moments(jnp.full_like(y, 1 / y.shape[-1]), rows)
  least = 1e-6 * y.shape[-1] * prior
  precision = 1 / jnp.maximum(var, 1e-3 * least) - 1 / tau
  narrower = precision > 1 / prior
  v = 1 / jnp.where(narrower, precision, 1 / prior)
  m = mean + jnp.where(narrower, v / tau * (mean - extrinsic), 0.0)
  return m, jnp.maximum(v, least)[:, 0]


def _moments(y, rows):
  """Of Y under class probabilities y: mean [B, K], an entry's var [B, 1]."""
  mean = y @ rows
  squared = y @ (rows**2).sum(-1)[:, None] - (mean**2).sum(-1, keepdims=True)
  return mean, jnp.maximum(squared, 0.0) / (y.shape[-1] - 1)
