"""Real data inside scikit-learn: no network, no files of ours."""

from typing import Optional

import numpy as np
from sklearn import datasets

from labelleak.base import InputError
from labelleak.data import Source, pixels


def digits(
  *,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  normalise: bool = True,
) -> Source:
  """Handwritten digits (UCI), 1797 grey images [8, 8, 1], 10 classes.

  The last quarter is the test split: neighbours share a writer, so that
  interleaved splits would share writers.

  Args:
    split: 'train', 'test' (default) or 'all'.
    data_dir: ignored.
    normalise: to [-1, 1]; otherwise [0, 1].
  """
  del data_dir
  images, y = datasets.load_digits(return_X_y=True)
  x = images.reshape(-1, 8, 8, 1) / 16
  mean, std = (0.5, 0.5) if normalise else (0.0, 1.0)
  held_out = np.arange(len(y)) >= len(y) * 3 // 4
  source = _source('digits', (x - mean) / std, y, held_out, split)
  return source._replace(box=pixels.box(mean, std))


def breast_cancer(
  *,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  normalise: bool = True,
) -> Source:
  """Breast cancer Wisconsin (UCI), 569 rows [30], 2 classes.

  Every fourth row is test: the file starts with the malignant cases.

  Args:
    split: 'train', 'test' (default) or 'all'.
    data_dir: ignored.
    normalise: standardise with the mean and deviation of the training rows.
  """
  del data_dir
  x, y = datasets.load_breast_cancer(return_X_y=True)
  held_out = np.arange(len(y)) % 4 == 3
  if normalise:
    x = (x - x[~held_out].mean(0)) / x[~held_out].std(0)
  return _source('breast_cancer', x, y, held_out, split)


def _source(name, x, y, held_out, split):
  """The rows of a split of an array in memory."""
  masks = dict(train=~held_out, test=held_out, all=np.ones_like(held_out))
  split = split or 'test'
  if split not in masks:
    raise InputError(
      f'{name} has no split {split!r}; use one of: {", ".join(masks)}.'
    )
  x, y = x[masks[split]].astype(np.float32), y[masks[split]].astype(np.int32)
  return Source(
    take=lambda index: x[np.asarray(index)],
    y=y,
    num_classes=int(y.max()) + 1,
    shape=x.shape[1:],
    name=name,
  )
