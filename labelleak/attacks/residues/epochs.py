"""The epochs of a training, pooled: what other parties cannot move is labels.

A batch that comes back holds the same rows. Between two epochs basis^T (a + u -
t / 2) changes by the own part a, which is known, and by the other parties' u,
which is linear in their columns under FATE's loss. So the changes of observed -
basis^T a span, epoch by epoch, the directions in which u can move: other
parties of F columns have no more than F. What is orthogonal to them are
equations in labels alone.
"""

from collections.abc import Callable
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import contract, vfl
from labelleak.attacks.residues import propagation, system
from labelleak.base import Attack, InputError

_NAME = 'residues.epochs'
_ROUNDS, _SEARCHES = 300, 20
_CUT = 1e-10  # directions of changes smaller than this share are none
_OUTSIDE = 1e-3  # of u's variance, what is left to all other directions
_SMOOTH = 0.5  # of a label's variance, what is linear in the own features
# Rows for each equation that is left, beyond which pooling gained nothing on
# trainings of seeds 100 and 101 of breast cancer.
_MOST = 10
_LEAST = 1e-9  # variance of a label that is sure


class Visit(NamedTuple):
  """A batch as an epoch shows it.

  Attributes:
    index: [B] its rows, -1 for padding.
    equations: of `system`.
    own: [B] the own share of the activation.
  """

  index: chex.Array
  equations: system.System
  own: chex.Array


class Memory(NamedTuple):
  """What `epochs` keeps.

  Attributes:
    known: what was granted.
    read: view -> `Visit`.
    visits: of all steps so far, in their order.
  """

  known: vfl.Known
  read: Callable[[vfl.View], Visit]
  visits: tuple[Visit, ...] = ()


def epochs(*, loss: Optional[str] = None) -> Attack:
  """Builds the residue attack on all steps of a training.

  Scores are log odds [N, 2] of all rows, the mean over the batches that a row
  was in; rows that no batch held score 0. Epochs are pooled where a batch comes
  back under a linear bottom, whose equations stay the same, in float64.

  Args:
    loss: as of `least_squares`; epochs of 'taylor' are pooled alone, whose
      residues are linear in what other parties add.

  Raises:
    InputError: no such loss. (init) `num_rows` was not granted. (observe) As of
      `least_squares`.
  """
  system.check_loss(loss)

  def init(known):
    if known.num_rows is None:
      raise InputError(
        f'{_NAME} needs num_rows, the rows of the data set; add it to Known.'
      )

    @jax.jit
    def read(view):
      equations = system.build(_NAME, view, known)
      own = system.share_own(equations, loss, known)
      return Visit(view.index, equations, own)

    return Memory(known, read)

  def observe(memory, view):
    contract.check_untraced(_NAME, view)
    view, _ = view.check(_NAME, memory.known)
    system.check(_NAME, view, memory.known)
    visit = jax.tree.map(np.asarray, memory.read(view))
    return memory._replace(visits=(*memory.visits, visit))

  def infer(key, memory, known):
    total, counts = np.zeros((known.num_rows, 2)), np.zeros(known.num_rows)
    pools = (loss or known.loss or 'taylor') == 'taylor'
    for number, visits in enumerate(_group(memory.visits)):
      t = _read_batch(jax.random.fold_in(key, number), visits, pools)
      t = np.float64(t)
      odds = np.arctanh(np.clip(t, -1 + 1e-9, 1 - 1e-9))
      real = visits[0].index >= 0
      index = visits[0].index[real]
      total[index] += np.stack([-odds, odds], -1)[real]
      counts[index] += 1
    return jnp.asarray(total / np.maximum(counts, 1)[:, None])

  return Attack(infer, observe, init, ('bottom',), 'vertical')


def _group(visits: tuple[Visit, ...]) -> list[list[Visit]]:
  """Returns the visits of each batch: of the same rows, in the same order."""
  groups = {}
  for visit in visits:
    groups.setdefault(visit.index.tobytes(), []).append(visit)
  return list(groups.values())


