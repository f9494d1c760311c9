"""The size of images: scaling and cropping as torchvision does it."""

from typing import Optional

from PIL import Image

from labelleak.base import InputError

Shape = tuple[Optional[int], ...]  # (H, W, C), None where images vary


def geometry(
  name: str, stored: Shape, size: Optional[int]
) -> tuple[Shape, Optional[int]]:
  """Returns an example's shape, and what its shorter side becomes, if else."""
  height, width, channels = stored
  varies = None in (height, width)
  if size is None and varies:
    raise InputError(f'{name}: its images vary in size; add size=224, say.')
  if size is None or (height, width) == (size, size):
    return tuple(stored), None
  return (size, size, channels), round(size * 256 / 224) if varies else size


def check_size(name: str, image: Image.Image, stored: Shape) -> None:
  """Refuses an image of another size than the data set declares."""
  size = image.height, image.width
  if any(s not in (None, side) for s, side in zip(stored, size)):
    raise InputError(
      f'{name}: an image of {size} pixels in place of {stored[:2]}; prepare it'
      ' again.'
    )


def frame(image: Image.Image, shorter: int, size: int) -> Image.Image:
  """Scales the shorter side, then crops the centre [size, size].

  Rounds as torchvision's Resize and CenterCrop do.
  """
  scale = lambda side: int(shorter * side / min(image.size))
  image = image.resize(tuple(map(scale, image.size)), Image.Resampling.BILINEAR)
  return centre(image, size)


def centre(image: Image.Image, size: int) -> Image.Image:
  """Crops the central [size, size]."""
  left, top = (round((side - size) / 2) for side in image.size)
  return image.crop((left, top, left + size, top + size))


def crop_shape(name: str, shape: Shape, crop: Optional[int]) -> Shape:
  """Returns the shape of an example after cropping."""
  if crop is None:
    return shape
  if crop > min(shape[:2]):
    raise InputError(
      f'crop={crop} is larger than the images of {name}, {shape[:2]}; lower it.'
    )
  return (crop, crop, shape[2])
