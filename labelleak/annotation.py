"""Checks of a config's values against the annotations of what takes them.

A constructor annotates `width: int`, an experiment `config: fields.Vertical`,
and that is their check: a value of another type is refused here, in one line,
before the call.

  >>> check('mlp.mlp: width', 'x', int)
  Traceback (most recent call last):
    ...
  labelleak.base.InputError: mlp.mlp: width='x' must be a whole number of 32 \
bits; change it.

An annotation that says nothing of plain data, such as a `Protocol`, lets
everything pass.
"""

from collections.abc import Mapping, Sequence
import inspect
import numbers
import types
import typing
from typing import Annotated, Any, NotRequired

from ml_collections import ConfigDict

from labelleak import spec
from labelleak.base import InputError

_WORDS = {
  bool: 'True or False',
  int: 'a whole number of 32 bits',
  float: 'a number',
  str: 'text',
  types.NoneType: 'None',
}


def check(name: str, value: Any, kind: Any) -> None:
  """Refuses a value of another type than an annotation says.

  Args:
    name: whose value it is, such as 'mlp.mlp: width'.
    value: of it. A NaN is no number, a bool no int, an int of more than 32 bits
      none that an array holds.
    kind: the annotation. A `TypedDict` names all fields of a dict,
      `Annotated[Mapping, ATypedDict]` some of them.

  Raises:
    InputError: names the value, or the part of it, that is not of this kind.
  """
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin is NotRequired:
    check(name, value, args[0])
  elif origin is Annotated:
    check(name, value, args[0])
    _check_fields(name, value, args[1])
  elif typing.is_typeddict(kind):
    check(name, value, Mapping)
    _check_fields(name, value, kind)
    _check_unknown(name, value, typing.get_type_hints(kind))
  elif origin in (typing.Union, types.UnionType):
    _check_union(name, value, args)
  elif not _fits(value, origin or kind):
    raise InputError(
      f'{name}={spec.plain(value)!r} must be {_describe(kind)}; change it.'
    )
  elif origin in (tuple, Sequence):
    for i, part in enumerate(value):
      check(f'{name}[{i}]', part, args[0])


def _check_fields(name, value, kind):
  """Refuses a dict that lacks a field, or has one of another type."""
  hints = typing.get_type_hints(kind, include_extras=True)
  missing = sorted(kind.__required_keys__ - {*value})
  if missing:
    raise InputError(
      f'{name} lacks {", ".join(map(repr, missing))}, which it must have; add'
      f' {"it" if len(missing) == 1 else "them"}.'
    )
  for field, hint in hints.items():
    if field in value:
      check(f'{name}.{field}', value[field], hint)


def _check_unknown(name, value, hints):
  """Refuses fields of a dict that mean nothing."""
  for field in value:
    if field not in hints:
      raise InputError(
        f'{name} has no field {field!r}; use those that it has:'
        f' {", ".join(hints)}.'
      )


def _check_union(name, value, kinds):
  """Refuses what is of none of several kinds."""
  reasons = []
  for kind in kinds:
    try:
      return check(name, value, kind)
    except InputError as e:
      reasons.append(e)
  # What has the right form says best which part of it is wrong.
  for kind, reason in zip(kinds, reasons):
    if _fits(value, _form(kind)):
      raise reason
  raise InputError(
    f'{name}={spec.plain(value)!r} must be'
    f' {" or ".join(map(_describe, kinds))}; change it.'
  )


def _form(kind):
  """Returns the outermost type of an annotation."""
  if typing.get_origin(kind) is Annotated:
    return _form(typing.get_args(kind)[0])
  if typing.is_typeddict(kind):
    return Mapping
  return typing.get_origin(kind) or kind


def _fits(value, kind):
  """Whether a value is of a type, whatever it holds."""
  if kind in (int, float):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
      return False
    if isinstance(value, numbers.Integral):
      return abs(value) < 2**31
    return kind is float and value == value  # no NaN
  if kind in (dict, Mapping):
    return isinstance(value, Mapping | ConfigDict)
  if kind in (tuple, Sequence):
    return isinstance(value, Sequence) and not isinstance(value, str)
  says_nothing = kind is Any or getattr(kind, '_is_protocol', False)
  if says_nothing or not inspect.isclass(kind):
    return True
  return isinstance(value, kind)


def _describe(kind):
  """Returns what a value must be, in words."""
  form = _form(kind)
  if form in _WORDS:
    return _WORDS[form]
  if form in (dict, Mapping):
    return 'a dict'
  if form in (tuple, Sequence):
    parts = typing.get_args(kind)[:1]
    return ' '.join(['a tuple', *(f'of {_describe(part)}' for part in parts)])
  return getattr(form, '__name__', str(form))
