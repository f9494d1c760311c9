"""The data of a config: a split of its set, and the attacker's own rows."""

from collections.abc import Mapping
import functools
import json
from typing import Any, Optional, Protocol

import numpy as np

from labelleak import data, spec
from labelleak.base import InputError, Labelled


def load(
  dataset: Mapping[str, Any],
  data_dir: Optional[str],
  split: Optional[str] = None,
) -> data.Source:
  """Loads a data set; points that share it share what was loaded.

  Args:
    dataset: its spec, as a config holds it.
    data_dir: where prepared data sets live.
    split: in the place of the one that the spec names, where given.
  """
  options = spec.plain(dataset)
  if split:
    options['split'] = split
  return _load(json.dumps(options, sort_keys=True), data_dir)


@functools.lru_cache(maxsize=4)
def _load(options, data_dir):
  return data.load(**json.loads(options), data_dir=data_dir)


def describe(
  dataset: Mapping[str, Any],
  data_dir: Optional[str],
  *,
  stands_for: Optional[str],
) -> str:
  """Says in a line what a data set is, and for which published one it stands.

  Args:
    dataset: its spec, as a config holds it.
    data_dir: where prepared data sets live.
    stands_for: name of the published data set, if any.
  """
  source = load(dataset, data_dir)
  text = f'data: {source.name}, {len(source.y)} x {source.shape}'
  if not stands_for or source.name.split()[0] == stands_for:
    return text
  return f'{text}, which stand for {stands_for}'


class Load(Protocol):
  """Loads a split of one data set; None: the one that clients draw from."""

  def __call__(self, split: Optional[str] = None) -> data.Source: ...


def auxiliary(
  load: Load,
  split: Optional[str],
  *,
  per_class: int,
  overlap: bool,
  batch_size: int,
  seed: int,
) -> tuple[Labelled, np.ndarray]:
  """Returns the attacker's labelled examples, and the rows that clients hold.

  Without a split of its own they are drawn from the attacked one, and the
  clients hold the others: examples that the model saw in training would show
  more confidence than the clients' do.

  Args:
    load: a split of the data, that of the clients where none is named.
    split: another one, of the attacker's own; None holds examples out.
    per_class: examples of each class.
    overlap: takes the first ones of each class, which the clients hold, too, as
      in the published runs.
    batch_size: B, which must be left to the clients.
    seed: of the choice.

  Returns:
    `Labelled`, x [M, ...] and one-hot y [M, K], and rows of the
    clients' split.

  Raises:
    InputError: none asked for, none left, or `split` is that of the clients.
  """
  if per_class < 1:
    raise InputError(f'aux.per_class={per_class} must be at least 1.')
  attacked = load()
  own = load(split) if split else attacked
  if split and same(attacked, own):
    raise InputError(
      f'aux.split={split!r} is the attacked split; choose another, or leave it'
      ' empty to hold examples out.'
    )
  order = np.arange(len(own.y))
  if not overlap:
    order = np.random.default_rng([seed, len(order)]).permutation(order)
  rows = np.concatenate(
    [order[own.y[order] == k][:per_class] for k in range(own.num_classes)]
  )
  clients = np.arange(len(attacked.y))
  if not (split or overlap):
    clients = np.setdiff1d(clients, rows)
    if len(clients) < batch_size:
      raise InputError(
        f'aux.per_class={per_class} leaves {len(clients)} examples for'
        f' batch_size={batch_size}; lower one of them.'
      )
  y = np.eye(own.num_classes, dtype=np.float32)[own.y[rows]]
  return Labelled(own.take(rows), y), clients


def same(one, other):
  """Whether two sources hold the same examples, judged by the first of them."""
  first = np.arange(1)
  return np.array_equal(one.y, other.y) and np.array_equal(
    one.take(first), other.take(first)
  )
