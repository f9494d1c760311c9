"""Images in files: listed at once, decoded when taken."""

from collections.abc import Sequence
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from labelleak.base import InputError
from labelleak.data import Source
from labelleak.data.reading import pixels

# An example's files, one or a stack, and its label.
Example = tuple[Sequence[pathlib.Path], int]


class Scale(NamedTuple):
  """Mean and deviation of pixels in [0, 1], by channel."""

  mean: Sequence[float]
  std: Sequence[float]


UNSCALED = Scale((0.0,), (1.0,))


def source(
  name: str,
  examples: Sequence[Example],
  *,
  num_classes: int,
  shape: tuple[int, ...],
  scale: Scale,
  resize: bool = False,
) -> Source:
  """Builds a source of images that lie in files, decoded when taken.

  An example is of `shape` (H, W, 3) or (stack, H, W, 3). Images of another size
  are scaled to (H, W) with `resize`, otherwise refused.
  """
  side = shape[-2]

  def decode(stack):
    images = [_decode(file, side, resize) for file in stack]
    return np.stack(images).reshape(shape)

  stacks = _Stacks(stack for stack, _ in examples)
  return Source(
    take=pixels.lazy_take(stacks, decode, shape, scale.mean, scale.std),
    y=np.array([label for _, label in examples], np.int32),
    num_classes=num_classes,
    shape=shape,
    name=name,
    pixel_range=pixels.pixel_range(scale.mean, scale.std),
  )


def list_files(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
  """Lists the files below a folder that match, sorted.

  Raises:
    InputError: there is none.
  """
  files = sorted(folder.glob(pattern))
  if not files:
    raise InputError(
      f'{folder.absolute()} holds no {pattern}; unpack the data set again.'
    )
  return files


class _Stacks(list):
  """Files by example, fetched as records of tensorflow_datasets are."""

  def __getitems__(self, rows: Sequence[int]) -> list:
    return [self[row] for row in rows]


def _decode(file: pathlib.Path, side: int, resize: bool) -> np.ndarray:
  """Decodes an image, uint8 [side, side, 3]."""
  image = pixels.read(file)
  if image.size != (side, side):
    if not resize:
      raise InputError(
        f'{file}: expected {side} x {side} pixels, found {image.width} x'
        f' {image.height}; fetch it again.'
      )
    image = image.resize((side, side), Image.Resampling.BILINEAR)
  return np.asarray(image)
