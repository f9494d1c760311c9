"""Labels that stand for no examples: what labels alone decide."""

from typing import Optional

import numpy as np

from labelleak import validate
from labelleak.data import Source


def labels(
  *,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  num_classes: int = 10,
  per_class: int = 100,
) -> Source:
  """Makes examples [1] of zeros, so that a linear model's softmax is uniform.

  Args:
    split: ignored.
    data_dir: ignored.
    num_classes: K.
    per_class: examples of each class; rows are sorted by class.

  Raises:
    InputError: fewer than two classes, or no example.
  """
  del split, data_dir
  validate.whole('labels: num_classes', num_classes, 2)
  validate.whole('labels: per_class', per_class, 1)
  y = np.repeat(np.arange(num_classes, dtype=np.int32), per_class)
  take = lambda index: np.zeros((len(y[index]), 1), np.float32)
  return Source(take, y, num_classes, (1,), f'labels alone/{num_classes}')
