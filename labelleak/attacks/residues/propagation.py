"""Residues are labels and what other parties add: by expectation propagation.

With d = a + u - t / 2, a the own share of the activation and u that of the
other parties, the equations of `system` are

  basis^T (u - t / 2) = observed - basis^T a,   t in {-1, 1}^B.

u is taken for Gaussian and independent of t, as large as the own share. Where
the other parties are silent (weights that start at zero) u is nothing, and the
equations are exact: labels that solve them are then looked for. Those that all
solutions share are taken for certain.
"""

from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from labelleak import validate
from labelleak.attacks.residues import system
from labelleak.attacks.residues.system import System
from labelleak.base import Attack, attack

_NAME = 'residues.expectation_propagation'
_DOUBT = 2.0  # least doubt at the start; it falls to 1 in half of the rounds
_LEAST = 1e-9  # variance of a label that is sure
_SOLVED = 1e-9, 1e-5  # of the equations' size, which a solution may leave
_JITTER = 0.5  # of the fields that a search starts from
_PULL = 3e-3  # by which a search follows what it finds, a round


class Beliefs(NamedTuple):
  """What a round changes.

  Attributes:
    m: [B] mean of each label without the equations' own say.
    v: [B] its variance.
    field: [B] log odds of the label +1, from elsewhere, over 2.
    t: [B] posterior mean of each label.
  """

  m: chex.Array
  v: chex.Array
  field: chex.Array
  t: chex.Array


def expectation_propagation(
  *, loss: Optional[str] = None, rounds: int = 300, searches: int = 20
) -> Attack:
  """Builds the residue attack that knows that labels are binary.

  Scores are posterior probabilities [B, 2]; those of labels that are shared by
  all exact solutions of the equations, where searches find some, are 0 and 1.

  Args:
    loss: as of `least_squares`.
    rounds: of expectation propagation.
    searches: for exact solutions; they follow their own beliefs, from other
      starts, where there are fewer equations than rows and yet more digits.

  Raises:
    InputError: an option out of range. (infer) As of `least_squares`.
  """
  system.check_loss(loss)
  validate.whole('rounds', rounds, 1)
  validate.whole('searches', searches, 0)

  def infer(key, view, known):
    equations = system.build(_NAME, view, known)
    own = system.share_own(equations, loss, known)
    return as_scores(solve(key, equations, own, rounds, searches))

  return attack(infer, name=_NAME, kind='vertical', needs=('bottom',))


def as_scores(t: chex.Array) -> chex.Array:
  """Returns probabilities [B, 2] of posterior means of t [B]."""
  return jnp.stack([1 - t, 1 + t], -1) / 2


def solve(
  key: chex.PRNGKey,
  equations: System,
  own: chex.Array,
  rounds: int,
  searches: int,
) -> chex.Array:
  """Returns posterior means of the labels, in [-1, 1], [B].

  Args:
    key: of the searches' starts.
    equations: of a step.
    own: [B] the own share of the activation, which is taken off.
    rounds, searches: of `expectation_propagation`.
  """
  with jax.default_matmul_precision('highest'):
    observed = equations.observed - equations.basis.T @ own
    noise = (own**2).sum() / jnp.maximum(equations.real.sum(), 1.0)
    t = propagate(equations.basis, observed, noise, rounds)
    if not searches:
      return t
    found, sure = _search(key, equations, observed, noise, 2 * rounds, searches)
  return jnp.where(sure, found, t)


def propagate(
  basis: chex.Array, observed: chex.Array, noise: chex.Array, rounds: int
) -> chex.Array:
  """Returns posterior means [B] of labels under -basis^T t / 2 + e = observed.

  Args:
    basis: [B, r], orthonormal or zero.
    observed: [r].
    noise: variance of e, [].
    rounds: of expectation propagation.
  """

  def step(number, beliefs):
    falling = _DOUBT - (_DOUBT - 1.0) * number / (rounds / 2)
    return _advance(
      basis, observed, noise, beliefs, jnp.maximum(falling, 1.0), damping=0.4
    )

  first = _start(jnp.zeros(len(basis), basis.dtype))
  return jax.lax.fori_loop(0, rounds, step, first).t


