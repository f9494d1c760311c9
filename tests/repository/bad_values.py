"""Bad values for every field of a config, drawn by the type of the good one.

`draw` yields whole configs, each with one field replaced, wherever it is: at
the top, in a dict, in an entry of a tuple, in a value of the sweep.
"""

from collections.abc import Iterator, Mapping
import inspect
import math
from typing import Any, NamedTuple

from ml_collections import ConfigDict
import numpy as np

from labelleak import registry, sweep

_NUMBERS = (math.nan, math.inf, -math.inf, -1, 0, 2**63, 1e30, 0.5, -0.5)
_OTHERS = ('x', '', None, (), {}, True, ('x',), {'name': 'x'}, [1, 2])
_SPECS = (
  {},
  {'name': ''},
  {'name': 3},
  {'name': None},
  {'name': 'x.y'},
  {'name': '..'},
  {'name': 'subprocess.getoutput', 'cmd': 'touch HARNESS'},
  {'nmae': 'x'},
  'x',
  3,
  ('x',),
)
_TEXTS = ('x', 'x' * 300, '../..', 'a\nb', '\0')
# Attacks of both kinds of FL, and what is none.
ATTACKS = (
  'counts.llbg',
  'counts.llg',
  'linear.full',
  'scores.direct',
  'scores.norm',
  'inversion.batch',
  'completion.passive',
  'completion.active',
  'decoding.logits',
  'backdoor.backdoor',
  'reconstruction.deep_leakage',
)

_SLOW = 'coae.', 'completion.texts.'
# What constructors need, and what a config does not set.
_GIVEN = dict(
  shape=(8, 8, 1),
  num_classes=10,
  data_dir=None,
  columns=((0,), (1,)),
  at=((0, 0),),
  max_norm=1.0,
  dataset='absent',
  path='absent',
)


class Draw(NamedTuple):
  """A config with one bad value.

  Attributes:
    where: path of the field, as a command line writes it.
    value: what it is now.
    config: all of it.
  """

  where: str
  value: Any
  config: ConfigDict


def paths(tree: Any, path: tuple = ()) -> Iterator[tuple]:
  """Yields the path of every node below the root of plain data."""
  if path:
    yield path
  if isinstance(tree, Mapping):
    for key, value in tree.items():
      yield from paths(value, (*path, key))
  elif isinstance(tree, tuple):
    for i, value in enumerate(tree):
      yield from paths(value, (*path, i))


def draw(config: ConfigDict, num: int, seed: int) -> Iterator[Draw]:
  """Yields `num` configs with a bad value each, every field before any twice.

  A value outside of the sweep is one of a point, which the sweep cannot set to
  another.

  Args:
    config: a good one.
    num: how many.
    seed: of the fields and values.
  """
  rng = np.random.default_rng(seed)
  trees = [_plain(full) | dict(sweep=()) for _, full in sweep.grid(config)]
  swept = dict(sweep=_plain(config.sweep))
  places = [*paths(trees[0] | swept)]
  order = []
  while len(order) < num:
    order += [places[i] for i in rng.permutation(len(places))]
  for path in order[:num]:
    tree = _plain(config) if path[0] == 'sweep' else trees[0]
    values = list(bad_values(path, _get(tree, path)))
    value = values[rng.integers(len(values))]
    tree = _narrow(_set(tree, path, value), path)
    yield Draw('.'.join(map(str, path)), value, ConfigDict(tree))


def bad_values(path: tuple, good: Any) -> Iterator[Any]:
  """Yields values that do not fit where `good` stands."""
  if path[-1] == 'name' and path[0] == 'attacks':
    yield from ATTACKS
  yield from _OTHERS
  if isinstance(good, bool):
    yield from (2, 'yes', 0.5)
  elif isinstance(good, int | float):
    yield from _NUMBERS
    yield from _NUMBERS[:-2]
  elif isinstance(good, str):
    yield from _TEXTS
    yield from (3, math.nan)
  elif isinstance(good, Mapping):
    yield from _SPECS
    yield dict(good, unknown=1)
    yield {k: v for k, v in good.items() if k != 'name'}
    yield from (dict(good, **{k: 'x'}) for k in good)
    yield dict(good, **{k: list(good) for k in good})
    yield dict(good, num_classes=3, shape=(2,), split='x', width='x', seed=-1)
  elif isinstance(good, tuple):
    yield from (3, *((spec,) for spec in _SPECS), (math.nan,), (-1, 2**63))
    yield (*good, *good)
    yield from ((dict(name=name),) for name in ATTACKS[::3])
  else:
    yield from (*_NUMBERS, *_TEXTS, *_SPECS)


def _narrow(tree, path):
  """Returns a config whose sweep has the one value that `path` leads to."""
  if path[0] != 'sweep' or len(path) < 4:
    return tree
  _, axis, first, second = path[:4]
  entry = tree['sweep'][axis]
  if isinstance(entry[first], Mapping):  # dicts alone
    return tree | dict(sweep=((entry[first],),))
  return tree | dict(sweep=((entry[0], (entry[1][second],)),))


def _plain(value):
  """Returns a config as dicts and tuples, with copies of all."""
  if isinstance(value, Mapping | ConfigDict):
    return {k: _plain(value[k]) for k in value}
  if isinstance(value, tuple | list):
    return tuple(map(_plain, value))
  return value


def _get(tree, path):
  for key in path:
    tree = tree[key]
  return tree


def _set(tree, path, value):
  """Returns plain data with another value at a path."""
  if not path:
    return value
  key, *rest = path
  if isinstance(tree, Mapping):
    return {k: _set(v, rest, value) if k == key else v for k, v in tree.items()}
  return tuple(
    _set(v, rest, value) if i == key else v for i, v in enumerate(tree)
  )


def draw_arguments(package: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields constructors of a package, with each argument in turn a bad one.

  Those that train or make keys whatever they are given are left out.
  """
  for name in registry.names(package):
    if name.startswith(_SLOW):
      continue
    parameters = inspect.signature(registry.find(package, name)).parameters
    keywords = {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    needs = {
      k: _GIVEN.get(k, 1) for k, p in keywords.items() if p.default is p.empty
    }
    for argument, p in keywords.items():
      good = needs.get(argument, p.default)
      for value in bad_values((argument,), good):
        if argument not in _GIVEN:
          yield name, needs | {argument: value}
