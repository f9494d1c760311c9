"""The data of a config: the attacked split, its batches, the attacker's own."""

import functools
import json
from typing import Optional

from ml_collections import ConfigDict
import numpy as np

from labelleak import data
from labelleak.base import Batch, InputError, Labelled
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
  config: ConfigDict, source: data.Source, rows: np.ndarray, index: np.ndarray
) -> Batch:
  """Batches of the trials `index` [n] from `rows`, leaves [n, C, B, ...]."""
  size, clients = config.batch_size, config.clients
  drawn = np.stack(
    [
      plans.draw(
        config.seed,
        int(trial) * clients + client,
        source.y[rows],
        source.num_classes,
        partition=config.partition,
        batch_size=size,
        per_class_cap=config.per_class_cap,
      )
      for trial in index
      for client in range(clients)
    ]
  ).reshape(len(index), clients, size)
  drawn = rows[drawn]
  x = source.take(drawn.reshape(-1)).reshape(*drawn.shape, *source.shape)
  y = np.eye(source.num_classes, dtype=np.float32)[source.y[drawn]]
  return Batch((x,), y, drawn, np.ones(drawn.shape, np.float32))


def auxiliary(
  config: ConfigDict, attacked: data.Source
) -> tuple[Labelled, np.ndarray]:
  """Labelled examples of the attacker, `aux.per_class` of each class.

  Without `aux.split` they are drawn from the attacked split, and the clients
  hold the others: examples that the model saw in training would show more
  confidence than the clients' do. With `aux.overlap` they are the first ones of
  each class and the clients hold them too, as in the published runs.

  Returns:
    the examples, y one-hot, and the clients' rows of `attacked`.

  Raises:
    InputError: none asked for, none left, or `aux.split` is the attacked split.
  """
  aux = config.aux
  if aux.per_class < 1:
    raise InputError(f'aux.per_class={aux.per_class} must be at least 1.')
  own = source(config, aux.split) if aux.split else attacked
  if aux.split and _same(attacked, own):
    raise InputError(
      f'aux.split={aux.split!r} is the attacked split; choose another, or leave'
      ' it empty to hold examples out.'
    )
  order = np.arange(len(own.y))
  if not aux.overlap:
    order = np.random.default_rng([config.seed, len(order)]).permutation(order)
  rows = np.concatenate(
    [order[own.y[order] == k][: aux.per_class] for k in range(own.num_classes)]
  )
  clients = np.arange(len(attacked.y))
  if not (aux.split or aux.overlap):
    clients = np.setdiff1d(clients, rows)
    if len(clients) < config.batch_size:
      raise InputError(
        f'aux.per_class={aux.per_class} leaves {len(clients)} examples for'
        f' batch_size={config.batch_size}; lower one of them.'
      )
  y = np.eye(own.num_classes, dtype=np.float32)[own.y[rows]]
  return Labelled(own.take(rows), y), clients


def _same(one, other):
  """Whether two sources hold the same examples, judged by the first of them."""
  first = np.arange(1)
  return np.array_equal(one.y, other.y) and np.array_equal(
    one.take(first), other.take(first)
  )