def _read_batch(key, visits, pools) -> np.ndarray:
  """Returns posterior means [B] of a batch's labels, from all its epochs.

  Before the first step the other parties know nothing of the labels, so that
  the first epoch is read alone where pooling has too little to offer.
  """
  first = visits[0]
  basis = first.equations.basis
  visits = visits if pools else visits[:1]
  same = [v for v in visits if np.allclose(v.equations.basis, basis, atol=1e-6)]
  own = [v.equations.observed - v.equations.basis.T @ v.own for v in same]
  directions = _find_directions(np.stack(own), first.equations)
  if directions is None or not first.own.any():
    return np.asarray(_solve(key, first.equations, first.own))
  return np.asarray(_pool(first.equations, first.own, own[0], directions))


def _find_directions(observed, equations):
  """Returns where other parties move the equations [E, r], [E - 1, r].

  None where nothing changes, the last epochs still show new directions, or too
  few are left; and in float32, whose rounding is a direction, too.
  """
  if len(observed) < 2 or observed.dtype != np.float64:
    return None
  changes = observed[1:] - observed[:1]
  _, sizes, directions = np.linalg.svd(changes, full_matrices=False)
  seen = sizes > _CUT * sizes[0]
  left = (equations.sizes > 0).sum() - seen.sum()
  if seen.all() or not seen.any() or equations.real.sum() > _MOST * left:
    return None
  return np.where(seen[:, None], directions, 0.0)


@jax.jit
def _solve(key, equations, own):
  return propagation.solve(key, equations, own, _ROUNDS, _SEARCHES)


@jax.jit
def _pool(equations, own, observed, directions):
  """Returns posterior means [B] of labels, u's `directions` set aside.

  Labels are Gaussian beforehand, and partly linear in the own features; then
  expectation propagation makes them binary. What u adds to the equations is
  Gaussian, as large as the own part along its directions.
  """
  with jax.default_matmul_precision('highest'):
    basis, real = equations.basis, equations.real
    features = basis * equations.sizes[None]
    kernel = features @ features.T
    kernel = _SMOOTH * kernel * real.sum() / jnp.trace(kernel)
    prior = kernel + jnp.diag(1 - _SMOOTH * real)
    power = (own**2).sum() / real.sum()
    unused = (equations.sizes == 0).astype(basis.dtype)
    noise = directions.T @ directions + _OUTSIDE * jnp.eye(len(unused))
    noise = power * noise + jnp.diag(unused)
    return _propagate(-basis / 2, observed, prior, noise)


def _propagate(rows, observed, prior, noise):
  """Returns means of binary labels t [B] under rows^T t + N(0, noise)."""
  inverse_prior = jnp.linalg.inv(prior)

  def step(_, sites):
    precision, shift, _ = sites
    cov = jnp.linalg.inv(inverse_prior + jnp.diag(precision))
    mean, across = cov @ shift, cov @ rows
    gain = across @ jnp.linalg.inv(rows.T @ across + noise)
    mean += gain @ (observed - rows.T @ mean)
    var = jnp.maximum(jnp.diag(cov) - (gain * across).sum(-1), 1e-12)
    rest = jnp.maximum(1 / var - precision, 1e-9)  # without the own site
    center = (mean / var - shift) / rest
    t = jnp.tanh(center * rest)
    moment = jnp.maximum(1 - t**2, _LEAST)
    new = 1 / moment - rest
    sound = new > 1e-6
    new_shift = jnp.where(sound, t / moment - center * rest, 0.0)
    new = jnp.where(sound, new, 1e-6)
    damp = lambda a, b: 0.4 * a + 0.6 * b
    return damp(new, precision), damp(new_shift, shift), t

  zeros = jnp.zeros(len(rows), rows.dtype)
  return jax.lax.fori_loop(0, _ROUNDS, step, (zeros + 1e-6, zeros, zeros))[2]
