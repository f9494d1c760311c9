"""Memories of attacks over time, on disk: an attack goes on where it stopped.

A memory is a tree of named tuples, tuples, lists and dicts by name. Its arrays
lie in a file each, which is written once, so that a trace costs what its last
steps are: `observe` makes new arrays and changes none in place, for which what
is written becomes read-only. `memory.json` says where each belongs, and is
replaced whole. What else a memory holds is what `init` gave it, such as `Known`
or functions, and is not written.
"""

import json
import os
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from labelleak import hfl, vfl
from labelleak.base import InputError
from labelleak.runs import files

_INDEX = 'memory.json'
_PLAIN = bool, int, float, str, type(None)
_GIVEN = {'given': True}  # as `init` made it
_NOWHERE = object()  # where what `init` made has nothing
_MAPPED = 2**20  # bytes; each mapped file holds a descriptor


class MemoryFolder:
  """Where one memory is kept, as it grows."""

  def __init__(
    self, path: str | os.PathLike[str], start: Any, made_by: str = ''
  ):
    """Opens a folder, which need not exist.

    Args:
      path: of the folder.
      start: the memory that `init` returns, or a tree of several.
      made_by: what else a memory depends on, such as code.
    """
    self._path, self._start, self._made_by = pathlib.Path(path), start, made_by
    self._kept = {}  # id -> (array, name); held, so that ids stay theirs
    stems = (file.stem for file in self._path.glob('*.npy'))
    self._next = 1 + max((int(s) for s in stems if s.isdigit()), default=-1)

  def save(self, memory: Any) -> None:
    """Writes a memory, of whose arrays those that are new.

    Raises:
      InputError: what would not come back as it is, such as an array of keys, a
        set, or a named tuple of no module.
      OSError: the disk is full, or not to be written to.
    """
    self._path.mkdir(parents=True, exist_ok=True)
    before, self._kept = self._kept, {}
    tree = self._pack(memory, self._start, before)
    index = dict(made_by=self._made_by, memory=tree)
    files.replace(self._path / _INDEX, json.dumps(index).encode())
    names = {name for _, name in self._kept.values()}
    for file in self._path.glob('*.npy'):
      if file.name not in names:
        file.unlink()

  def load(self) -> Any:
    """Returns the memory that was kept; `start` if none was, made by the same.

    Raises:
      InputError: the folder is damaged, of another attack, or not to be read.
    """
    index = self._path / _INDEX
    if not index.exists():
      return self._start
    try:
      kept = json.loads(index.read_bytes())
      if kept['made_by'] != self._made_by:
        return self._start
      return self._unpack(kept['memory'], self._start)
    except (
      *(ValueError, TypeError, KeyError, AttributeError),
      *(EOFError, FileNotFoundError),
    ) as e:
      raise InputError(
        f'{self._path} is damaged or keeps the memory of another attack'
        f' ({type(e).__name__}); remove it.'
      ) from e
    except OSError as e:
      raise InputError(f'{self._path} cannot be read: {e.strerror}.') from e

  def _pack(self, value, start, before):
    if type(value) in _PLAIN:
      return value
    pack = lambda part, name: self._pack(part, _part(start, name), before)
    kind = type(value)
    if hasattr(value, '_fields'):
      if _find_type(kind.__module__, kind.__qualname__) is not kind:
        raise _refuse(f'a {kind.__qualname__} that no module holds')
      fields = {k: pack(v, k) for k, v in value._asdict().items()}
      return {'type': [kind.__module__, kind.__qualname__], 'fields': fields}
    if kind in (tuple, list):
      return {kind.__name__: [pack(v, i) for i, v in enumerate(value)]}
    if kind is dict and all(type(k) is str for k in value):
      return {'dict': {k: pack(v, k) for k, v in value.items()}}
    if isinstance(value, (np.generic, jax.Array)) or kind in (
      np.ndarray,
      np.memmap,
    ):
      place = 'device' if isinstance(value, jax.Array) else 'array'
      return {place: self._write(value, before)}
    # Of a compiled `observe`, what was granted is another object.
    is_known = isinstance(value, (hfl.Known, vfl.Known))
    if value is start or (is_known and isinstance(start, kind)):
      return _GIVEN
    raise _refuse(f'a {kind.__name__}')

  def _write(self, array, before):
    """Returns the name of the file of an array, which is written if new."""
    if id(array) not in before:
      if not _comes_back(array.dtype):
        raise _refuse(f'an array of {array.dtype}')
      name = f'{self._next}.npy'
      self._next += 1
      with open(self._path / name, 'wb') as f:
        np.save(f, np.asarray(array), allow_pickle=False)
        f.flush()
        os.fsync(f.fileno())
      if isinstance(array, np.ndarray):
        array.flags.writeable = False
      before[id(array)] = array, name
    self._kept[id(array)] = before[id(array)]
    return before[id(array)][1]

  def _unpack(self, tree, start):
    if isinstance(tree, _PLAIN):
      return tree
    if tree == _GIVEN:
      if start is _NOWHERE:
        raise KeyError('given')
      return start
    unpack = lambda part, name: self._unpack(part, _part(start, name))
    if 'type' in tree:
      module, name = tree['type']
      fields = {k: unpack(t, k) for k, t in tree['fields'].items()}
      return _find_type(module, name)(**fields)
    if 'array' in tree:
      return self._hold(self._read(tree['array']), tree['array'])
    if 'device' in tree:
      return self._hold(jnp.asarray(self._read(tree['device'])), tree['device'])
    if 'dict' in tree:
      return {k: unpack(t, k) for k, t in tree['dict'].items()}
    ((kind, parts),) = tree.items()
    kind = {'tuple': tuple, 'list': list}[kind]
    return kind(unpack(t, i) for i, t in enumerate(parts))

  def _read(self, name):
    path = self._path / name
    mode = 'r' if path.stat().st_size >= _MAPPED else None
    array = np.load(path, mmap_mode=mode, allow_pickle=False)
    array.flags.writeable = False
    return array if array.ndim else array[()]

  def _hold(self, array, name):
    self._kept[id(array)] = array, name
    return array


def _part(start, name):
  """Returns what `init` made of a part, by its name or number."""
  if isinstance(name, str) and hasattr(start, '_fields'):
    return getattr(start, name, _NOWHERE)
  if isinstance(start, dict):
    return start.get(name, _NOWHERE)
  if isinstance(start, (tuple, list)) and isinstance(name, int):
    return start[name] if name < len(start) else _NOWHERE
  return _NOWHERE


def _comes_back(dtype):
  """Returns whether a file of this type is read as what it was."""
  if jnp.issubdtype(dtype, jax.dtypes.extended) or dtype.hasobject:
    return False
  npy = np.lib.format
  return npy.descr_to_dtype(npy.dtype_to_descr(dtype)) == dtype


def _find_type(module, name):
  """Returns the named tuple of a module that is imported; None is no such."""
  kind = sys.modules.get(module)
  for part in name.split('.'):
    kind = getattr(kind, part, None)
  is_named = isinstance(kind, type) and issubclass(kind, tuple)
  return kind if is_named and hasattr(kind, '_fields') else None


def _refuse(what):
  return InputError(
    f'a memory holds {what}, which no folder keeps; make it of named tuples,'
    ' tuples, lists, dicts by name, numbers and arrays of numbers'
    ' (jax.random.key_data of a key).'
  )
