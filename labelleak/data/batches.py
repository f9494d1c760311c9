"""Batches of vertical FL: rows of a data set, split between the parties."""

from typing import Optional

import numpy as np

from labelleak.base import Batch
from labelleak.data import Source, plans
from labelleak.data.splits import Split


def batch(
  source: Source,
  split: Split,
  index: np.ndarray,
  mask: Optional[np.ndarray] = None,
) -> Batch:
  """Returns rows `index` [..., B] of the data, leaves [..., B, ...].

  Args:
    source: of the rows.
    split: which features each party holds.
    index: rows of the data set.
    mask: [..., B], 0 where a row is padding; None: no row is.
  """
  index = np.asarray(index)
  if mask is None:
    mask = np.ones(index.shape, np.float32)
  x = source.take(index.reshape(-1))
  xs = tuple(a.reshape(*index.shape, *a.shape[1:]) for a in split(x))
  y = np.eye(source.num_classes, dtype=np.float32)[source.y[index]]
  return Batch(xs, y, index, mask)


def epochs(
  source: Source,
  split: Split,
  batch_size: int,
  numbers: np.ndarray,
  *,
  seed: Optional[int],
) -> Batch:
  """Returns the batches of training steps, leaves [n, B, ...].

  Args:
    source: of the rows.
    split: which features each party holds.
    batch_size: B; the last batch of an epoch is padded.
    numbers: [n] of the steps, from 1.
    seed: of the order, drawn anew in every epoch; None keeps the rows' order.
  """
  index, mask = plans.epochs(len(source.y), batch_size, numbers, seed=seed)
  return batch(source, split, index, mask)
