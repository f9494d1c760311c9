"""Images behind a source: decoded when taken, remembered, normalised."""

from collections.abc import Callable, Sequence
from concurrent import futures
import io
import os
import pathlib
from typing import Any, Protocol

import numpy as np
from PIL import Image

from labelleak.base import InputError, Take

_CACHE_BYTES = 2**30

Decode = Callable[[Any], np.ndarray]  # a record -> uint8 of an example's shape


class Records(Protocol):
  """N encoded images, with the access that tensorflow_datasets gives."""

  def __len__(self) -> int:
    """Counts the records."""

  def __getitems__(self, rows: Sequence[int]) -> list:
    """Fetches the records of these rows."""


def read(
  file: pathlib.Path | io.BytesIO, mode: str = 'RGB', *, name: str = ''
) -> Image.Image:
  """Reads an image of 8 bits a channel.

  Args:
    file: its path, or its bytes.
    mode: PIL's, 'RGB' or 'L', say.
    name: what an error calls it; default its path.

  Raises:
    InputError: it cannot be decoded, or has more bits, which PIL would clip.
  """
  name = name or str(file)
  try:
    with Image.open(file) as image:
      stored, converted = image.mode, image.convert(mode)
  except Exception as e:  # PIL's decoders raise many kinds
    reason = ' '.join(str(e).split()) or type(e).__name__
    raise InputError(f'{name} is no image ({reason}); fetch it again.') from e
  if stored.startswith(('I', 'F')):
    raise InputError(
      f'{name} has pixels of mode {stored}, not of 8 bits a channel; scale them'
      ' to 0..255 and save it again.'
    )
  return converted


def pixel_range(
  mean: float | Sequence[float], std: float | Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns what black and white become less `mean`, over `std`, by channel."""
  mean, std = np.atleast_1d(np.float32(mean)), np.atleast_1d(np.float32(std))
  return -mean / std, (1 - mean) / std


def lazy_take(
  records: Records,
  decode: Decode,
  shape: tuple[int, ...],
  mean: float | Sequence[float],
  std: float | Sequence[float],
) -> Take:
  """Builds the `Source.take` of encoded images, of a shape with channels last.

  Pixels in [0, 1] are normalised by mean and deviation, by channel.
  """
  fetch = _remember(records, decode, shape)
  # Full shapes: numpy is slow to broadcast over three channels.
  mean, std = np.float32(mean), np.float32(std)
  scale = np.broadcast_to(1 / (255 * std), shape).copy()
  shift = np.broadcast_to(mean / std, shape).copy()

  def take(index):
    x = fetch(np.asarray(index)) * scale
    return np.subtract(x, shift, out=x)

  return take


def _remember(records: Records, decode: Decode, shape: tuple[int, ...]) -> Take:
  """Fetches rows [n] as uint8 [n, *shape]; remembers small data sets."""
  small = len(records) * int(np.prod(shape)) < _CACHE_BYTES
  cache = np.zeros((len(records) if small else 0, *shape), np.uint8)
  cached = np.zeros(len(cache), bool)

  def read(rows):
    out = np.empty((len(rows), *shape), np.uint8)
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      raw = records.__getitems__(rows.tolist()) if len(rows) else []
      for k, image in enumerate(pool.map(decode, raw)):
        out[k] = image
    return out

  def fetch(rows):
    unique, inverse = np.unique(rows, return_inverse=True)
    if not small:
      return read(unique)[inverse]
    new = unique[~cached[unique]]
    if len(new):
      cache[new] = read(new)
      cached[new] = True
    return cache[rows]

  return fetch
