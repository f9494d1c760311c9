"""The data of a config: a split of its set, and the attacker's own rows."""

from collections.abc import Mapping
import functools
import json
from typing import Any, Optional

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


def auxiliary(
  attacked: data.Source,
  own: Optional[data.Source] = None,
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
    attacked: the split that clients draw from.
    own: another split of the same data; None holds examples out.
    per_class: examples of each class.
    overlap: takes the first ones of each class, which the clients hold, too, as
      in the published runs.
    batch_size: B, which must be left to the clients.
    seed: of the choice.

  Returns:
    `Labelled`, x [M, ...] and one-hot y [M, K], and rows of `attacked`.

  Raises:
    InputError: none asked for, none left, or `own` is the attacked split.
  """
  if per_class < 1:
    raise InputError(f'aux.per_class={per_class} must be at least 1.')
  if own and _same(attacked, own):
    raise InputError(
      f'aux.split is the attacked split of {attacked.name}; choose another, or'
      ' leave it empty to hold examples out.'
    )
  held_out = own is None and not overlap
  own = own or attacked
  order = np.arange(len(own.y))
  if not overlap:
    order = np.random.default_rng([seed, len(order)]).permutation(order)
  rows = np.concatenate(
    [order[own.y[order] == k][:per_class] for k in range(own.num_classes)]
  )
  clients = np.arange(len(attacked.y))
  if held_out:
    clients = np.setdiff1d(clients, rows)
    if len(clients) < batch_size:
      raise InputError(
        f'aux.per_class={per_class} leaves {len(clients)} examples for'
        f' batch_size={batch_size}; lower one of them.'
      )
  y = np.eye(own.num_classes, dtype=np.float32)[own.y[rows]]
  return Labelled(own.take(rows), y), clients


def _same(one, other):
  """Whether two sources hold the same examples, judged by the first of them."""
  first = np.arange(1)
  return np.array_equal(one.y, other.y) and np.array_equal(
    one.take(first), other.take(first)
  )
