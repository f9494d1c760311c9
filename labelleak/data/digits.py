"""Handwritten digits (UCI), inside scikit-learn: no network, no files."""

from typing import Optional

import numpy as np
from sklearn import datasets

from labelleak.data import Source
from labelleak.data.reading import arrays, pixels


def digits(
  *,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  normalise: bool = True,
) -> Source:
  """Loads handwritten digits, 1797 grey images [8, 8, 1], 10 classes.

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
  test = np.arange(len(y)) >= len(y) * 3 // 4
  source = arrays.source('digits', (x - mean) / std, y, test, split)
  return source._replace(pixel_range=pixels.pixel_range(mean, std))
