"""Image data sets that tensorflow_datasets prepared, read without TensorFlow.

Labels are parsed without decoding an image, images are decoded when taken.
Nothing is ever downloaded.
"""

from collections.abc import Sequence
import io
from typing import Optional

import numpy as np

from labelleak import validate
from labelleak.data import Source
from labelleak.data.reading import builders, framing, pixels, records
from labelleak.data.reading.framing import Shape
from labelleak.data.reading.pixels import Decode
from labelleak.data.reading.records import Parse

# Mean and deviation by prefix of the name, as in the published runs.
_STATISTICS = {
  'cifar100': (
    (0.5071598291397095, 0.4866936206817627, 0.44120192527770996),
    (0.2673342823982239, 0.2564384639263153, 0.2761504650115967),
  ),
  'cifar10': ((0.49147, 0.48226, 0.44677), (0.24703, 0.24349, 0.26159)),
  'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  'mnist': ((0.1307,), (0.3081,)),
  '': ((0.5,), (0.5,)),
}
_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}


def images(
  *,
  dataset: str,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  size: Optional[int] = None,
  crop: Optional[int] = None,
  grey: bool = False,
  classes: Optional[int] = None,
  copies: int = 1,
  normalise: bool = True,
) -> Source:
  """Loads a prepared data set of labelled images.

  `size` scales the shorter side and crops the centre to [size, size]. Images
  of a fixed size were framed by whoever made the data set: their shorter side
  becomes `size`, so that a square image keeps its border. Images of varying
  size (ImageNet) follow the published protocol, Resize(256) and
  CenterCrop(224): the shorter side becomes size * 256 / 224. Scaling is PIL's
  bilinear filter, which averages over the area when it shrinks.

  Args:
    dataset: name, 'name/config' or 'name:version' of tfds, or a directory.
    split: a split or slice of tfds ('train[:10%]'); None as in `data.load`.
    data_dir: see `data.load`.
    size: side of the images; needed where they vary in size.
    crop: keeps the central [crop, crop] of what that gives.
    grey: luma (ITU-R 601) instead of colours.
    classes: merges the labels into this many groups of consecutive ones.
    copies: repeats the rows, so that a small data set stands in for the label
      statistics of a large one.
    normalise: with the data set's constants, grey images with the means of
      those by channel; otherwise in [0, 1].

  Raises:
    InputError: unknown or unprepared data set, no such split, no labels, or an
      option out of range.
  """
  sizes = dict(size=size, crop=crop, classes=classes, copies=copies)
  for option, value in sizes.items():
    if value is not None:
      validate.whole(option, value, 1)
  builder = builders.open_directory(builders.find(dataset, data_dir))
  image_key, label_key = records.keys(builder)
  name = builder.info.full_name.rpartition('/')[0]  # without the version
  images, y = records.read_labels(builder, split, label_key)
  height, width, channels = records.image_shape(builder, image_key, _MODES)
  stored = height, width, 1 if grey else channels
  frame, shorter = framing.geometry(name, stored, size)
  shape = framing.crop_shape(name, frame, crop)
  num_classes = builder.info.features[label_key].num_classes
  if classes is not None:
    y, num_classes = _merge(name, y, num_classes, classes), classes
  mean, std = _statistics(name) if normalise else ((0.0,), (1.0,))
  if grey:
    mean, std = np.mean(mean), np.mean(std)
  parse = records.parser(builder, image_key)
  decode = _decoder(
    name, parse, stored, shape, shorter=shorter, size=size, crop=crop
  )
  take = pixels.lazy_take(images, decode, shape, mean, std)
  rows = np.tile(np.arange(len(images)), copies)
  changes = (
    (shorter is not None, f' {size}px'),
    (shape != frame, f' crop {crop}'),
    (grey, ' grey'),
    (classes is not None, f'/{classes}'),
    (copies > 1, f' x{copies}'),
  )
  return Source(
    take=lambda index: take(rows[np.asarray(index)]),
    y=np.tile(y, copies),
    num_classes=num_classes,
    shape=shape,
    name=name + ''.join(text for applies, text in changes if applies),
    pixel_range=pixels.pixel_range(mean, std),
  )


def _decoder(
  name: str,
  parse: Parse,
  stored: Shape,
  shape: Shape,
  *,
  shorter: Optional[int],
  size: Optional[int],
  crop: Optional[int],
) -> Decode:
  """Returns what decodes a record of size `stored`, framed to `shape`."""

  def decode(record):
    file = io.BytesIO(parse(record))
    image = pixels.read(file, _MODES[shape[-1]], name=f'an image of {name}')
    framing.check_size(name, image, stored)
    if shorter is not None:
      image = framing.frame(image, shorter, size)
    if crop is not None:
      image = framing.centre(image, crop)
    return np.asarray(image).reshape(shape)

  return decode


def _statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
  """Returns mean and deviation of the first prefix that fits."""
  return next(v for k, v in _STATISTICS.items() if name.startswith(k))


def _merge(
  name: str, y: np.ndarray, num_classes: int, classes: int
) -> np.ndarray:
  """Merges labels into `classes` groups of consecutive ones."""
  validate.whole('classes', classes, 2, num_classes, f'the labels of {name}')
  return y * classes // num_classes
