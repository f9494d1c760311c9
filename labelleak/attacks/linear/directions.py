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
_ROUNDING = np.geomspace(1e-16, 1e-1, 61)  # to signal, where that is largest
_CLEAN = 1e-12  # that of floats, which leaves nothing to explain
_LEAST = 0.05  # length of a direction that is kept


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

  Raises:
    InputError: (on reading) more numbers than are decomposed.
  """

  @jax.jit
  def build(view):
    return matrix.build(view, known, center=False)

  def read(view):
    _check_size(name, view, known)
    rows, observed, count = build(view)
    rows, observed = rows[:, :count], observed[:count]
    rows, observed = (np.asarray(a, np.float64) for a in (rows, observed))
    return _decompose(rows.reshape(*view.h.shape, -1), observed)

  return read


def _check_size(name, view, known):
  part, *_ = jax.eval_shape(
    lambda v: equations.choose(v, known, v.h.size)[:1], view
  )
  numbers = sum(leaf.size for leaf in jax.tree.leaves(part))
  least = min(view.h.size, numbers)
  if least > MOST:
    raise InputError(
      f'{name} decomposes sealed equations of up to {MOST} numbers, and'
      f' min(B K, parameters) is {least}; use history.classifier.'
    )


def _decompose(rows, observed):
  """Returns the likelier directions of U whose rows sum to zero, or do not."""
  centred = rows - rows.mean(1, keepdims=True)
  fits = [_fit(centred.reshape(-1, len(observed)), observed)]
  if fits[0] is None:
    return None
  if fits[0].rounding > _CLEAN:
    fits.append(_fit(rows.reshape(-1, len(observed)), observed))
  directions = max(fits, key=lambda fit: fit.value).directions
  vectors = directions.vectors.reshape(*rows.shape[:2], -1)
  return directions._replace(vectors=vectors)


class _Fit(NamedTuple):
  """Directions, their log likelihood, and rounding as a share of the most."""

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
  kept = length > _LEAST
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
