"""Specs: a name and its arguments, as configs and rows write them.

`{'name': 'clip', 'max_norm': 0.1}` names a constructor (see `registry`) and
what it is called with. A spec stays a structure from the config to the row;
text is made here, where it is shown, and never read back.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from ml_collections import ConfigDict


class Named(TypedDict):
  """What every spec has, beside its arguments."""

  name: str


Spec = Annotated[Mapping[str, Any], Named]


def plain(value: Any) -> Any:
  """Returns a config value as JSON holds it: dicts and lists, no ConfigDict.

  >>> plain((ConfigDict(dict(name='clip')), 1))
  [{'name': 'clip'}, 1]
  """
  if isinstance(value, Mapping | ConfigDict):
    return {k: plain(v) for k, v in value.items()}
  if isinstance(value, tuple | list):
    return [plain(v) for v in value]
  return value


def arguments(spec: Spec) -> dict[str, Any]:
  """Returns the arguments of a spec's constructor: all but its name, the
  grants of an attack (`known`) and the place of a defense (`at`).
  """
  return {k: v for k, v in spec.items() if k not in ('name', 'known', 'at')}


def describe(value: Any) -> Any:
  """Returns a config value as a table shows it.

  >>> describe(dict(name='vit.tiny', depth=4))
  'vit.tiny(depth=4)'
  """
  if isinstance(value, tuple | list):
    return [describe(v) for v in value]
  if not isinstance(value, Mapping | ConfigDict):
    return value
  name = value.get('name', '')
  listed = ', '.join(
    f'{k}={describe(v)}' for k, v in sorted(value.items()) if k != 'name'
  )
  return f'{name}({listed})' if name and listed else name or listed


def describe_point(point: Mapping[str, Any]) -> str:
  """Returns a sweep point in one line.

  >>> describe_point({'batch_size': 64, 'lr': 0.1})
  'batch_size=64, lr=0.1'
  """
  return ', '.join(f'{k}={describe(v)}' for k, v in point.items()) or 'default'
