"""Folders of images, fetched by hand: CINIC-10 and TinyImageNet.

File names are listed at once, images are decoded when taken.
"""

from collections.abc import Sequence
import pathlib
from typing import Optional

import numpy as np
from PIL import Image

from labelleak.base import InputError
from labelleak.data import Source, files, pixels

_CINIC = 'https://datashare.ed.ac.uk/handle/10283/3192'
_TINY = 'http://cs231n.stanford.edu/tiny-imagenet-200.zip'
_CINIC_CLASSES = (
  *('airplane', 'automobile', 'bird', 'cat', 'deer'),
  *('dog', 'frog', 'horse', 'ship', 'truck'),
)
# Mean and deviation by channel, as in the published runs.
_CINIC_SCALE = (
  (0.47889522, 0.47227842, 0.43047404),
  (0.24205776, 0.23828046, 0.25874835),
)
_IMAGENET_SCALE = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def cinic10(
  *,
  path: str,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  normalise: bool = True,
) -> Source:
  """CINIC-10 (Darlow et al., 2018), images [32, 32, 3], 10 classes.

  Layout: <train|valid|test>/<class>/*.png. As in Fu et al., train and valid
  together are the training split.

  Args:
    path: directory of the three; relative to `data_dir`, if given.
    split: 'train' or 'test' (default).
    data_dir: see `data.load`.
    normalise: with the data set's constants; otherwise in [0, 1].

  Raises:
    InputError: a class has no folder or no image; no such split. (take) An
      image cannot be decoded or has another size.
  """
  parts = ('test',) if files.evaluates('cinic10', split) else ('train', 'valid')
  find = files.finder(path, data_dir, _CINIC)
  listed = [
    ((file,), label)
    for part in parts
    for label, name in enumerate(_CINIC_CLASSES)
    for file in listing(find(part, name), '*.png')
  ]
  scale = _CINIC_SCALE if normalise else None
  return source('cinic10', listed, 10, (32, 32, 3), scale)


def tiny_imagenet(
  *,
  path: str,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  normalise: bool = True,
) -> Source:
  """TinyImageNet, images [64, 64, 3], 200 classes in the order of their wnids.

  Layout: wnids.txt, a class a line; train/<wnid>/images/*.JPEG; val/images/ and
  val/val_annotations.txt, whose lines are file, wnid and a box of four numbers.
  'test' is the labelled val folder: the labels of the test folder are withheld.

  Args:
    path: directory of wnids.txt; relative to `data_dir`, if given.
    split: 'train' or 'test' (default).
    data_dir: see `data.load`.
    normalise: with ImageNet's constants; otherwise in [0, 1].

  Raises:
    InputError: a file is missing, or a line of val_annotations.txt has other
      than six columns or an unknown class; no such split. (take) An image
      cannot be decoded or has another size.
  """
  test = files.evaluates('tiny_imagenet', split)
  find = files.finder(path, data_dir, _TINY)
  wnids = sorted(find('wnids.txt').read_text().split())
  labels = {wnid: label for label, wnid in enumerate(wnids)}
  if test:
    listed = list(_annotated(find, labels))
  else:
    listed = [
      ((file,), label)
      for wnid, label in labels.items()
      for file in listing(find('train', wnid, 'images'), '*.JPEG')
    ]
  scale = _IMAGENET_SCALE if normalise else None
  return source('tiny_imagenet', listed, len(wnids), (64, 64, 3), scale)


def source(
  name: str,
  listed: Sequence[tuple],
  num_classes: int,
  shape: tuple,
  scale: Optional[tuple],
  *,
  fit: bool = False,
) -> Source:
  """A source of images that lie in files, decoded when taken.

  Args:
    name: what a row of results shows.
    listed: pairs of an example's files, one or a stack, and its label.
    num_classes: K.
    shape: of an example, (H, W, 3) or (stack, H, W, 3).
    scale: mean and deviation by channel; None leaves pixels in [0, 1].
    fit: scales images of another size to (H, W), which are otherwise refused.
  """

  def decode(group):
    return np.stack([_pixels(f, shape[-2], fit) for f in group]).reshape(shape)

  mean, std = scale or ((0.0,), (1.0,))
  groups = _Groups(group for group, _ in listed)
  take = pixels.take(groups, decode, shape, mean, std)
  y = np.array([label for _, label in listed], np.int32)
  box = pixels.box(mean, std)
  return Source(take, y, num_classes, shape, name, box)


def listing(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
  """Files below a folder that match, sorted.

  Raises:
    InputError: there is none.
  """
  found = sorted(folder.glob(pattern))
  if not found:
    raise InputError(
      f'{folder.absolute()} holds no {pattern}; unpack the data set again.'
    )
  return found


def read(file: pathlib.Path) -> Image.Image:
  """The image of a file, in red, green and blue.

  Raises:
    InputError: it cannot be decoded.
  """
  try:
    with Image.open(file) as image:
      return image.convert('RGB')
  except OSError as e:
    raise InputError(f'{file} is no image ({e}); fetch it again.') from e


class _Groups(list):
  """Files by example, fetched as records of tensorflow_datasets are."""

  def __getitems__(self, rows):
    return [self[row] for row in rows]


def _pixels(file, side, fit):
  """An image as uint8 [side, side, 3]."""
  image = read(file)
  if image.size != (side, side):
    if not fit:
      raise InputError(
        f'{file}: expected {side} x {side} pixels, found {image.width} x'
        f' {image.height}; fetch it again.'
      )
    image = image.resize((side, side), Image.Resampling.BILINEAR)
  return np.asarray(image)


def _annotated(find, labels):
  """Pairs of TinyImageNet's val folder."""
  notes = find('val', 'val_annotations.txt')
  for number, line in enumerate(notes.read_text().splitlines(), 1):
    columns = line.split('\t')
    if len(columns) != 6 or columns[1] not in labels:
      raise InputError(
        f'{notes}, line {number}: expected 6 columns, a class of wnids.txt in'
        f' the second, found {len(columns)}: {line[:40]!r}; fetch it again.'
      )
    yield (find('val', 'images', columns[0]),), labels[columns[1]]
