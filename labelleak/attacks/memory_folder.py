"""Memories of attacks over time, on disk: an attack goes on where it stopped.

A memory is a tree of named tuples, tuples and dicts. Its arrays lie in a file
each, which is written once, so that a trace costs what its last steps are:
`observe` makes new arrays, and changes none in place. They are mapped when they
are read. `memory.json` says where each belongs, and is replaced whole. What was
granted (`Known`) and functions are not written: `init` makes them anew.
"""

from collections.abc import Mapping
import itertools
import json
import os
import pathlib
import sys
from typing import Any, Optional

import jax
import jax.numpy as jnp
import numpy as np

from labelleak import hfl, vfl
from labelleak.base import InputError
from labelleak.runs import files

_INDEX = 'memory.json'
_GIVEN = {'given': True}  # what `init` makes
_PLAIN = bool, int, float, str, type(None)


class MemoryFolder:
  """Where one memory is kept, as it grows."""

  def __init__(self, path: str | os.PathLike[str]):
    self._path = pathlib.Path(path)
    self._kept = {}  # id -> (array, name); held, so that ids stay theirs
    stems = (int(file.stem) for file in self._path.glob('*.npy'))
    self._next = max(stems, default=-1) + 1

  def save(
    self, memory: Any, facts: Optional[Mapping[str, Any]] = None
  ) -> None:
    """Writes a memory, of whose arrays those that are new.

    Args:
      memory: of an attack over time, or a tree of several.
      facts: what JSON can hold, to be returned beside it.

    Raises:
      InputError: what is no such tree, such as an array of keys.
    """
    self._path.mkdir(parents=True, exist_ok=True)
    before, self._kept = self._kept, {}
    tree = self._pack(memory, before)
    index = dict(memory=tree, facts=dict(facts or {}))
    files.replace(self._path / _INDEX, json.dumps(index).encode())
    names = {name for _, name in self._kept.values()}
    for file in self._path.glob('*.npy'):
      if file.name not in names:
        file.unlink()

  def load(self, memory: Any) -> tuple[Any, dict[str, Any]]:
    """Returns the memory that was kept, and its facts.

    Args:
      memory: what `init` returns, which is returned where nothing was kept.

    Raises:
      InputError: the folder is damaged, or of another attack.
    """
    try:
      index = json.loads((self._path / _INDEX).read_bytes())
      return self._unpack(index['memory'], memory), dict(index['facts'])
    except FileNotFoundError as e:
      if e.filename == str(self._path / _INDEX):
        return memory, {}
      raise self._damaged(e) from e
    except (
      *(ValueError, TypeError, KeyError, AttributeError),
      *(EOFError, OSError),
    ) as e:
      raise self._damaged(e) from e

  def _damaged(self, e):
    return InputError(
      f'{self._path} is damaged or keeps the memory of another attack'
      f' ({type(e).__name__}); remove it.'
    )

  def _pack(self, value, before):
    if isinstance(value, _PLAIN):
      return value
    pack = lambda part: self._pack(part, before)
    if hasattr(value, '_fields'):
      kind = type(value)
      fields = {k: pack(v) for k, v in value._asdict().items()}
      return {'type': [kind.__module__, kind.__qualname__], 'fields': fields}
    if isinstance(value, (tuple, list)):
      return [pack(part) for part in value]
    if isinstance(value, dict):
      return {'dict': {k: pack(part) for k, part in value.items()}}
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
      kind = 'device' if isinstance(value, jax.Array) else 'array'
      return {kind: self._write(value, before)}
    if callable(value) or isinstance(value, (hfl.Known, vfl.Known)):
      return _GIVEN
    raise _refuse(type(value).__name__)

  def _write(self, array, before):
    """Returns the name of the file of an array, which is written if new."""
    if id(array) not in before:
      if jnp.issubdtype(array.dtype, jax.dtypes.extended) or (
        array.dtype.hasobject
      ):
        raise _refuse(f'array of {array.dtype}')
      name = f'{self._next}.npy'
      self._next += 1
      np.save(self._path / name, np.asarray(array), allow_pickle=False)
      before[id(array)] = array, name
    self._kept[id(array)] = before[id(array)]
    return before[id(array)][1]

  def _unpack(self, tree, like):
    if isinstance(tree, _PLAIN):
      return tree
    if isinstance(tree, list):
      likes = like if isinstance(like, (tuple, list)) else ()
      pairs = itertools.zip_longest(tree, likes[: len(tree)])
      return tuple(self._unpack(part, like) for part, like in pairs)
    if tree == _GIVEN:
      return like
    if 'array' in tree:
      return self._read(tree['array'])
    if 'device' in tree:
      return self._hold(jnp.asarray(self._read(tree['device'])), tree['device'])
    if 'dict' in tree:
      return {k: self._unpack(t, None) for k, t in tree['dict'].items()}
    fields = {
      k: self._unpack(t, getattr(like, k, None))
      for k, t in tree['fields'].items()
    }
    module, name = tree['type']
    return _find_type(module, name)(**fields)

  def _read(self, name):
    array = np.load(self._path / name, mmap_mode='r', allow_pickle=False)
    return self._hold(array if array.ndim else array[()], name)

  def _hold(self, array, name):
    self._kept[id(array)] = array, name
    return array


def _refuse(what):
  return InputError(
    f'a memory holds {what}, which no folder keeps; make it of named tuples,'
    ' tuples, dicts, numbers and arrays of numbers (jax.random.key_data of a'
    ' key).'
  )


def _find_type(module, name):
  """Returns the named tuple of a module that is already imported."""
  kind = sys.modules[module]
  for part in name.split('.'):
    kind = getattr(kind, part)
  if not (issubclass(kind, tuple) and hasattr(kind, '_fields')):
    raise TypeError(f'{name} is no named tuple')
  return kind
