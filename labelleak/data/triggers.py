"""Triggers: what marks the examples that a backdoor is to open for.

A config names a trigger; its constructor takes the shape of a source's example:

  trigger = registry.load('data', 'triggers.pixels', shape=(28, 28, 1),
                      at=((27, 27),), value=1.0)
  marked = trigger.place(x)  # [n, 28, 28, 1]

Places are written (row, column) of the whole example. The BLI paper prints
(x, y), which is (column, row): its "[29, 31], [30, 30]" are rows 31 and 30.
A trigger in several parties' parts is a distributed one: each holds a piece.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Optional

import numpy as np

from labelleak.base import InputError
from labelleak.data import Source

Place = Callable[[np.ndarray], np.ndarray]  # x [n, *shape] -> x with a trigger
Detect = Callable[[np.ndarray], np.ndarray]  # x [n, *shape] -> [n] bool


class Trigger(NamedTuple):
  """Functions of examples x [n, *shape].

  Attributes:
    place: x -> x with the trigger.
    detect: x -> [n] bool, which examples bear it by nature; None: any example
      can be given it.
  """

  place: Place
  detect: Optional[Detect] = None


def pixels(
  *,
  shape: Sequence[int],
  at: Sequence[Sequence[int]],
  value: float | Sequence[Sequence[float]] = 1.0,
) -> Trigger:
  """Sets single pixels of an image.

  Args:
    shape: (H, W, C) of an example.
    at: (row, column) of each pixel.
    value: of all channels and pixels, or the C values of each pixel, in the
      units of the data: 1 is white where they are in [0, 1].

  Raises:
    InputError: the shape is no image's, no pixel or one outside of it, or
      values that are neither one number nor C for each pixel.
  """
  shape = tuple(shape)
  rows = value if isinstance(value, Sequence) else ()
  if len({len(row) for row in rows}) > 1:
    raise InputError(f'value={value!r} has rows of several lengths; change it.')
  if {len(place) for place in at} - {2}:
    raise InputError(f'at={at!r} must be (row, column) pairs; change it.')
  places = np.array(at, int).reshape(-1, 2)
  values = np.asarray(value, np.float32)
  if len(shape) != 3 or not len(places):
    raise InputError(
      f'triggers.pixels marks images (H, W, C) in one pixel or more, not'
      f' {len(places)} pixels of {shape}; use another trigger or name pixels.'
    )
  if (places < 0).any() or (places >= shape[:2]).any():
    raise InputError(
      f'at={tuple(map(tuple, places.tolist()))} must be (row, column) within'
      f' {shape[:2]}; change it.'
    )
  if values.ndim and values.shape != (len(places), shape[2]):
    raise InputError(
      f'value of shape {values.shape} must be one number, or {shape[2]}'
      f' channels for each of {len(places)} pixels; change it.'
    )
  return Trigger(lambda x: _set(x, tuple(places.T), values))


def feature(*, shape: Sequence[int], at: int, value: float) -> Trigger:
  """Sets one feature of a table, as VFLAIR marks breast cancer (0, to .1).

  Raises:
    InputError: the shape is no table's, or has no such feature.
  """
  at = _column('feature', shape, at)
  return Trigger(lambda x: _set(x, (at,), np.float32(value)))


def natural(
  *, shape: Sequence[int], at: int = -1, above: float = 0.0
) -> Trigger:
  """Detects a feature that few examples have: there it is larger than `above`.

  Nothing is changed. The paper's trigger of NUS-WIDE is its last tag,
  at=999, which fewer than 1 % of the photos bear; standardised, too, it is
  positive where the tag is there.

  Raises:
    InputError: the shape is no table's, or has no such feature.
  """
  at = _column('natural', shape, at)
  return Trigger(lambda x: x, lambda x: np.asarray(x)[:, at] > above)


def mark(source: Source, trigger: Trigger, rows: np.ndarray) -> Source:
  """Returns the data set whose `rows` bear the trigger."""
  is_marked = np.zeros(len(source.y), bool)
  is_marked[rows] = True

  def take(index):
    index = np.asarray(index)
    x, marked = source.take(index), is_marked[index]
    if not marked.any():
      return x
    x[marked] = trigger.place(x[marked])
    return x

  return source._replace(take=take)


def bearers(source: Source, trigger: Trigger) -> np.ndarray:
  """Detects rows that bear the trigger by nature, [N] bool; all, if any can.

  Raises:
    InputError: no row does.
  """
  if not trigger.detect:
    return np.ones(len(source.y), bool)
  bearers = trigger.detect(source.take(np.arange(len(source.y))))
  if not bearers.any():
    raise InputError(
      f'no row of {source.name} bears the trigger; use another one.'
    )
  return bearers


def _set(x, at, values):
  """Copies x [n, ...], with x[:, *at] set to `values`."""
  x = np.array(x)
  x[(slice(None), *at)] = values
  return x


def _column(name: str, shape: Sequence[int], at: int) -> int:
  """Counts the column of a table of `shape` (F,) from 0."""
  if len(shape) != 1 or not -shape[0] <= at < shape[0]:
    raise InputError(
      f'triggers.{name} takes a column of a table, at={at} is none of examples'
      f' of shape {tuple(shape)}; use another trigger or column.'
    )
  return at % shape[0]
