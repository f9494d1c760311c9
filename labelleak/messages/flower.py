"""Flower's records of arrays, without Flower.

What `flwr.common.serde` makes of an `ArrayRecord`, or of a `RecordDict` that
holds one, is a protocol buffer of few fields (flwr/proto/recorddict.proto,
1.42):

  RecordDict  items = 1: (key = 1, array_record = 2, metrics = 3, config = 4)
  ArrayRecord items = 1: (key = 1, value = 2)
  Array       dtype = 1, shape = 2, stype = 3, data = 4

where `data` is a file as NumPy saves it; it is read without pickle.
"""

from collections.abc import Iterator
import io
from typing import Union

import jax.numpy as jnp
import numpy as np

from labelleak.models.weights.state_dicts import State

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def parse(data: bytes) -> State:
  """Reads the arrays of a serialised ArrayRecord or RecordDict, in its order.

  Raises:
    ValueError: anything else, more than one record of arrays, or two arrays of
      one name.
  """
  items = _items(memoryview(data))
  if not any(4 in _fields(value) for value in items.values()):
    records = {k: _items(v) for k, v in items.items() if v}
    if len(records) != 1:
      raise ValueError(f'it has {len(records)} records of arrays, not one')
    (items,) = records.values()
  return {name: _array(name, value) for name, value in items.items()}


def _items(data: bytes) -> dict[str, bytes]:
  """Returns field 2 of each item by its key, empty where it has another."""
  fields = _fields(data)
  if set(fields) - {1}:
    raise ValueError('it is no ArrayRecord or RecordDict')
  items = {}
  for item in fields.get(1, ()):
    parts = _fields(item)
    if 1 not in parts or len(parts) != 2 or set(parts) - {1, 2, 3, 4}:
      raise ValueError('one of its items is no key and value')
    key = str(parts[1][-1], 'utf-8')
    if key in items:
      raise ValueError(f'two of its items are called {key!r}')
    items[key] = parts[2][-1] if 2 in parts else b''
  return items


def _array(name: str, data: bytes) -> np.ndarray:
  """Reads an Array, if it is what its dtype and shape say."""
  fields = _fields(data)
  if set(fields) - {1, 2, 3, 4} or not {1, 3, 4} <= set(fields):
    raise ValueError(f'{name} is no Array')
  dtype, stype = (str(fields[i][-1], 'utf-8') for i in (1, 3))
  if stype != 'numpy.ndarray':
    raise ValueError(f'{name} is serialised as {stype}, not numpy.ndarray')
  file = io.BytesIO(fields[4][-1])
  array = np.lib.format.read_array(file, allow_pickle=False)
  if dtype == 'bfloat16' and array.dtype == np.dtype('V2'):
    array = array.view(jnp.bfloat16)
  shape = tuple(_shape(fields.get(2, [])))
  if file.read(1) or (str(array.dtype), array.shape) != (dtype, shape):
    raise ValueError(f'{name} is not {dtype}{list(shape)}, as its record says')
  return array


def _shape(values: list[Union[int, bytes]]) -> Iterator[int]:
  """Yields repeated integers, packed or one by one."""
  for value in values:
    if isinstance(value, int):
      yield value
    else:
      place = 0
      while place < len(value):
        size, place = _varint(value, place)
        yield size


def _fields(data: bytes) -> dict[int, list[Union[int, bytes]]]:
  """Parses the fields of a message by number."""
  fields, place = {}, 0
  while place < len(data):
    tag, place = _varint(data, place)
    number, kind = tag >> 3, tag & 7
    if kind == _VARINT:
      value, place = _varint(data, place)
    elif kind in (_FIXED64, _BYTES, _FIXED32):
      size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
      if size is None:
        size, place = _varint(data, place)
      value, place = data[place : place + size], place + size
    else:
      raise ValueError('it is no protocol buffer')
    if place > len(data):
      raise ValueError('it is cut short')
    fields.setdefault(number, []).append(value)
  return fields


def _varint(data: bytes, place: int) -> tuple[int, int]:
  """Reads an integer of 7 bits a byte; returns it and where the next begins."""
  value = 0
  for shift in range(0, 70, 7):
    if place >= len(data):
      raise ValueError('it is cut short')
    byte = data[place]
    value, place = value | (byte & 127) << shift, place + 1
    if byte < 128:
      return value, place
  raise ValueError('it is no protocol buffer')
