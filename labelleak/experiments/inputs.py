"""The data of a config: the attacked split, its batches, the attacker's own."""

import functools
import json
from typing import Optional

from ml_collections import ConfigDict
import numpy as np

from labelleak import data
from labelleak.base import Batch, InputError
from labelleak.data import plans


def source(config: ConfigDict, split: Optional[str] = None) -> data.Source:
  """The data set of a config; points that share it share what was loaded."""
  options = config.dataset.to_dict()
  if split:
    options['split'] = split
  return _load(json.dumps(options, sort_keys=True), config.data_dir)


@functools.lru_cache(maxsize=4)
def _load(options, data_dir):
  return data.load(**json.loads(options), data_dir=data_dir)


def batches(
  config: ConfigDict, source: data.Source, index: np.ndarray
) -> Batch:
  """Batches of the trials `index` [n], leaves [n, C, B, ...]."""
  size, clients = config.batch_size, config.clients
  rows = np.stack(
    [
      plans.draw(
        config.seed,
        int(trial) * clients + client,
        source.y,
        source.num_classes,
        partition=config.partition,
        batch_size=size,
        per_class_cap=config.per_class_cap,
      )
      for trial in index
      for client in range(clients)
    ]
  ).reshape(len(index), clients, size)
  x = source.take(rows.reshape(-1)).reshape(*rows.shape, *source.shape)
  y = np.eye(source.num_classes, dtype=np.float32)[source.y[rows]]
  return Batch((x,), y, rows, np.ones(rows.shape, np.float32))


def auxiliary(config: ConfigDict, attacked: data.Source) -> dict:
  """Labelled examples of the attacker, `per_class` first ones of each class.

  Taken from another split than the attacked one, unless `overlap`: the
  published runs take them from the attacked split itself.

  Returns:
    x [M, ...] and one-hot y [M, K].

  Raises:
    InputError: none asked for, or `aux.split` is the attacked split.
  """
  aux = config.aux
  if aux.per_class < 1:
    raise InputError(f'aux.per_class={aux.per_class} must be at least 1.')
  own = attacked if aux.overlap else source(config, aux.split)
  if not aux.overlap and _same(attacked, own):
    raise InputError(
      f'aux.split={aux.split!r} is the attacked split; choose another, or'
      ' set aux.overlap=True for the published setting.'
    )
  rows = np.concatenate(
    [
      np.flatnonzero(own.y == k)[: aux.per_class]
      for k in range(own.num_classes)
    ]
  )
  y = np.eye(own.num_classes, dtype=np.float32)[own.y[rows]]
  return dict(x=own.take(rows), y=y)


def _same(one, other):
  """Whether two sources hold the same examples, judged by the first of them."""
  first = np.arange(1)
  return np.array_equal(one.y, other.y) and np.array_equal(
    one.take(first), other.take(first)
  )
