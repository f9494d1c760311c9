"""Differential privacy of a Gaussian release of clipped vectors.

A step releases a vector of norm at most `max_norm` (a row of a cut gradient
behind `clip_per_example`, a client's update behind `clip`) plus N(0, stddev^2)
in every entry. Neighbours differ in one vector of each step, replaced by any
other: the sensitivity is 2 max_norm, and nothing is gained by sampling, as both
sides know which rows are in a batch. In vertical FL `steps` is the number of
epochs, as other rows are other vectors; of a client it is how many messages it
sends: clipping acts on the mean of a mini-batch, whatever its size.

The guarantee is for what the link releases, given everything else. It covers a
label only if nothing else that depends on it reaches the receiver: an active
party that trains its own bottom or top on clean gradients moves the gradients
of other rows in later steps, and that is not counted.
"""

from collections.abc import Sequence
import math
from typing import Optional

from labelleak import validate
from labelleak.defenses.strengths import Strength

_DELTA = 1e-5  # of what rows tell


def epsilon(
  stddev: float, max_norm: float, *, steps: int, delta: float
) -> float:
  """Computes the epsilon of (epsilon, delta)-DP after `steps` releases.

  They compose to one of stddev / sqrt(steps), whose epsilon is exact (Balle and
  Wang 2018, theorem 8).

  >>> round(epsilon(4.0, 1.0, steps=10, delta=1e-5), 2)
  7.51

  Args:
    stddev: of the noise in every entry; 0 gives infinity.
    max_norm: of the vectors, on the scale that the noise is added to: where
      the mean over B rows is released, that is the clip over B.
    steps: how often.
    delta: below one over the number of examples.

  Raises:
    InputError: a value out of its range.
  """
  unclipped = 'without a clip there is no guarantee'
  validate.at_least('epsilon: stddev', stddev, 0)
  validate.within('epsilon: max_norm', max_norm, '(0, inf)', unclipped)
  validate.whole('epsilon: steps', steps, 0)
  validate.within('epsilon: delta', delta, '(0, 1)')
  if steps == 0 or stddev == 0:
    return math.inf if steps else 0.0
  import dp_accounting  # seconds, which only a run that asks should pay

  multiplier = stddev / (2 * max_norm * steps**0.5)
  return float(dp_accounting.get_epsilon_gaussian(multiplier, delta))


def gaussian_release(
  strengths: Optional[Sequence[Strength]],
) -> Optional[tuple[float, float]]:
  """Returns (stddev, max_norm) of a clip and then gaussian noise.

  None for any other chain: what comes before the clip or between the two may
  carry one row's label into another row, what comes after may read the labels.
  """
  if [kind for kind, _ in strengths or ()] not in (
    ['clip', 'gaussian'],
    ['clip_per_example', 'gaussian'],
  ):
    return None
  (_, max_norm), (_, stddev) = strengths
  return stddev, max_norm


def facts(
  strengths: Optional[Sequence[Strength]], steps: int
) -> dict[str, float]:
  """Returns `epsilon` at delta 1e-5 after `steps` releases, if bounded."""
  stddev, max_norm = gaussian_release(strengths) or (0.0, math.inf)
  if not (steps and stddev and max_norm < math.inf):
    return {}
  spent = epsilon(stddev, max_norm, steps=steps, delta=_DELTA)
  return dict(epsilon=float(f'{spent:.3g}'))
