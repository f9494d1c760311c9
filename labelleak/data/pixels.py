"""Images behind a source: decoded when taken, remembered, normalised."""

from collections.abc import Callable, Sequence
from concurrent import futures
import os

import numpy as np

_CACHE_BYTES = 2**30


def box(mean: Sequence[float], std: Sequence[float]) -> tuple:
  """`Source.box` of pixels less `mean`, over `std`; both by channel."""
  mean, std = np.atleast_1d(np.float32(mean)), np.atleast_1d(np.float32(std))
  return -mean / std, (1 - mean) / std


def take(
  records: Sequence,
  decode: Callable,
  shape: tuple,
  mean: Sequence[float],
  std: Sequence[float],
) -> Callable:
  """`Source.take` of encoded images: rows [n] -> float32 [n, *shape].

  Args:
    records: N encoded images; `records.__getitems__(rows)` gives a list.
    decode: one record -> uint8 of `shape`.
    shape: of an example, channels last.
    mean: by channel, in [0, 1].
    std: by channel.
  """
  fetch = _remembering(records, decode, shape)
  # Full shapes: numpy is slow to broadcast over three channels.
  mean, std = np.float32(mean), np.float32(std)
  scale = np.broadcast_to(1 / (255 * std), shape).copy()
  shift = np.broadcast_to(mean / std, shape).copy()

  def taken(rows):
    x = fetch(np.asarray(rows)) * scale
    return np.subtract(x, shift, out=x)

  return taken


def _remembering(records, decode, shape):
  """rows [n] -> uint8 [n, *shape]; remembers small data sets as it goes."""
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
