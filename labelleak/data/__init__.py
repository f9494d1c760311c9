"""Data: sources of examples (host numpy), loaded by name, and batch plans."""

from collections.abc import Callable, Sequence
import re
from typing import NamedTuple, Optional

import numpy as np

from labelleak import base, registry


class Source(NamedTuple):
  """A labelled data set, or one split of it, on the host."""

  # index [n] int -> float32 [n, H, W, C] or [n, F], normalised; text int32
  take: Callable
  y: np.ndarray  # [N] int32 labels in [0, K)
  num_classes: int  # K
  shape: tuple  # of one example
  name: str  # what a row of results shows
  # What black and white became, 2 x [C] or [1]; None where nothing is a pixel.
  box: Optional[tuple] = None


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
      dotted name (`registry.load`; it takes `split` and `data_dir`); otherwise
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
  return registry.load('data', name, split=split, data_dir=data_dir, **options)


def of_classes(source: Source, classes: Sequence[int]) -> Source:
  """The examples of some classes, relabelled 0, 1, ... in the order given.

  Raises:
    InputError: fewer than two classes, a class that the source lacks or one
      that is named twice.
  """
  classes = list(classes)
  valid = set(classes) <= set(range(source.num_classes))
  if len(classes) < 2 or len(set(classes)) < len(classes) or not valid:
    raise base.InputError(
      f'classes {classes} of {source.name} must be two or more different ones'
      f' of 0..{source.num_classes - 1}; change them.'
    )
  if classes == list(range(source.num_classes)):
    return source
  new = np.full(source.num_classes, -1)
  new[classes] = np.arange(len(classes))
  rows = np.flatnonzero(new[source.y] >= 0)
  return source._replace(
    take=lambda index: source.take(rows[np.asarray(index)]),
    y=new[source.y[rows]].astype(np.int32),
    num_classes=len(classes),
  )
