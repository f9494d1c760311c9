"""Files of what travels between server and client, nothing unpickled."""

from collections.abc import Sequence
import json
import os
import pathlib
import re
from typing import NamedTuple, Optional, Union

import jax.numpy as jnp
import numpy as np

from labelleak.base import InputError
from labelleak.messages import flower
from labelleak.models.weights import gradients, state_dicts
from labelleak.models.weights.state_dicts import Path, State

Names = Union[Path, Sequence[str]]

_INDEX = '.safetensors.index.json'
_PLAIN = '.npz', '.safetensors'
_FLOWER = '.flwr', '.pb'
_PICKLED = '.pt', '.pth', '.bin', '.ckpt', '.pkl', '.pickle'
_BUFFERS = re.compile(
  r'(.*[\W_])?(running_mean|running_var|num_batches_tracked|n_averaged'
  r'|position_ids|moving_mean|moving_var(iance)?)(:\d+)?'
  r'|(.*\W)?batch_stats\W.*'
)
_LISTED = re.compile(r'(?:arr_)?(\d+)')
_REMEDY = (
  'np.savez(path, **state), where state is a dict of named arrays, makes a file'
  ' that is read'
)


class File(NamedTuple):
  """What one file holds, by names without those of wrapping modules.

  Attributes:
    path: of the file.
    parameters: finite floats, in the order of the file.
    buffers: what no gradient moves.
    names: the name in the file of each of both.
    notes: remarks on how it was read.
  """

  path: str
  parameters: State
  buffers: State
  names: dict[str, str]
  notes: tuple[str, ...]


def read(path: Path, names: Optional[Names] = None) -> File:
  """Reads a file of tensors, told by its suffix.

  Args:
    path: .npz, .safetensors, .safetensors.index.json, or .flwr or .pb of a
      serialised ArrayRecord or RecordDict.
    names: of the arrays of a list (arr_0, arr_1, ... or 0, 1, ...), or a file
      of them, as JSON or one a line.

  Raises:
    InputError: a file of another kind, that cannot be read, or whose tensors
      are no parameters: integers, not finite, or two of one name.
  """
  path = os.fspath(path)
  state = read_tensors(path)
  listed, notes = is_listed(state), []
  if listed:
    state = _order(path, state)
  if listed and names is not None:
    state = _rename(path, state, names)
  elif listed:
    notes.append(f'{path} is a list; names= would tell which are buffers.')
  elif names is not None:
    notes.append(f'{path} names its tensors, so names= was not used for it.')
  return _sort(path, state, notes)


def is_listed(names) -> bool:
  """Tells whether tensors bear the numbers of a list and no names."""
  return bool(names) and all(map(_LISTED.fullmatch, names))


def read_tensors(path: str) -> State:
  """Reads the tensors of a file by the names that they have there.

  Raises:
    InputError: a file of another kind, or that cannot be read.
  """
  file = pathlib.Path(path)
  if path.endswith(_PICKLED):
    raise InputError(_explain_pickle(path))
  if file.is_dir():
    raise InputError(f'{path} is a folder; give a file that is in it.')
  if not file.exists():
    raise InputError(f'{path} does not exist; give the path of a file.')
  if not file.stat().st_size:
    raise InputError(f'{path} is empty; save it again.')
  if path.endswith(_INDEX):
    return _read_shards(file)
  if path.endswith(_PLAIN):
    return state_dicts.read(path)
  if not path.endswith(_FLOWER):
    kinds = ', '.join([*_PLAIN, _INDEX, *_FLOWER])
    raise InputError(f'{path} is none of {kinds}; {_REMEDY}.')
  try:
    return flower.parse(file.read_bytes())
  except Exception as e:  # of what protocol buffers and NumPy's headers can say
    raise InputError(
      f'{path} cannot be read as arrays of Flower ({_line(e)}); {_REMEDY}.'
    ) from e


def _explain_pickle(path):
  """Says how to convert a file that holds pickled objects, in two lines."""
  stem, suffix = os.path.splitext(path)
  load = f'torch.load({path!r}, map_location="cpu", weights_only=True)'
  value = 'v.detach().float().numpy()'
  if suffix in ('.pkl', '.pickle'):
    load, value = f'pickle.load(open({path!r}, "rb"))', 'np.asarray(v)'
  library = load.partition('.')[0]
  if suffix == '.ckpt':
    load += '["state_dict"]'
  return (
    f'{path} is pickled, and opening it may run code, so it is not read;'
    f' convert it where it was made: `import numpy as np, {library}; state ='
    f' {load}` and `np.savez({stem + ".npz"!r}, **{{k: {value} for k, v in'
    ' state.items()})`.'
  )


