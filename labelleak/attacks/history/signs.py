"""What cut gradients say where nothing was added to them: labels, exactly.

A row of S - Y sums to 0 and has one negative entry, its label's, as large as
all others together. So whatever is left of a row after small entries were set
to 0, or all of it was scaled, holds that entry, or nothing. Noise would have
another sign or sum in half of the rows.
"""

from collections.abc import Sequence
from typing import Optional

import numpy as np

_ENOUGH = 20  # rows that are named: what chance does once in a million
_ROUNDING = 1e-6  # of an entry of S - Y


def read(cuts: Sequence[np.ndarray]) -> Optional[list[np.ndarray]]:
  """Returns the labels that steps name, one-hot [n, K] or zeros for no word.

  Args:
    cuts: B U of the rows of each step, [n, K].

  Returns:
    None where some row has other signs, or too few are named to say so; always
    of two classes, where signs of centred noise are the same.
  """
  if not cuts or cuts[0].shape[1] < 3 or not all(map(_is_clean, cuts)):
    return None
  labels = [np.float32(cut < 0) for cut in cuts]
  return labels if sum(each.sum() for each in labels) >= _ENOUGH else None


def _is_clean(cut):
  """Returns whether all rows of a step have the signs of S - Y.

  Where the softmax rounds to its label no entry is negative, and sums show that
  others are next to nothing.
  """
  total, negative = cut.sum(1), (cut < 0).sum(1)
  whole = (cut != 0).all(1)
  excess = np.where(whole, np.abs(total), total)
  return bool(((excess <= _ROUNDING * cut.shape[1]) & (negative <= 1)).all())
