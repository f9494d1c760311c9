"""A client of closed form, and the files that frameworks make of it."""

import io
import json
import pathlib
from typing import Optional

import numpy as np
import safetensors.numpy

K, H = 10, 12
COUNTS = np.array([9, 0, 0, 14, 3, 0, 0, 1, 0, 5])
State = dict[str, np.ndarray]


def models(lr: float = 0.1, steps: int = 7) -> tuple[State, State, State]:
  """Makes the model before, after, and the head's update.

  One step of SGD under softmax cross entropy moves the head; a random change,
  the body. Names and layouts are torch's.
  """
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  before = {
    'conv.weight': normal(4, 3, 3, 3),
    'conv.bias': normal(4),
    'bn.weight': 1 + normal(4) / 10,
    'bn.bias': normal(4) / 10,
    'bn.running_mean': normal(4),
    'bn.running_var': 1 + normal(4) ** 2,
    'bn.num_batches_tracked': np.array(40),
    'fc1.weight': normal(H, 20) / 4,
    'fc1.bias': normal(H) / 4,
    'fc2.weight': normal(K, H) / 3,
    'fc2.bias': normal(K) / 3,
  }
  labels = np.repeat(np.arange(K), COUNTS)
  x = np.maximum(normal(len(labels), H), 0)
  logits = x @ before['fc2.weight'].T + before['fc2.bias']
  odds = np.exp(logits)
  error = odds / odds.sum(1, keepdims=True) - np.eye(K)[labels]
  update = {
    'kernel': np.float32(lr * x.T @ error / len(labels)),
    'bias': np.float32(lr * error.mean(0)),
  }
  after = {
    name: value + normal(*value.shape) / 100 for name, value in before.items()
  }
  after['bn.num_batches_tracked'] = before['bn.num_batches_tracked'] + steps
  after['fc2.weight'] = before['fc2.weight'] - update['kernel'].T
  after['fc2.bias'] = before['fc2.bias'] - update['bias']
  return before, after, update


def subtract(before: State, after: State) -> State:
  """Returns the client's update of every parameter, server minus client."""
  return {
    name: before[name] - after[name]
    for name in before
    if 'running' not in name and 'tracked' not in name
  }


def save(path: pathlib.Path, state: State) -> str:
  """Writes a file of the format that the suffix says."""
  if path.suffix == '.npz':
    np.savez(path, **state)
  elif path.suffix == '.safetensors':
    dense = {name: np.ascontiguousarray(value) for name, value in state.items()}
    safetensors.numpy.save_file(dense, path)
  elif path.suffix == '.json':
    return _save_shards(path, state)
  else:
    path.write_bytes(flower_dict(state))
  return str(path)


def _save_shards(path, state):
  """Writes two shards and their index."""
  where = {}
  for i in range(2):
    name = f'model-0000{i + 1}-of-00002.safetensors'
    shard = dict(list(state.items())[i::2])
    save(path.parent / name, shard)
    where |= dict.fromkeys(shard, name)
  path.write_text(json.dumps({'metadata': {}, 'weight_map': where}))
  return str(path)


def flower_dict(state: State) -> bytes:
  """Serialises a RecordDict of one ArrayRecord, 'arrays'."""
  return _field(1, _field(1, b'arrays') + _field(2, flower_record(state)))


def flower_record(state: State) -> bytes:
  """Serialises an ArrayRecord."""
  items = (
    _field(1, name.encode()) + _field(2, _array(value))
    for name, value in state.items()
  )
  return b''.join(_field(1, item) for item in items)


def _array(value, dtype: Optional[str] = None):
  file = io.BytesIO()
  np.save(file, value)
  shape = b''.join(map(_varint, value.shape))
  return (
    _field(1, (dtype or str(value.dtype)).encode())
    + (_field(2, shape) if shape else b'')
    + _field(3, b'numpy.ndarray')
    + _field(4, file.getvalue())
  )


def _field(number, data):
  return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value):
  head = b''
  while value > 127:
    head, value = head + bytes([value & 127 | 128]), value >> 7
  return head + bytes([value])
