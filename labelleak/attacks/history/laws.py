"""What a row's cut gradient says of its label under a known law of noise.

Of B U = S - Y and Laplace noise the log odds of labels are bounded: a large
entry says no more than one of 1. So sums of log odds tell nearly twice as much
as sums of entries where noise is larger than labels. S is taken for even, as it
is at first; own softmaxes in its place add what they have in common in rows
alike, and name fewer.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import numpy as np
from scipy import special

from labelleak.vfl import Known

_DRAWS = 40_000  # entries that measure a law's scale

# B U [n, K] of n rows, which says of Y - 1 / K as much, in the mean
Read = Callable[[np.ndarray], np.ndarray]


class _Law(NamedTuple):
  """A law of noise on B U, of a strength.

  Attributes:
    odds: (B U [n, K], strength) -> log odds of labels [n, K].
    slope: (strength, K) -> how much larger those of the label are, in the mean.
  """

  odds: Callable[[np.ndarray, float], np.ndarray]
  slope: Callable[[float, int], float]


def make_read(known: Known) -> Read:
  """Returns what reads a step's cut gradients [n, K], times n.

  Their own entries, with the other sign, where the last of `known.defense` is
  neither 'laplace' nor 'grad_perturb' or was not granted. What comes before it
  is taken to have changed nothing.
  """
  kind, strength = (known.defense or (('', 0.0),))[-1]
  if kind not in _LAWS or not 0 < strength < np.inf:
    return lambda u: _center(-u)
  law = _LAWS[kind]

  def read(u):
    num, classes = u.shape
    # Of cut gradients, which are those of a mean over rows.
    scale = num * strength if kind == 'laplace' else strength
    odds = law.odds(np.float64(u), scale)
    return np.float32(_center(odds) / law.slope(scale, classes))

  return read


def _weigh_laplace(u, scale):
  v = u - 1 / u.shape[1]
  return (np.abs(v) - np.abs(v + 1)) / scale


def _laplace_slope(scale, classes):
  del classes
  return 2 * (1 + scale * np.expm1(-1 / scale)) / scale


def _weigh_perturbed(u, epsilon):
  """Weighs U = S - Y + sum_c w_c (S - e_c), of w in Laplace(2 / epsilon).

  Were S even, w = x - U - Y in all entries for some x, of which nothing is
  known: it is integrated out.
  """
  eye = np.eye(u.shape[1])
  odds = [_integrate(u + label, epsilon / 2) for label in eye]
  return np.stack(odds, 1)


@functools.lru_cache(maxsize=64)
def _perturbed_slope(epsilon, classes):
  """Measures it: by draws with a label and without, of the same noise.

  Without one, odds are alike in the mean, and hold most of the scatter.
  """
  rng = np.random.default_rng(0)
  size = max(_DRAWS // classes, 100), classes
  u = _center(rng.laplace(scale=2 / epsilon, size=size))
  label = np.eye(classes)[0] - 1 / classes
  odds = _weigh_perturbed(u - label, epsilon) - _weigh_perturbed(u, epsilon)
  return float((odds[:, 0] - odds[:, 1:].mean(1)).mean())


def _integrate(ends, rate):
  """Returns log of the integral over x of exp(-rate sum_j |x - ends_j|).

  Between ends [n, K] the exponent is linear in x.
  """
  ends = np.sort(ends, 1)
  below = 2 * np.arange(1, ends.shape[1] + 1) - ends.shape[1]
  total = ends.sum(1, keepdims=True)
  value = -rate * (ends * below - 2 * ends.cumsum(1) + total)
  rise = np.abs(np.diff(value))
  top = np.maximum(value[:, 1:], value[:, :-1])
  with np.errstate(divide='ignore'):  # ends may meet
    width = np.log(np.diff(ends))
  mean = np.log(-np.expm1(-rise) / np.where(rise > 0, rise, 1.0) + (rise == 0))
  outside = value[:, [0, -1]] - np.log(rate * ends.shape[1])
  return special.logsumexp(
    np.concatenate([top + width + mean, outside], 1), axis=1
  )


def _center(a):
  return a - a.mean(-1, keepdims=True)


_LAWS = dict(
  laplace=_Law(_weigh_laplace, _laplace_slope),
  grad_perturb=_Law(_weigh_perturbed, _perturbed_slope),
)
