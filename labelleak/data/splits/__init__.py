"""Vertical splits: which features of an example each party holds.

A config names a split; its constructor takes the shape of a source's example,
so that a split which does not fit is refused before any model is built:

  source = data.load('digits')
  split = registry.load('data', 'splits.rows', shape=source.shape)
  top, bottom = split(source.take(index))  # [n, 4, 8, 1] each

A split is a pure function of x [n, *shape], NumPy or JAX, to P arrays [n, ...].
The last party is the active one. `shared` features overlap: party 0 holds them
beside its own, and the parties that they belong to keep them (Fu et al., USENIX
Security 2022, section 5.2: the adversary adds two overlapping features).
"""

from collections.abc import Callable, Sequence
from typing import Optional

import chex
import numpy as np

from labelleak import validate
from labelleak.base import InputError
from labelleak.data.splits import blocks
from labelleak.data.splits.blocks import Index

# x [n, *shape], NumPy or JAX -> P x [n, ...]
Split = Callable[[chex.Array], tuple[chex.Array, ...]]


def rows(
  *,
  shape: Sequence[int],
  parties: Optional[int] = None,
  sizes: Optional[Sequence[int]] = None,
  order: Optional[Sequence[int]] = None,
  shared: int = 0,
) -> Split:
  """Cuts an image into bands, party 0 on top: P x [n, H_p, W, C] (VFLAIR).

  Args:
    shape: (H, W, C) of an example.
    parties: P, default 2; bands are as even as can be, the first ones larger.
    sizes: of the bands instead, H in all.
    order: order[p] is the band of party p; default 0, 1, ...; (1, 0) gives the
      lower half to party 0.
    shared: rows that party 0 holds beside its own: those of party 1, then of
      party 2, and so on.

  Raises:
    InputError: the shape is no image's, or the bands do not fit it.
  """
  shape = _check_shape('rows', shape, 'H', 'W', 'C')
  bands = blocks.deal('rows', shape[0], parties, sizes, order, shared)
  return _split(shape, [(band,) for band in bands])


def columns(
  *,
  shape: Sequence[int],
  parties: Optional[int] = None,
  sizes: Optional[Sequence[int]] = None,
  order: Optional[Sequence[int]] = None,
  shared: int = 0,
) -> Split:
  """Cuts an image into bands, party 0 on the left: P x [n, H, W_p, C].

  The adversary's `half` columns of Fu et al. are sizes=(half, W - half).
  Arguments and errors are those of `rows`, with W for H.
  """
  shape = _check_shape('columns', shape, 'H', 'W', 'C')
  bands = blocks.deal('columns', shape[1], parties, sizes, order, shared)
  return _split(shape, [(slice(None), band) for band in bands])


def quarters(*, shape: Sequence[int]) -> Split:
  """Cuts an image into quarters: top left and right, bottom left and right.

  Those of four parties in VFLAIR.

  Args:
    shape: (H, W, C) of an example; of an odd side the first part is larger.

  Raises:
    InputError: the shape is no image's, or a side is shorter than 2.
  """
  shape = _check_shape('quarters', shape, 'H', 'W', 'C')
  across = list(map(blocks.index, blocks.cut('columns', shape[1], parties=2)))
  down = map(blocks.index, blocks.cut('rows', shape[0], parties=2))
  return _split(shape, [(r, c) for r in down for c in across])


def features(
  *,
  shape: Sequence[int],
  parties: Optional[int] = None,
  sizes: Optional[Sequence[int]] = None,
  order: Optional[Sequence[int]] = None,
  shared: int = 0,
) -> Split:
  """Cuts a table's columns or tokens into blocks: P x [n, F_p].

  Arguments and errors are those of `rows`, with F for H and a table of shape
  (F,) for the image.
  """
  shape = _check_shape('features', shape, 'F')
  parts = blocks.deal('features', shape[0], parties, sizes, order, shared)
  return _split(shape, [(part,) for part in parts])


