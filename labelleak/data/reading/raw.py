"""Images as their makers distribute them: IDX, and the records of CIFAR."""

from collections.abc import Callable, Mapping, Sequence
import functools
import gzip
import io
import math
import pathlib
import tarfile
from typing import NamedTuple
import zlib

import numpy as np

from labelleak.base import InputError

_SIDE = 32  # of CIFAR's images
_IDX = '{}-images-idx3-ubyte.gz', '{}-labels-idx1-ubyte.gz'
_TRAIN = tuple(f'data_batch_{i}.bin' for i in range(1, 6))


class Images(NamedTuple):
  """Labelled images.

  Attributes:
    x: [N, H, W, C] uint8.
    y: [N] uint8 labels in [0, K).
  """

  x: np.ndarray
  y: np.ndarray


Read = Callable[..., Images]  # the files of a split -> its images


class Part(NamedTuple):
  """One split of a distribution: its files, and what reads them."""

  files: tuple[str, ...]
  read: Read


class Distribution(NamedTuple):
  """What a maker distributes, and how tfds calls it."""

  version: str
  num_classes: int
  splits: Mapping[str, Part]


def idx(images: pathlib.Path, labels: pathlib.Path) -> Images:
  """Reads a pair of IDX files, compressed by gzip (LeCun et al.).

  Raises:
    InputError: one of them is damaged, of another kind, or of another length.
  """
  x, y = _array(images, 3)[..., None], _array(labels, 1)
  if len(x) != len(y):
    raise InputError(
      f'{labels} has {len(y)} labels for the {len(x)} images of {images}; fetch'
      ' both again.'
    )
  return Images(x, y)


def cifar(archive: pathlib.Path, names: Sequence[str], labels: int) -> Images:
  """Reads the binary version of CIFAR-10 or CIFAR-100 (Krizhevsky).

  Args:
    archive: a .tar.gz; nothing of it is unpacked on disk.
    names: of the files in it, in order.
    labels: bytes before an image; the last one is the label.

  Raises:
    InputError: the archive is damaged, or lacks a file.
  """
  try:
    contents = gzip.decompress(archive.read_bytes())  # checks their digest
    with tarfile.open(fileobj=io.BytesIO(contents)) as tar:
      members = {pathlib.PurePath(m.name).name: m for m in tar if m.isfile()}
      parts = [tar.extractfile(members[name]).read() for name in names]
  except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as e:
    raise _damage(archive, f'no archive of {", ".join(names)}', e) from e
  width = labels + _SIDE * _SIDE * 3
  if any(len(part) % width or not part for part in parts):
    raise _damage(archive, f'records of other than {width} bytes')
  rows = np.frombuffer(b''.join(parts), np.uint8).reshape(-1, width)
  x = rows[:, labels:].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
  return Images(x, rows[:, labels - 1])


def _array(file: pathlib.Path, ndim: int) -> np.ndarray:
  """Reads an IDX file of bytes with `ndim` axes."""
  try:
    contents = gzip.decompress(file.read_bytes())
  except (OSError, EOFError, zlib.error) as e:
    raise _damage(file, 'no gzip file', e) from e
  start = 4 + 4 * ndim
  header = contents[:start].ljust(start, b'\0')
  magic, *shape = map(int, np.frombuffer(header, '>u4'))
  values = np.frombuffer(contents[start:], np.uint8)
  if magic != 0x800 + ndim or not 0 < len(values) == math.prod(shape):
    raise _damage(file, f'no IDX file of bytes with {ndim} axes')
  return values.reshape(shape)


def _damage(file, what, error=None):
  """Returns the error that says what is wrong with a file."""
  reason = f' ({" ".join(str(error).split())})' if error else ''
  return InputError(f'{file} holds {what}{reason}; fetch it again.')


def _mnist(version):
  """Returns a distribution of four IDX files."""
  splits = {
    split: Part(tuple(name.format(prefix) for name in _IDX), idx)
    for split, prefix in (('train', 'train'), ('test', 't10k'))
  }
  return Distribution(version, 10, splits)


def _cifar(archive, num_classes, train, test, labels):
  """Returns a distribution of one archive."""
  splits = {
    split: Part(
      (archive,), functools.partial(cifar, names=names, labels=labels)
    )
    for split, names in (('train', train), ('test', test))
  }
  return Distribution('3.0.2', num_classes, splits)


DISTRIBUTIONS = {
  'mnist': _mnist('3.0.1'),
  'fashion_mnist': _mnist('3.0.1'),
  'kmnist': _mnist('3.0.1'),
  'cifar10': _cifar(
    'cifar-10-binary.tar.gz', 10, _TRAIN, ('test_batch.bin',), labels=1
  ),
  'cifar100': _cifar(
    'cifar-100-binary.tar.gz', 100, ('train.bin',), ('test.bin',), labels=2
  ),
}
