"""Expectation propagation between linear equations and labels.

`solver.solve` says what a round does. The beliefs are Gaussian, N(m_b, v_b) on
row b of Y without the equations' own say; the equations A(S + E - Y) = B g are
those of `equations`. A row of Y is one of K that are given: one-hot, or what
a label code makes of those.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from labelleak.attacks.linear import equations, shifts
from labelleak.attacks.linear.equations import center

_STILL = 2e-4  # mean change of a row's probabilities at which rounds end
_DOUBT = 2.0  # least doubt at the start; it falls to 1 in the last round


class Problem(NamedTuple):
  """What stays the same from round to round."""

  eq: equations.Equations  # the equations
  shift: shifts.Shift  # what they see of the others' constant logits
  rows: chex.Array  # [K, K] what a label of each class looks like
  key: chex.PRNGKey  # of the probes
  # The options of `solver.expectation_propagation`
  rounds: int
  steps: int
  ridge: float
  damping: float


class State(NamedTuple):
  """What a round changes."""

  round: chex.Array  # [] rounds done
  m: chex.Array  # [B, K] belief on Y without the equations' own say, its mean
  v: chex.Array  # [B] and its variance
  shift: chex.Array  # [K] the others' constant logits
  var: chex.Array  # [] variance of E
  y: chex.Array  # [B, K] posterior
  change: chex.Array  # [] of y in the last round
  share: chex.Array  # [] of the unknowns that the equations determine


def run(problem: Problem) -> State:
  """Runs rounds until the labels stand still, at most `problem.rounds`."""
  going = lambda state: (state.round < problem.rounds) & (state.change > _STILL)
  step = functools.partial(advance, problem)
  first = start(problem.shift.h, problem.rows)
  return jax.lax.while_loop(going, step, first)


def start(h: chex.Array, rows: chex.Array) -> State:
  """Returns the beliefs at first, of own logits h [B, K]: every label alike."""
  classes = h.shape[1]
  s = jax.nn.softmax(h)
  even = jnp.full_like(s, 1 / classes)
  m, v = _moments(even, rows)
  zero = jnp.zeros((), s.dtype)
  # The others' logits are as telling as one's own.
  var = jnp.mean((s - even) ** 2) * classes / (classes - 1) + 1e-8
  return State(
    round=jnp.zeros((), jnp.int32),
    m=m,
    v=v[:, 0],
    shift=jnp.zeros_like(s[0]),
    var=var,
    y=even,
    change=zero + 1,
    share=zero,
  )


def advance(problem: Problem, state: State) -> State:
  """Runs one round of `solver.solve`."""
  classes = state.m.shape[1]
  s = shifts.softmax(problem.shift, state.shift)
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
    shift=shifts.estimate(problem.shift, misfit, state.shift, power),
    var=state.var * jnp.clip(1 + growth, 0.3, 3.0),
    y=y,
    change=jnp.abs(y - state.y).max(-1).mean(),
    share=share.mean(),
  )


def _solve_rows(problem, state, s):
  """Solves the equations for the rows of Y under their beliefs.

  Returns:
    misfit [M], its noise [], A^T (A V A^T + ridge)^-1 misfit [B, K], and the
    share [B] of each row that the equations determine.
  """
  eq, shift = problem.eq, problem.shift
  num, classes = s.shape
  var = state.v + state.var
  column = var[:, None]
  power = (classes - 1) * jnp.vdot(var, eq.gain) / jnp.maximum(eq.rank, 1)
  apply = lambda u: shifts.outside(shift, eq.apply(u))
  adjoint = lambda z: eq.adjoint(shifts.outside(shift, z))
  operator = lambda z: problem.ridge * power * z + apply(column * adjoint(z))
  invert = lambda b: equations.conjugate_gradient(operator, b, problem.steps)
  misfit = eq.observed - eq.apply(s - state.m)
  key = jax.random.fold_in(problem.key, state.round)
  noise = jax.random.normal(key, s.shape, s.dtype)
  probe = apply(jnp.sqrt(column) * center(noise))
  both = jnp.stack([shifts.outside(shift, misfit), probe])
  z, z_probe = jax.vmap(invert)(both)
  mean = jnp.vdot(probe, z_probe) / ((classes - 1) * num)
  shares = _shares(var * eq.gain, jnp.clip(mean, 1e-4, 0.999))
  return misfit, power, adjoint(z), shares


def _shares(strength, mean):
  """Returns the share of each row that the equations determine, [B] -> [B].

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
  """Returns the N(m, v) that turns N(extrinsic, tau) into y's two moments.

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
  """Returns Y's mean [B, K] and an entry's var [B, 1] under probabilities y."""
  mean = y @ rows
  squared = y @ (rows**2).sum(-1)[:, None] - (mean**2).sum(-1, keepdims=True)
  return mean, jnp.maximum(squared, 0.0) / (y.shape[-1] - 1)
