"""A batch's equations, one direction of B U at a time.

The singular vectors of the equations are directions in which B U is seen by
itself, each through its own rounding. What a defense adds need not sum to zero
in a row, as S - Y does. Then it moves the gradient as no S - Y can, by far more
than rounding, and equations of rows that sum to zero would be lost in it. Which
rows were sent is told by likelihood.
"""

from collections.abc import Callable
from typing import NamedTuple, Optional

import jax
import numpy as np

from labelleak import vfl
from labelleak.attacks.linear import equations, matrix
from labelleak.base import InputError

MOST = 4096  # numbers that are decomposed: some 40 s on two cores
_NUMBERS = 2**27  # of equations written out, 1 GB
_ROUNDING = np.geomspace(1e-16, 1e-1, 61)  # to signal, where that is largest
_CLEAN = 1e-12  # as of floats: rows that sum to zero explain it all
_SHORT = 0.05  # length of a direction that is left out


class Directions(NamedTuple):
  """What the equations say of B U: of each direction one number.

  Attributes:
    vectors: [B, K, r] orthogonal directions, the shorter the more rounding.
    observed: [r] B U along them, and noise.
    variance: of B U along a direction of length 1, from labels and defense.
  """

  vectors: np.ndarray
  observed: np.ndarray
  variance: float


def make_read(
  name: str, known: vfl.Known
) -> Callable[[vfl.View], Optional[Directions]]:
  """Returns what reads the directions of a view, or None if it says nothing.

  Rows whose index is negative are padding: they pass the bottom model with the
  others, which batch norm sees, and send nothing.

  Raises:
    InputError: (on reading) more numbers than are decomposed.
  """

  @jax.jit
  def build(view):
    _check_size(name, view, known)
    return matrix.build(view, known, center=False)

  def read(view):
    rows, observed, count = map(np.asarray, build(view))
    rows = rows[:, :count].reshape(*view.h.shape, -1)
    real = np.ones(len(rows), bool)
    if view.index is not None:
      real = np.asarray(view.index) >= 0
    # The loss is a mean over real rows.
    share = real.sum() / len(rows)
    return _decompose(
      rows[real].astype(np.float64), share * observed[:count].astype(np.float64)
    )

  return read


def _check_size(name, view, known):
  part, *_ = equations.choose(view, known, view.h.size)
  numbers = sum(leaf.size for leaf in jax.tree.leaves(part))
  least = min(view.h.size, numbers)
  if least > MOST or view.h.size * numbers > _NUMBERS:
    raise InputError(
      f'{name} decomposes sealed equations of up to {MOST} numbers, {_NUMBERS}'
      f' entries in all; min(B K, M) is {least}, and B K M'
      f' {view.h.size * numbers}, of the last leaves that hold M >= B K'
      ' parameters. Use history.classifier.'
    )


def _decompose(rows, observed):
  """Returns the likelier directions of U whose rows sum to zero, or do not."""
  if not rows.size:
    return None
  centred = rows - rows.mean(1, keepdims=True)
  fits = [_fit(centred.reshape(-1, len(observed)), observed)]
  if fits[0] is None:
    return None
  if fits[0].rounding > _CLEAN:
    fits.append(_fit(rows.reshape(-1, len(observed)), observed))
  likelier = max(fits, key=lambda fit: fit.value)
  vectors = likelier.directions.vectors.reshape(*rows.shape[:2], -1)
  return likelier.directions._replace(vectors=vectors)


class _Fit(NamedTuple):
  """Directions, their log likelihood at the best variance, and rounding."""

  value: float
  rounding: float
  directions: Directions


def _fit(rows, observed):
  """Returns the likeliest directions of equations [n, M], None of no signal."""
  power, vectors, observed, rest = _diagonalise(rows, observed)
  if not (observed**2).sum() > 0 or not power.max(initial=0.0) > 0:
    return None
  square, count = observed**2, len(observed) + rest[1]
  best = -np.inf, 0.0, 0.0
  for ratio in _ROUNDING * power.max():
    spread = power + ratio
    variance = ((square / spread).sum() + rest[0] / ratio) / count
    logs = np.log(spread).sum() + rest[1] * np.log(ratio)
    value = -0.5 * (count * np.log(variance) + logs)
    best = max(best, (value, variance, ratio))
  value, variance, ratio = best
  length = np.sqrt(power / (power + ratio))
  kept = length > _SHORT
  scale = length[kept] / np.sqrt(power[kept])
  directions = Directions(
    np.float32(vectors[:, kept] * length[kept]),
    np.float32(observed[kept] * scale),
    float(variance),
  )
  return _Fit(value, ratio / power.max(), directions)


def _diagonalise(rows, observed):
  """Diagonalises equations rows^T u = observed on their smaller side.

  Returns:
    Squares of singular values [r]; their left vectors [n, r]; observed along
    the right ones [r]; what is left of its square, and of how many numbers.
  """
  tall = rows.shape[0] > rows.shape[1]
  power, vectors = np.linalg.eigh(rows.T @ rows if tall else rows @ rows.T)
  kept = power > 1e-15 * power[-1]
  power, vectors = power[kept], vectors[:, kept]
  values = np.sqrt(power)
  if tall:
    along, vectors = observed @ vectors, rows @ vectors / values
  else:
    along = (rows @ observed) @ vectors / values
  left = max((observed**2).sum() - (along**2).sum(), 0.0)
  return power, vectors, along, (left, len(observed) - len(along))
