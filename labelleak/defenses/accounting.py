"""Differential privacy of a Gaussian release of clipped vectors.

A step releases a vector of norm at most `max_norm` (a row of a cut gradient
behind `clip_per_example`, a client's update behind `clip`) plus N(0, stddev^2)
in every entry. dp_accounting composes the steps; what it is told here is who is
a neighbour and who knows the batch:

  'every'    Neighbours differ in one vector of each step, replaced by any
             other: sensitivity 2 max_norm, nothing is gained by sampling. This
             is vertical FL, where both sides know which rows are in a batch:
             `steps` is the number of epochs, as other rows are other vectors.
             It is a client's messages, too: `steps` is how many it sends.
  'fixed'    Secret batches of a fixed size, drawn without replacement, whose
             rows are summed; `rate` is B / N. One example is replaced.
  'poisson'  Secret batches that an example joins with probability `rate`. One
             example is added or removed: sensitivity max_norm.

The guarantee is for what the link releases, given everything else. It covers a
label only if nothing else that depends on it reaches the receiver: an active
party that trains its own bottom or top on clean gradients moves the gradients
of other rows in later steps, and that is not counted.
"""

from collections.abc import Sequence
import math
from typing import Optional

from labelleak import validate
from labelleak.base import InputError
from labelleak.defenses.strengths import Strength

_SAMPLINGS = ('every', 'fixed', 'poisson')


def epsilon(
  stddev: float,
  max_norm: float,
  *,
  steps: int,
  delta: float,
  sampling: str = 'every',
  rate: float = 1.0,
) -> float:
  """Computes the epsilon of (epsilon, delta)-DP after `steps` releases.

  From privacy loss distributions, rounded up; from Renyi divergences (Wang et
  al. 2019), a looser upper bound, for 'fixed'.

  >>> round(epsilon(4.0, 1.0, steps=10, delta=1e-5), 2)
  7.51

  Args:
    stddev: of the noise in every entry; 0 gives infinity.
    max_norm: of the vectors, on the scale that the noise is added to: where
      the mean over B rows is released, that is the clip over B.
    steps: how often.
    delta: below one over the number of examples.
    sampling: 'every', 'fixed' or 'poisson', see above.
    rate: share of the examples in a batch; 1 for 'every'.

  Raises:
    InputError: a value out of its range.
  """
  unclipped = 'without a clip there is no guarantee'
  validate.at_least('epsilon: stddev', stddev, 0)
  validate.within('epsilon: max_norm', max_norm, '(0, inf)', unclipped)
  validate.whole('epsilon: steps', steps, 0)
  validate.within('epsilon: delta', delta, '(0, 1)')
  validate.within('epsilon: rate', rate, '(0, 1]')
  if sampling not in _SAMPLINGS or (sampling == 'every' and rate != 1):
    raise InputError(
      f"epsilon: sampling={sampling!r} with rate={rate}; use 'every' with rate"
      " 1, or 'fixed' or 'poisson' where the batch is secret."
    )
  if steps == 0 or stddev == 0:
    return math.inf if steps else 0.0
  return _compose(stddev / max_norm, int(steps), delta, sampling, rate)


def _compose(multiplier, steps, delta, sampling, rate):
  """Composes steps with noise of `multiplier` clipping norms."""
  import dp_accounting  # seconds, which only a run that asks should pay
  from dp_accounting import pld, rdp

  neighbours = dp_accounting.NeighboringRelation
  accountant = pld.PLDAccountant(neighbours.ADD_OR_REMOVE_ONE)
  if sampling == 'poisson':
    event = dp_accounting.GaussianDpEvent(multiplier)
    event = dp_accounting.PoissonSampledDpEvent(rate, event)
  else:
    event = dp_accounting.GaussianDpEvent(multiplier / 2)
  if sampling == 'fixed' and rate < 1:
    accountant = rdp.RdpAccountant(neighboring_relation=neighbours.REPLACE_ONE)
    # The accountant reads the ratio of the two sizes only.
    event = dp_accounting.SampledWithoutReplacementDpEvent(1.0, rate, event)
  return float(accountant.compose(event, steps).get_epsilon(delta))


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
