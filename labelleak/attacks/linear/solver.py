"""Labels from every gradient, by expectation propagation.

`solve` sets up the equations (`equations`) and runs rounds of beliefs on the
labels (`propagation`) until they stand still.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from labelleak import defenses, validate, vfl
from labelleak.attacks.linear import equations, propagation, shifts
from labelleak.base import Attack, attack

_NAME = 'linear.expectation_propagation'


class Solution(NamedTuple):
  """What `solve` finds."""

  y: chex.Array  # [B, K] posterior probability of each label
  s: chex.Array  # [B, K] softmax of the summed logits
  residual: chex.Array  # [] RMS of the equations that (s - y) / B leaves
  rank: chex.Array  # [] equations used, after whitening
  share: chex.Array  # [] share of the unknowns that they determine, in [0, 1]
  rounds: chex.Array  # [] rounds until the labels stood still
  unexplained: chex.Array  # [] of B g, by labels and their doubt; 0 is all
  size: chex.Array  # [] of B g squared; 1 is as own softmaxes would make it


def expectation_propagation(
  *,
  rounds: int = 30,
  steps: int = 25,
  ridge: float = 0.03,
  damping: float = 0.7,
  excess: float = 1.0,
  code: Sequence[dict] = (),
) -> Attack:
  """Builds the attack that solves every gradient for labels; see `solve`.

  Scores are posterior label probabilities [B, K]. Nothing need be known of the
  bottom but that it can be differentiated: batch norm, which lets the rows of a
  batch see each other, included.

  Args:
    rounds: of expectation propagation, at most; it stops when labels do. The
      more there are, the slower beliefs may sharpen.
    steps: of conjugate gradients in a round.
    ridge: on the whitened equations, as a share of their mean variance.
    damping: how far a round moves, in (0, 1].
    excess: equations for each unknown; leaves of the model are read from the
      output backwards until there are as many, or none is left.
    code: what the attacker takes for the active party's label code, as in a
      config: how one is made is no secret, what it drew is. Rows of a CoAE with
      confusion come to dict(name='complement').

  Raises:
    InputError: an option out of range.
  """
  validate.whole('rounds', rounds, 1)
  validate.whole('steps', steps, 1)
  validate.positive('ridge', ridge)
  validate.within('damping', damping, '(0, 1]', 'use 0.7')
  validate.positive('excess', excess)

  def infer(key, view, known):
    solution = solve(
      key,
      view,
      known,
      rounds=rounds,
      steps=steps,
      ridge=ridge,
      damping=damping,
      excess=excess,
      rows=encode(code, known.num_classes),
    )
    return solution.y

  return attack(infer, name=_NAME, kind='vertical', needs=('bottom',))


def encode(code: Sequence[dict], num_classes: int) -> chex.Array:
  """Returns what labels of all classes look like under a code, [K, K].

  Raises:
    InputError: no such code.
  """
  with jax.ensure_compile_time_eval():
    assumed = defenses.build(code, num_classes, only='labels').labels
    return assumed.encode(jax.random.key(0), jnp.eye(num_classes))


def solve(
  key: chex.PRNGKey,
  view: vfl.View,
  known: vfl.Known,
  *,
  rounds: int = 30,
  steps: int = 25,
  ridge: float = 0.03,
  damping: float = 0.7,
  excess: float = 1.0,
  rows: Optional[chex.Array] = None,
) -> Solution:
  """Propagates expectations between the equations and labels.

  The equations A(S + E - Y) = B g, whitened, hold S = softmax(h + c): own
  logits h and the constant c [K] by which the other parties' differ, learned
  along the way. What is left of those, E, is Gaussian; its variance follows by
  EM. Rows of Y are among `rows`, all labels alike beforehand. A round

  1. solves the equations under Gaussian beliefs N(m_b, v_b) on the rows of Y,
     by a few steps of conjugate gradients;
  2. takes from each row its own belief (a division by the share of the row that
     the equations determine, found from one random probe), which leaves what
     all else says of it: Y_b + N(0, tau_b);
  3. multiplies that by the prior of K labels, a softmax, with tau enlarged by a
     doubt of at least 2 that falls to 1 until the last round, and turns the
     result into the row's next belief: slow decisions are better ones.

  Undecided rows are thereby told by equations that decided rows no longer
  occupy, which carries the attack past the rank: at (K - 1) B unknowns about a
  quarter as many effective equations suffice.

  Options are those of `expectation_propagation`; `rows` [K, K] are what a label
  of each class looks like, None: one-hot.

  Raises:
    InputError: logits that are not K wide.
  """
  view, known = equations.read_logits(_NAME, view, known)
  equation_key, probe_key = jax.random.split(key)
  with jax.default_matmul_precision('highest'):
    eq = equations.whiten(equation_key, view, known, excess=excess)
    shift = shifts.find(eq, view.h)
    problem = propagation.Problem(
      eq=eq,
      shift=shift,
      rows=jnp.eye(known.num_classes) if rows is None else rows,
      key=probe_key,
      rounds=rounds,
      steps=steps,
      ridge=ridge,
      damping=damping,
    )
    end = propagation.run(problem)
    s = shifts.softmax(shift, end.shift)
    mean = end.y @ problem.rows
    misfit = eq.observed - eq.apply(s - mean)
    spread = end.y @ (problem.rows**2).sum(-1) - (mean**2).sum(-1)
  return Solution(
    y=end.y,
    s=s,
    residual=jnp.sqrt(jnp.mean(misfit**2)),
    rank=eq.rank,
    share=end.share,
    rounds=end.round,
    unexplained=_measure_excess(eq, misfit, spread),
    size=_measure_size(eq, view.h),
  )


def _measure_excess(eq, misfit, spread):
  """Measures the share of B g that labels, and their doubt, leave unexplained.

  A misfit that is as large as the spread [B] of the labels makes it is none:
  its square is chi-squared, and two of its deviations are allowed for.
  """
  rank = jnp.maximum(eq.rank, 1)
  doubt = jnp.vdot(spread, eq.gain) * (1 + 2 * jnp.sqrt(2 / rank))
  excess = jnp.maximum(jnp.sum(misfit**2) - doubt, 0.0)
  return jnp.sqrt(excess / jnp.sum(eq.observed**2))


def _measure_size(eq, h):
  """Measures B g squared beside that of S - Y if S were the own softmax.

  A trained model is right on most rows, and its gradient is small.
  """
  squared = (jax.nn.softmax(h) ** 2).sum(1) + 1 - 2 / h.shape[1]
  return jnp.sum(eq.observed**2) / jnp.maximum(
    jnp.vdot(eq.gain, squared), 1e-30
  )
