"""Breast cancer Wisconsin (UCI), inside scikit-learn: no network, no files."""

from typing import Optional

import numpy as np
from sklearn import datasets

from labelleak.data import Source
from labelleak.data.reading import arrays


def breast_cancer(
  *,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  normalise: bool = True,
) -> Source:
  """Loads breast cancer Wisconsin, 569 rows [30], 2 classes.

  Every fourth row is test: the file starts with the malignant cases.

  Args:
    split: 'train', 'test' (default) or 'all'.
    data_dir: ignored.
    normalise: standardise with the mean and deviation of the training rows.
  """
  del data_dir
  x, y = datasets.load_breast_cancer(return_X_y=True)
  test = np.arange(len(y)) % 4 == 3
  if normalise:
    x = (x - x[~test].mean(0)) / x[~test].std(0)
  return arrays.source('breast_cancer', x, y, test, split)