def _start(field):
  mean = jnp.tanh(field)
  return Beliefs(mean, jnp.maximum(1 - mean**2, 1e-6), field, mean)


def _advance(basis, observed, noise, beliefs, doubt, damping):
  """Runs one round: equations under Gaussian beliefs, then binary labels."""
  rows, m, v = -basis / 2, beliefs.m, beliefs.v
  unused = ~(basis != 0).any(0)
  square = rows.T @ (v[:, None] * rows) + jnp.diag(1e-10 + noise + unused)
  inverse = jnp.linalg.inv(square)
  pull = rows @ (inverse @ (observed - rows.T @ m))
  share = v * ((rows @ inverse) * rows).sum(-1)
  share = jnp.clip(share, _LEAST, 1 - _LEAST)
  extrinsic, tau = m + v * pull / share, doubt * v * (1 - share) / share
  evidence = jnp.clip(extrinsic / tau, -30, 30)
  t = jnp.tanh(evidence + beliefs.field)
  variance = jnp.maximum(1 - t**2, _LEAST)
  # What turns N(extrinsic, tau) into those two moments; where they are no
  # narrower than the evidence there is none.
  precision = 1 / variance - 1 / tau
  narrower = precision > 1
  new_v = 1 / jnp.where(narrower, precision, 1.0)
  new_m = jnp.where(narrower, t + new_v / tau * (t - extrinsic), 0.0)
  damp = lambda new, old: damping * new + (1 - damping) * old
  return Beliefs(damp(new_m, m), damp(new_v, v), beliefs.field, t)


def _search(key, equations, observed, noise, rounds, searches):
  """Returns labels that solve the equations, and [B] which are sure.

  A label is sure where all solutions that were found share it, two or more: of
  a table of few values, or with rows alike, several solve the equations.
  """
  basis = equations.basis
  exact = basis.dtype == jnp.float64
  most = _SOLVED[0 if exact else 1] * jnp.linalg.norm(observed)
  rank = (basis != 0).any(0).sum()
  # Of 2^B labels as many solve r equations to that digit by chance.
  bits = -jnp.log2(_SOLVED[0 if exact else 1]) * rank
  worthwhile = (equations.real.sum() < bits) & (rank < equations.real.sum())
  widest = 1 - jnp.finfo(basis.dtype).eps

  def look(number):
    start = jax.random.normal(jax.random.fold_in(key, number), (len(basis),))
    field = _JITTER * start.astype(basis.dtype) * (number > 0)

    def step(_, beliefs):
      beliefs = _advance(basis, observed, noise, beliefs, 1.0, damping=0.3)
      t = jnp.clip(beliefs.t, -widest, widest)
      field = (1 - _PULL) * beliefs.field + _PULL * jnp.arctanh(t)
      return beliefs._replace(field=field)

    t = jax.lax.fori_loop(0, rounds, step, _start(field)).t
    signs = jnp.where(t < 0, -1.0, 1.0).astype(basis.dtype)
    left = observed + basis.T @ (signs * equations.real) / 2
    return signs, jnp.linalg.norm(left) < most

  def run():
    signs, solved = jax.lax.map(look, jnp.arange(searches))
    total, count = solved.astype(basis.dtype) @ signs, solved.sum()
    tells = jnp.linalg.norm(basis, axis=1) > most  # a row of zeros does not
    return jnp.sign(total), (jnp.abs(total) == count) & (count > 1) & tells

  nothing = jnp.zeros(len(basis), basis.dtype), jnp.zeros(len(basis), bool)
  return jax.lax.cond(worthwhile, run, lambda: nothing)
