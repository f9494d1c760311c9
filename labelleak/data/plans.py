"""Batch plans: which rows of a data set make up a batch.

The partitions of the LLBG paper (Gat & Sharif, AISec 2024, section 5) as its
released code draws them. Label-only studies pass labels that stand for no
images: `y = np.repeat(np.arange(K), rows_per_class)`.
"""

from collections.abc import Callable
from typing import Optional

import numpy as np

from labelleak import validate
from labelleak.base import InputError


def draw(
  seed: int,
  trial: int,
  y: np.ndarray,
  num_classes: int,
  *,
  partition: str,
  batch_size: int,
  per_class_cap: Optional[int] = None,
) -> np.ndarray:
  """Draws the rows of one client's batch in random order, [B] int64.

  Depends on (seed, trial) and the labels only, hence is the same for every
  attack. Partitions:

    unbalanced: half of a class a, a quarter of a class b, the rest drawn from
      all rows with replacement. a and b are uniform and independent, and may
      be equal. Published runs draw a and b from an evaluation split, whose
      rows per class limit both parts: `per_class_cap` 100 for CIFAR-100, 50
      for ImageNet.
    iid: rows drawn with replacement.
    balanced: B / K rows of every class.
    unique: one row each of B different classes.

  Rows of one class are drawn without replacement where it holds enough of
  them, otherwise with replacement; a or b without any row contributes none.

  Args:
    seed: of the experiment, not negative.
    trial: number of the batch, not negative.
    y: [N] int labels.
    num_classes: K.
    partition: a name from the list above.
    batch_size: B, at most N.
    per_class_cap: most rows that the a and b parts hold each.

  Raises:
    InputError: unknown partition, K < 2, B < 1, B > N, cap < 1, negative seed
      or trial, or a partition that these labels cannot fill.
  """
  y = np.asarray(y)
  _check(seed, trial, y, num_classes, partition, batch_size, per_class_cap)
  rng = np.random.default_rng([seed, trial])
  index = PARTITIONS[partition](rng, y, num_classes, batch_size, per_class_cap)
  return rng.permutation(index)


def epochs(
  size: int, batch_size: int, numbers: np.ndarray, *, seed: Optional[int]
) -> tuple[np.ndarray, np.ndarray]:
  """Orders the rows of training steps: whole epochs, the last batch short.

  The short batch is padded with rows from the epoch's beginning: batch norm,
  which knows no mask, then sees real examples.

  Args:
    size: N, rows of the data set.
    batch_size: B; an epoch has ceil(N / B) steps.
    numbers: [n] of the steps, from 1.
    seed: of the order, drawn anew in every epoch; None keeps the rows' order.

  Returns:
    index [n, B] into the rows and mask [n, B], 0 where a row is padding.
  """
  per_epoch = -(-size // batch_size)
  epoch, place = np.divmod(np.asarray(numbers) - 1, per_epoch)
  orders = {e: np.arange(size) for e in set(epoch.tolist())}
  if seed is not None:
    for e in orders:
      orders[e] = np.random.default_rng((seed, e)).permutation(size)
  slots = place[:, None] * batch_size + np.arange(batch_size)
  rows = [orders[e][s % size] for e, s in zip(epoch.tolist(), slots)]
  return np.stack(rows), (slots < size).astype(np.float32)


def _check(seed, trial, y, num_classes, partition, batch_size, cap):
  """Refuses what no partition can draw."""
  validate.one_of('partition', partition, PARTITIONS)
  secret = 'of one class no label is secret'
  validate.whole('num_classes', num_classes, 2, remedy=secret)
  rows = 'the rows of the data; use a larger data set or split'
  validate.whole('batch_size', batch_size, 1, len(y), rows)
  if cap is not None:
    validate.whole('per_class_cap', cap, 1, remedy='None is no cap')
  validate.whole('seed', seed, 0)
  validate.whole('trial', trial, 0)


def _draw_unbalanced(rng, y, num_classes, batch_size, cap):
  a, b = rng.integers(num_classes, size=2)
  cap = batch_size if cap is None else cap
  heavy = _of_class(rng, y, a, min(batch_size // 2, cap))
  light = _of_class(rng, y, b, min(batch_size // 4, cap))
  other = rng.integers(len(y), size=batch_size - len(heavy) - len(light))
  return np.concatenate([heavy, light, other])


def _draw_iid(rng, y, num_classes, batch_size, cap):
  return rng.integers(len(y), size=batch_size)


def _draw_balanced(rng, y, num_classes, batch_size, cap):
  per_class, remainder = divmod(batch_size, num_classes)
  if remainder:
    raise InputError(
      f'batch_size={batch_size} is no multiple of {num_classes} classes, as'
      f' partition=balanced needs; use {max(per_class, 1) * num_classes}.'
    )
  _need_classes(y, num_classes, 'balanced')
  return np.concatenate(
    [_of_class(rng, y, c, per_class) for c in range(num_classes)]
  )


def _draw_unique(rng, y, num_classes, batch_size, cap):
  if batch_size > num_classes:
    raise InputError(
      f'batch_size={batch_size} exceeds {num_classes} classes, and'
      f' partition=unique repeats none; use at most {num_classes}.'
    )
  _need_classes(y, num_classes, 'unique')
  classes = rng.choice(num_classes, batch_size, replace=False)
  return np.concatenate([_of_class(rng, y, c, 1) for c in classes])


# (rng, labels y [N], K, B, per_class_cap) -> rows [B]
Partition = Callable[
  [np.random.Generator, np.ndarray, int, int, Optional[int]], np.ndarray
]
PARTITIONS: dict[str, Partition] = dict(
  unbalanced=_draw_unbalanced,
  iid=_draw_iid,
  balanced=_draw_balanced,
  unique=_draw_unique,
)


def _of_class(rng, y, label, num):
  """Draws `num` rows of a class; none where the class is empty."""
  rows = np.flatnonzero(y == label)
  if not len(rows):
    return rows
  return rng.choice(rows, num, replace=len(rows) < num)


def _need_classes(y: np.ndarray, num_classes: int, partition: str) -> None:
  """Refuses labels of which a class has no row."""
  empty = num_classes - len(np.unique(y))
  if empty > 0:
    raise InputError(
      f'partition={partition} needs a row of every class, and {empty} of'
      f' {num_classes} have none; use another split or partition.'
    )