def _read_shards(index: pathlib.Path) -> State:
  """Reads the files that an index names, each tensor from its own."""
  try:
    shards = json.loads(index.read_text(), object_pairs_hook=_unique)
    shards = shards['weight_map']
    files = {f: index.parent / f for f in sorted(set(shards.values()))}
    shard = lambda p: p.parent == index.parent and p.suffix == '.safetensors'
    if not files or not all(map(shard, files.values())):
      raise ValueError('its shards are not files beside it')
  except Exception as e:
    raise InputError(
      f'{index} cannot be read ({_line(e)}); it must hold a weight_map of'
      ' tensors to files beside it: save it again.'
    ) from e
  contents = {f: read_tensors(os.fspath(path)) for f, path in files.items()}
  where = [(name, f) for f, state in contents.items() for name in state]
  differing = set(where) ^ set(shards.items())
  if differing:
    raise InputError(
      f'{index} and its shards differ in'
      f' {state_dicts.abbreviate({name for name, _ in differing})}; copy the'
      ' index and all shards of one saving.'
    )
  return {name: contents[f][name] for name, f in shards.items()}


def _unique(pairs):
  """Makes a dict of JSON's pairs, if no key stands there twice."""
  if len(dict(pairs)) < len(pairs):
    raise ValueError('a name stands there twice')
  return dict(pairs)


def _order(path, state):
  """Sorts the arrays of a list by their numbers."""
  numbers = {int(_LISTED.fullmatch(name)[1]): name for name in state}
  if sorted(numbers) != list(range(len(state))):
    raise InputError(
      f'{path} is a list of {len(state)} arrays, but not of those from 0 to'
      f' {len(state) - 1}; save the whole list.'
    )
  return {numbers[i]: state[numbers[i]] for i in range(len(state))}


def _rename(path, state, names):
  """Gives the arrays of a list their names."""
  if isinstance(names, (str, os.PathLike)):
    source = os.fspath(names)
    try:
      text = pathlib.Path(source).read_text()
      json_list = text.lstrip().startswith('[')
      names = json.loads(text) if json_list else text.split('\n')
      names = [n.strip() for n in names if n.strip()]
    except Exception as e:
      raise InputError(
        f'names={source!r} cannot be read ({_line(e)}); it must hold one name'
        ' a line, or a list of JSON: list(model.state_dict()).'
      ) from e
  names = list(map(str, names))
  if len(names) != len(state) or len(set(names)) != len(names):
    raise InputError(
      f'names= has {len(set(names))} names for the {len(state)} arrays of'
      f' {path}; give one of its own to each: list(model.state_dict()), or of'
      ' named_parameters() where no buffers were sent.'
    )
  return dict(zip(names, state.values()))


def _sort(path, state, notes):
  """Sorts tensors into parameters and buffers, by bare names."""
  parameters, buffers, names = {}, {}, {}
  for name, value in state.items():
    bare = state_dicts.unwrap(name)
    if not name.isprintable():
      raise InputError(f'{path} holds {name!r}; names must be printable.')
    if bare in names:
      raise InputError(
        f'{path} holds {bare} twice, once as {name}; save one of them.'
      )
    names[bare] = name
    if is_buffer(bare, value):
      buffers[bare] = value
      continue
    if value.dtype == np.dtype('V2'):  # NumPy's files forget what bfloat16 is
      value = value.view(jnp.bfloat16)
    state_dicts.check_values(path, name, value)
    parameters[bare] = value
  if any(bare != name for bare, name in names.items()):
    notes.append(f'{path}: names of wrapping modules were left out.')
  half = [n for n, v in parameters.items() if v.dtype.itemsize == 2]
  if half:
    kind = parameters[half[0]].dtype
    notes.append(f'{path}: {len(half)} tensors of {kind} were widened.')
  return File(path, parameters, buffers, names, tuple(notes))


def is_buffer(name, value):
  """Tells what no gradient moves: statistics, and integers but of layers."""
  if _BUFFERS.fullmatch(name):
    return True
  integer = value.dtype.kind in 'iub'
  layer = gradients.parse(name)[1] is not None
  return integer and not layer and not (is_listed([name]) and value.ndim)


def _line(error):
  """Returns the first line of an error's text, or its type."""
  return (str(error).splitlines() or [type(error).__name__])[0]
