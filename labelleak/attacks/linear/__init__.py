"""Labels from a party's own parameter gradients, by linear algebra.

With sum aggregation and mean cross entropy the cut gradient of a batch is

  U = dL/dH = (S - Y) / B,   S = softmax(H^p + H^a)

and the gradient of every bottom parameter is linear in it (see `equations`).
`last_layer` is the closed form of Liu, Zou et al. (arXiv 2112.05409), Theorem
1, which reads the classifier alone. `full` reads every leaf it needs and adds
what makes U a label: rows of Y are one-hot, S is near the own softmax.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import chex
from flax import traverse_util
import jax
import jax.numpy as jnp

from labelleak import defenses
from labelleak.attacks.linear import equations, propagation
from labelleak.base import Attack, InputError, attack

_HEAD = 'head'  # name of every classifier of `models`
_CUT = 1e-5  # singular values of the head's input below this share are zero


class Solution(NamedTuple):
  """What `solve` finds."""

  y: chex.Array  # [B, K] posterior probability of each label
  s: chex.Array  # [B, K] softmax of the summed logits
  residual: chex.Array  # [] RMS of the equations that (s - y) / B leaves
  rank: chex.Array  # [] equations used, after whitening
  share: chex.Array  # [] share of the unknowns that they determine, in [0, 1]
  rounds: chex.Array  # [] rounds until the labels stood still


class ClosedForm(NamedTuple):
  """What `closed_form` finds."""

  u: chex.Array  # [B, K] least-norm dL/dH
  rank: chex.Array  # [] of [A, 1]; u is exact where B <= rank


def last_layer() -> Attack:
  """Theorem 1: least squares on the classifier's gradient; scores -U [B, K].

  Every label is recovered where B <= rank of the classifier's input; see
  `closed_form`, which reports that rank.
  """

  def infer(key, view, known):
    return -closed_form(view, known).u

  return attack(infer, name='linear.last_layer', needs=('bottom',))


def full(
  *,
  rounds: int = 30,
  steps: int = 25,
  ridge: float = 0.03,
  damping: float = 0.7,
  excess: float = 1.0,
  code: Sequence[dict] = (),
) -> Attack:
  """Every gradient, K labels and the own softmax at once; see `solve`.

  Scores are posterior label probabilities [B, K]. Needs `known.bottom`, and
  nothing of the bottom but that it can be differentiated: batch norm, which
  lets the rows of a batch see each other, included.

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
  if min(rounds, steps) < 1 or not (ridge > 0 and excess > 0):
    raise InputError(
      f'rounds={rounds}, steps={steps}, ridge={ridge}, excess={excess}: all'
      ' must be positive.'
    )
  if not 0 < damping <= 1:
    raise InputError(f'damping={damping} must lie in (0, 1]; use 0.7.')

  def infer(key, view, known):
    with jax.ensure_compile_time_eval():
      eye = jnp.eye(known.num_classes)
      assumed = defenses.build(code, known.num_classes, only='labels').labels
      rows = assumed.encode(jax.random.key(0), eye)
    options = rounds, steps, ridge, damping, excess
    return solve(key, view, known, *options, rows).y

  return attack(infer, name='linear.full', needs=('bottom',))


def closed_form(view, known) -> ClosedForm:
  """Least squares on Q = A^T U and its bias row (Theorem 1).

  A [B, H] is read off the model: the derivative of the logits in direction of
  the kernel's entry (m, 0) is column m of A.

  Raises:
    InputError: logits that are not K wide, or no classifier named `head`.
  """
  _check_width(view, known, 'last_layer')
  params = traverse_util.flatten_dict(view.variables['params'])
  grads = traverse_util.flatten_dict(view.param_grads)
  paths = [p for p in params if p[-2:] == (_HEAD, 'kernel')]
  if len(paths) != 1:
    raise InputError(
      f'{len(paths)} classifiers named {_HEAD!r} among'
      f' {sorted({p[0] for p in params})}; last_layer needs one, else use'
      ' linear.full.'
    )
  path, bias = paths[0], (*paths[0][:-1], 'bias')
  kernel = params[path]

  def forward(kernel):
    tree = traverse_util.unflatten_dict({**params, path: kernel})
    return known.bottom({**view.variables, 'params': tree}, view.x, view.key)

  _, push = jax.linearize(forward, kernel)
  unit = lambda m: push(jnp.zeros_like(kernel).at[m, 0].set(1.0))[:, 0]
  inputs = jax.lax.map(unit, jnp.arange(kernel.shape[0])).T
  q = grads[path]
  if bias in grads:
    ones = jnp.ones_like(inputs[:, :1])
    inputs = jnp.concatenate([inputs, ones], 1)
    q = jnp.concatenate([q, grads[bias][None]])
  with jax.default_matmul_precision('highest'):
    left, sizes, right = jnp.linalg.svd(inputs, full_matrices=False)
    keep = sizes > _CUT * sizes[0]
    inverse = jnp.where(keep, 1 / jnp.where(keep, sizes, 1.0), 0.0)
    return ClosedForm(left @ (inverse[:, None] * (right @ q)), keep.sum())


def solve(
  key: chex.PRNGKey,
  view,
  known,
  rounds: int = 30,
  steps: int = 25,
  ridge: float = 0.03,
  damping: float = 0.7,
  excess: float = 1.0,
  rows: Optional[chex.Array] = None,
) -> Solution:
  """Expectation propagation between the equations and labels.

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

  Args:
    key: randomness of probes.
    view: `vfl.View`.
    known: `Known` with `bottom`.
    rounds, steps, ridge, damping, excess: see `full`.
    rows: [K, K] what a label of each class looks like; None: one-hot.

  Raises:
    InputError: logits that are not K wide.
  """
  _check_width(view, known, 'full')
  equation_key, probe_key = jax.random.split(key)
  with jax.default_matmul_precision('highest'):
    eq = equations.equations(equation_key, view, known, excess=excess)
    shift = propagation.find_shift(eq, view.h)
    rows = jnp.eye(known.num_classes) if rows is None else rows
    problem = propagation.Problem(
      eq, shift, rows, probe_key, rounds, steps, ridge, damping
    )
    end = propagation.run(problem)
    s = propagation.softmax(shift, end.shift)
    misfit = eq.observed - eq.apply(s - end.y)
  residual = jnp.sqrt(jnp.mean(misfit**2))
  return Solution(end.y, s, residual, eq.rank, end.share, end.round)


def _check_width(view, known, name):
  if view.h.shape[-1] != known.num_classes:
    raise InputError(
      f'linear.{name} reads logits of K={known.num_classes}, the cut is'
      f' {view.h.shape[-1]} wide; use the sum top.'
    )