def random_features(
  *,
  shape: Sequence[int],
  fraction: float,
  parties: int = 2,
  seed: int = 0,
) -> Split:
  """Draws the features of party 0; the others share those that are left.

  Parties see flat vectors, P x [n, F_p]; F counts all entries of an example.
  At one seed a larger fraction holds all of a smaller one, as the sweep over
  the adversary's share of features needs (Fu et al., section 5.2).

  Args:
    shape: of an example, any.
    fraction: of party 0, rounded to whole features, at least one.
    parties: P; the others share the rest as evenly as can be.
    seed: of the permutation.

  Raises:
    InputError: a fraction or a number of parties that leaves one without any.
  """
  validate.within('random_features: fraction', fraction, '[0, 1]')
  validate.whole('random_features: seed', seed, 0)
  shape = tuple(shape)
  size = int(np.prod(shape))
  num = round(fraction * size)
  if not (parties >= 2 and 1 <= num <= size - (parties - 1)):
    raise InputError(
      f'fraction={fraction} of {size} features leaves one of {parties} parties'
      ' (two at least) without any; change either.'
    )
  order = np.random.default_rng(seed).permutation(size)
  parts = [order[:num], *np.array_split(order[num:], parties - 1)]
  return _split(shape, [np.unravel_index(part, shape) for part in parts])


def assignment(
  *, shape: Sequence[int], columns: Sequence[Sequence[int]]
) -> Split:
  """Gives each party columns of a table by number: P x [n, F_p].

  What no list names nobody holds, such as a feature that is itself attacked
  (Fu et al., Appendix E).

  Args:
    shape: (F,) of an example.
    columns: P lists.

  Raises:
    InputError: the shape is no table's, fewer than two lists, an empty one, a
      column that the table lacks or that is named twice.
  """
  shape = _check_shape('assignment', shape, 'F')
  every = [c for part in columns for c in part]
  valid = set(every) <= set(range(shape[0])) and len(set(every)) == len(every)
  if not valid or len(columns) < 2 or not all(columns):
    raise InputError(
      f'columns={tuple(map(tuple, columns))} must be two or more lists of'
      f' different columns 0 to {shape[0] - 1}; change them.'
    )
  return _split(shape, [(blocks.index(np.array(part)),) for part in columns])


def patches(*, shape: Sequence[int], shared: int = 0) -> Split:
  """Gives each party one image of a stack: P x [n, H, W, C] (Fu et al., BHI).

  Args:
    shape: (P, H, W, C) of an example.
    shared: images that party 0 holds beside its own, those of parties 1, 2,
      ..., side by side: [n, H, (1 + shared) * W, C].

  Raises:
    InputError: the shape is no stack of two or more, or is too small to share.
  """
  shape = _check_shape('patches', shape, 'P', 'H', 'W', 'C')
  images = blocks.cut('patches', shape[0], parties=shape[0])
  split = _split(shape, [(i,) for i in blocks.share(images, shared)])
  return lambda x: tuple(_side_by_side(stack) for stack in split(x))


def _side_by_side(x: chex.Array) -> chex.Array:
  """Puts a stack's images side by side, [n, k, H, W, C] -> [n, H, k W, C]."""
  num, stack, height, width, channels = x.shape
  return x.swapaxes(1, 2).reshape(num, height, stack * width, channels)


def _check_shape(
  name: str, shape: Sequence[int], *axes: str
) -> tuple[int, ...]:
  """Returns a shape as a tuple, if it has the rank that a split needs."""
  shape = tuple(shape)
  if len(shape) != len(axes):
    raise InputError(
      f'splits.{name} cuts examples of shape ({", ".join(axes)}), not'
      f' {shape}; use another split or data set.'
    )
  return shape


def _split(shape: tuple[int, ...], keys: Sequence[tuple[Index, ...]]) -> Split:
  """Builds the split whose party p holds x[:, *keys[p]]."""

  def split(x):
    if tuple(x.shape[1:]) != shape:
      raise InputError(
        f'this split cuts examples of shape {shape}, not {tuple(x.shape[1:])};'
        ' build it for the source that they come from.'
      )
    return tuple(x[(slice(None), *key)] for key in keys)

  return split
