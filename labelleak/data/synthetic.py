"""Synthetic examples: any shape, any number of classes, no files."""

from collections.abc import Sequence
import math
from typing import Optional
import zlib

import numpy as np

from labelleak import validate
from labelleak.data import Source
from labelleak.data.reading import pixels

_REACH = 3  # deviations from grey to black and to white
_CELLS = 4  # a class pattern is constant on a 4 x 4 grid, as coarse as objects


def synthetic(
  *,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  shape: Sequence[int] = (32, 32, 3),
  num_classes: int = 10,
  per_class: int = 100,
  noise: float = 1.0,
  seed: int = 0,
) -> Source:
  """Makes a coarse random pattern per class plus white noise, of unit variance.

  An example depends on (seed, split, index) alone and is made when taken, so
  that N is free. Splits share the patterns and differ in the noise.

  Args:
    split: any name; default 'test'.
    data_dir: ignored.
    shape: of one example, (H, W, C) or (F,).
    num_classes: K.
    per_class: examples of each class; rows are sorted by class.
    noise: its deviation relative to the pattern's; 0 makes a class one image.
    seed: of patterns and noise.

  Raises:
    InputError: fewer than two classes, an empty shape, negative noise or seed.
  """
  del data_dir
  shape = tuple(shape)
  validate.whole('synthetic: num_classes', num_classes, 2)
  validate.whole('synthetic: per_class', per_class, 1)
  validate.whole('synthetic: the least of shape', min(shape, default=0), 1)
  validate.at_least('synthetic: noise', noise, 0)
  validate.whole('synthetic: seed', seed, 0)
  y = np.repeat(np.arange(num_classes, dtype=np.int32), per_class)
  stream = zlib.crc32((split or 'test').encode())

  def take(index):
    rows = np.arange(len(y))[np.asarray(index)]
    out = np.empty((len(rows), *shape), np.float32)
    for k, i in enumerate(rows):
      rng = np.random.default_rng([seed, 1, stream, i])
      grain = noise * rng.standard_normal(shape, dtype=np.float32)
      out[k] = (_pattern(seed, y[i], shape) + grain) / math.hypot(1, noise)
    return out

  name = f'synthetic {"x".join(map(str, shape))}/{num_classes}'
  source = Source(take, y, num_classes, shape, name)
  if len(shape) != 3:
    return source
  grey = pixels.pixel_range(0.5, 1 / (2 * _REACH))
  return source._replace(pixel_range=grey)


def _pattern(seed: int, label: int, shape: tuple[int, ...]) -> np.ndarray:
  """Draws a class mean [*shape]: coarse over space, free over channels."""
  rng = np.random.default_rng([seed, 0, label])
  coarse = tuple(min(n, _CELLS) for n in shape[:-1]) + shape[-1:]
  cells = np.ix_(*(np.arange(n) * c // n for n, c in zip(shape, coarse)))
  return rng.standard_normal(coarse, dtype=np.float32)[cells]
