"""Poisoned batches: which rows bear the trigger, and whose gradient they take.

The attacker of Algorithm 3 (BLI paper) marks some rows with its trigger and
knows a few rows of the target class. A poisoned row i is paired with a row j
of those: i takes the gradient that comes back for j. Forms of a batch:

  paired: poisoned rows as they fall into batches; each of them has a row of the
    target class appended to the batch, as if drawn once more.
  fallen: Algorithm 3 to the letter: the partner is a row of the target class
    that fell into the same batch. There are few, so most rows have none.
  appended: as in the released code: poisoned rows leave the training set, and
    every step has two rows more, one of them and one of the target class.
  alone: poisoned rows as they fall, without partners: for attacks that need
    none, such as relabelling.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np

from labelleak import validate
from labelleak.data import plans

FORMS = 'paired', 'fallen', 'appended', 'alone'
_DRAW = 7  # sets these streams of random numbers apart from those of `plans`


class Poison(NamedTuple):
  """What an attacker does to N rows, in one form.

  Attributes:
    size: N.
    rows: [n] that bear the trigger.
    targets: [m] rows of the target class, known as such.
    form: of a batch, see the module.
    seed: of the pairing.
  """

  size: int
  rows: np.ndarray
  targets: np.ndarray
  form: str
  seed: int


class Plan(NamedTuple):
  """Batches of steps [n]; Q rows were appended. Of one step: without n.

  Attributes:
    index: [n, B + Q] rows of the data.
    mask: [n, B + Q].
    pairs: [n, B + Q] place of the partner in the batch, or -1.
  """

  index: np.ndarray
  mask: np.ndarray
  pairs: np.ndarray


def choose(
  y: np.ndarray,
  target: int,
  *,
  count: Optional[int],
  targets: int,
  form: str,
  seed: int,
  bearers: Optional[np.ndarray] = None,
) -> Poison:
  """Draws the rows of an attacker, who knows no label but the targets'.

  Args:
    y: [N] labels, for the rows of the target class.
    target: class.
    count: rows to mark, of any class; None takes all that bear the trigger.
    targets: rows of the target class that the attacker knows, at least 1.
    form: see the module.
    seed: of the draw, and of the pairing later.
    bearers: [N] bool, rows that bear the trigger by nature; none else is drawn.

  Raises:
    InputError: an unknown form, or numbers that the data cannot give.
  """
  validate.one_of('poison.form', form, FORMS)
  rng = np.random.default_rng((seed, _DRAW))
  of_target = np.flatnonzero(y == target)
  rows = f'the rows of class {target}'
  validate.whole('poison.targets', targets, 1, len(of_target), rows)
  known = rng.choice(of_target, targets, replace=False)
  free = np.ones(len(y), bool) if bearers is None else np.array(bearers)
  free[known] = False
  free = np.flatnonzero(free)
  count = len(free) if count is None else count
  rows = 'the rows that can bear the trigger'
  validate.whole('poison.count', count, 1, min(len(free), len(y) - 1), rows)
  rows = rng.choice(free, count, replace=False)
  return Poison(len(y), np.sort(rows), np.sort(known), form, seed)


def clean_rows(poison: Poison) -> np.ndarray:
  """Lists the rows that are trained on epoch by epoch."""
  rows = np.arange(poison.size)
  return np.setdiff1d(rows, poison.rows) if poison.form == 'appended' else rows


def num_appended(
  poison: Poison, batch_size: int, steps: int, *, seed: Optional[int]
) -> int:
  """Counts Q, rows to append so that each batch of `steps` steps has room."""
  if poison.form != 'paired':
    return 2 if poison.form == 'appended' else 0
  numbers = np.arange(max(steps, 1)) + 1
  index, mask = plans.epochs(poison.size, batch_size, numbers, seed=seed)
  return int((np.isin(index, poison.rows) & (mask > 0)).sum(-1).max())


def batches(
  poison: Poison,
  batch_size: int,
  numbers: Sequence[int],
  appended: int,
  *,
  seed: Optional[int],
) -> Plan:
  """Plans the batches of the steps `numbers` [n], from 1; see `plans.epochs`.

  B, `batch_size`, is without the Q `appended` rows, from `num_appended`.
  """
  rows = clean_rows(poison)
  index, mask = plans.epochs(len(rows), batch_size, numbers, seed=seed)
  steps = [
    _FORMS[poison.form](poison, rows[i], m, appended, int(number))
    for i, m, number in zip(index, mask, numbers)
  ]
  return Plan(
    index=np.stack([step.index for step in steps]),
    mask=np.stack([step.mask for step in steps]),
    pairs=np.stack([step.pairs for step in steps]),
  )


def _pair_all(poison, index, mask, appended, number):
  places = np.flatnonzero(np.isin(index, poison.rows) & (mask > 0))
  rng = np.random.default_rng((poison.seed, _DRAW, number))
  drawn = rng.choice(poison.targets, len(places))
  partners = len(index) + np.arange(len(places))
  padding = np.full(appended - len(places), index[0])
  index = np.concatenate([index, drawn, padding])
  mask = np.concatenate([mask, drawn * 0 + 1, padding * 0]).astype(mask.dtype)
  return Plan(index, mask, _pairs(len(index), places, partners))


def _pair_fallen(poison, index, mask, appended, number):
  locate = lambda rows: np.flatnonzero(np.isin(index, rows) & (mask > 0))
  places, partners = locate(poison.rows), locate(poison.targets)
  rng = np.random.default_rng((poison.seed, _DRAW, number))
  num = min(len(places), len(partners))  # a row steals one identity only
  places = rng.permutation(places)[:num]
  partners = rng.permutation(partners)[:num]
  return Plan(index, mask, _pairs(len(index), places, partners))


def _append_pair(poison, index, mask, appended, number):
  rng = np.random.default_rng((poison.seed, _DRAW, number))
  drawn = rng.choice(poison.rows), rng.choice(poison.targets)
  size = len(index)
  index = np.concatenate([index, drawn])
  mask = np.concatenate([mask, np.ones(appended, mask.dtype)])
  return Plan(index, mask, _pairs(len(index), size, size + 1))


def _pair_none(poison, index, mask, appended, number):
  return Plan(index, mask, _pairs(len(index), [], []))


def _pairs(size, places, partners):
  """Pairs [size]: `partners` at `places`, -1 elsewhere."""
  pairs = np.full(size, -1)
  pairs[np.asarray(places, int)] = partners
  return pairs


_FORMS = dict(zip(FORMS, (_pair_all, _pair_fallen, _append_pair, _pair_none)))
