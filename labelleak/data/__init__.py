"""Data: sources of examples (host numpy), loaded by name, and batch plans."""

from collections.abc import Callable
import re
from typing import NamedTuple, Optional

import numpy as np

from labelleak import base


class Source(NamedTuple):
  """A labelled data set, or one split of it, on the host."""

  take: Callable  # index [n] int -> float32 [n, H, W, C] | [n, F], normalised
  y: np.ndarray  # [N] int32 labels in [0, K)
  num_classes: int  # K
  shape: tuple  # of one example
  name: str  # what a row of results shows


def load(
  name: str,
  *,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  **options,
) -> Source:
  """Loads a split; labels are read at once, examples when they are taken.

  Args:
    name: 'embedded.digits', 'synthetic.images' or any other constructor by its
      dotted name (see `base.load`; it takes `split` and `data_dir`); otherwise
      a data set of tensorflow_datasets ('cifar100', 'imagenet2012', ...) or the
      directory of a prepared one ('../shared/tfds/imagenet_sample/1.0.0').
    split: None is the evaluation split, as in the published runs: 'test' where
      it exists and is labelled, otherwise 'validation'.
    data_dir: where prepared data sets live; default `TFDS_DATA_DIR`, then
      ~/tensorflow_datasets. Sources without files ignore it.
    **options: of the constructor; `prepared.images` documents those of tfds.

  Raises:
    InputError: no such name, split or option; the data set is not prepared.
  """
  if not re.fullmatch(r'[A-Za-z_]\w*(\.[A-Za-z_]\w*)+', name):
    name, options = 'prepared.images', dict(options, dataset=name)
  return base.load('data', name, split=split, data_dir=data_dir, **options)
