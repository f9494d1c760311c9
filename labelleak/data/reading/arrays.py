"""Data sets that fit in memory."""

from typing import Optional

import numpy as np

from labelleak import validate
from labelleak.data import Source


def source(
  name: str,
  x: np.ndarray,
  y: np.ndarray,
  test: np.ndarray,
  split: Optional[str],
) -> Source:
  """Builds the source of one split of examples x [N, ...] with labels y [N].

  Rows where `test` [N] holds are those of the split 'test', which None is; the
  others are 'train', and there is 'all'.

  Raises:
    InputError: no such split.
  """
  rows = dict(train=~test, test=test, all=np.ones_like(test))
  split = split or 'test'
  validate.one_of(f'{name}: split', split, rows)
  x, y = x[rows[split]].astype(np.float32), y[rows[split]].astype(np.int32)
  return Source(
    take=lambda index: x[np.asarray(index)],
    y=y,
    num_classes=int(y.max()) + 1,
    shape=x.shape[1:],
    name=name,
  )
