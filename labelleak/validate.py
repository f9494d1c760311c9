"""Checks of arguments, before tracing: the value, the rule and the remedy.

Each raises `InputError` in one line, such as

  >>> within('compress: drop', 1.5, '[0, 1]', 'it is the share set to zero')
  Traceback (most recent call last):
    ...
  labelleak.base.InputError: compress: drop=1.5 must be in [0, 1]; it is the \
share set to zero.

`name` says whose argument it is; no check lets a NaN, a bool or text pass for a
number.
"""

from collections.abc import Collection
import math
import numbers
from typing import Any

from labelleak import spec
from labelleak.base import InputError


def positive(name: str, value: Any, remedy: str = '') -> None:
  """Refuses what is no number above 0; infinity is one."""
  _check(name, value, 'positive', remedy, lambda v: v > 0)


def at_least(name: str, value: Any, low: float, remedy: str = '') -> None:
  """Refuses what is no finite number of at least `low`."""
  rule = f'a finite number of at least {low:g}'
  _check(name, value, rule, remedy, lambda v: low <= v < math.inf)


def within(name: str, value: Any, interval: str, remedy: str = '') -> None:
  """Refuses what is no number in an interval, such as '[0, 1)'."""
  low, high = map(float, interval[1:-1].split(','))

  def holds(v):
    ends = interval[0] == '[' and v == low, interval[-1] == ']' and v == high
    return low < v < high or any(ends)

  _check(name, value, f'in {interval}', remedy, holds)


def whole(
  name: str,
  value: Any,
  low: int,
  high: float = math.inf,
  remedy: str = '',
) -> None:
  """Refuses what is no whole number from `low` to `high`."""
  bound = f'of at least {low}' if high == math.inf else f'in {low}..{high}'
  rule = f'a whole number {bound}'
  _check(name, value, rule, remedy, lambda v: low <= v <= high and v % 1 == 0)


def one_of(name: str, value: Any, options: Collection[Any]) -> None:
  """Refuses what is none of the options."""
  if value not in tuple(options):  # a value need not be hashable
    listed = ', '.join(map(repr, options))
    raise InputError(f'{name}={value!r} is unknown; use one of: {listed}.')


def _check(name, value, rule, remedy, holds):
  """Refuses what is no number or does not hold."""
  number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if number and isinstance(value, numbers.Integral) and abs(value) >= 2**31:
    number, rule = False, f'{rule}, of 32 bits'
  if not (number and holds(value)):
    end = f'; {remedy}' if remedy else ''
    text = repr(spec.plain(value))  # a ConfigDict has lines
    raise InputError(f'{name}={text} must be {rule}{end}.')
