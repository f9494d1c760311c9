"""Vertical splits: which features of an example each party holds.

A config names a split; its constructor takes the shape of a source's example,
so that a split which does not fit is refused before any model is built:

  source = data.load('embedded.digits')
  split = registry.load('data', 'vertical.rows', shape=source.shape)
  top, bottom = split(source.take(index))  # [n, 4, 8, 1] each

A split is a pure function of x [n, *shape], NumPy or JAX, to P arrays [n, ...].
The last party is the active one. `shared` features overlap: party 0 holds them
beside its own, and the parties that they belong to keep them (Fu et al., USENIX
Security 2022, section 5.2: the adversary adds two overlapping features).
"""

from collections.abc import Callable, Sequence
from typing import Optional

import numpy as np

from labelleak.base import InputError

Split = Callable  # x [n, *shape] -> P x [n, ...]


def rows(
  *,
  shape: Sequence[int],
  parties: Optional[int] = None,
  sizes: Optional[Sequence[int]] = None,
  order: Optional[Sequence[int]] = None,
  shared: int = 0,
) -> Split:
  """Bands of an image, party 0 on top: P x [n, H_p, W, C] (VFLAIR).

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
  shape = _shaped('rows', shape, 'H', 'W', 'C')
  blocks = _ordered(_blocks('rows', shape[0], parties, sizes), order)
  return _split(shape, [(i,) for i in _share(blocks, shared)])


def columns(
  *,
  shape: Sequence[int],
  parties: Optional[int] = None,
  sizes: Optional[Sequence[int]] = None,
  order: Optional[Sequence[int]] = None,
  shared: int = 0,
) -> Split:
  """Bands of an image, party 0 on the left: P x [n, H, W_p, C] (Fu et al.).

  Their `half` columns of the adversary are sizes=(half, W - half). Arguments
  and errors are those of `rows`, with W for H.
  """
  shape = _shaped('columns', shape, 'H', 'W', 'C')
  blocks = _ordered(_blocks('columns', shape[1], parties, sizes), order)
  return _split(shape, [(slice(None), i) for i in _share(blocks, shared)])


def quarters(*, shape: Sequence[int]) -> Split:
  """Four parties: top left, top right, bottom left, bottom right (VFLAIR).

  Args:
    shape: (H, W, C) of an example; of an odd side the first part is larger.

  Raises:
    InputError: the shape is no image's, or a side is shorter than 2.
  """
  shape = _shaped('quarters', shape, 'H', 'W', 'C')
  across = _blocks('columns', shape[1], 2, None)
  down = _blocks('rows', shape[0], 2, None)
  return _split(shape, [(_range(r), _range(c)) for r in down for c in across])


def features(
  *,
  shape: Sequence[int],
  parties: Optional[int] = None,
  sizes: Optional[Sequence[int]] = None,
  order: Optional[Sequence[int]] = None,
  shared: int = 0,
) -> Split:
  """Blocks of a table's columns or of tokens: P x [n, F_p].

  Args:
    shape: (F,) of an example.
    parties: P, default 2; blocks are as even as can be, the first ones larger.
    sizes: of the blocks instead, as they lie in the data, F in all.
    order: order[p] is the block of party p; default 0, 1, ...
    shared: features that party 0 holds beside its own: the first ones of party
      1, then of party 2, and so on.

  Raises:
    InputError: the shape is no table's, or the blocks do not fit it.
  """
  shape = _shaped('features', shape, 'F')
  blocks = _ordered(_blocks('features', shape[0], parties, sizes), order)
  return _split(shape, [(i,) for i in _share(blocks, shared)])


def shuffled(
  *,
  shape: Sequence[int],
  fraction: float,
  parties: int = 2,
  seed: int = 0,
) -> Split:
  """A random part of the features for party 0, the rest for the others.

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
  shape = tuple(shape)
  size = int(np.prod(shape))
  own = round(fraction * size)
  if not (parties >= 2 and 1 <= own <= size - (parties - 1)):
    raise InputError(
      f'fraction={fraction} of {size} features leaves one of {parties} parties'
      ' (two at least) without any; change either.'
    )
  mixed = np.random.default_rng(seed).permutation(size)
  blocks = [mixed[:own], *np.array_split(mixed[own:], parties - 1)]
  return _split(shape, [np.unravel_index(block, shape) for block in blocks])


def chosen(*, shape: Sequence[int], columns: Sequence[Sequence[int]]) -> Split:
  """Columns of a table by number, a list for each party: P x [n, F_p].

  What no list names nobody holds, such as a feature that is itself attacked
  (Fu et al., Appendix E).

  Args:
    shape: (F,) of an example.
    columns: P lists.

  Raises:
    InputError: the shape is no table's, fewer than two lists, an empty one, a
      column that the table lacks or that is named twice.
  """
  shape = _shaped('chosen', shape, 'F')
  named = [c for part in columns for c in part]
  known = set(named) <= set(range(shape[0])) and len(set(named)) == len(named)
  if not known or len(columns) < 2 or not all(columns):
    raise InputError(
      f'columns={tuple(map(tuple, columns))} must be two or more lists of'
      f' different columns 0 to {shape[0] - 1}; change them.'
    )
  return _split(shape, [(_range(np.array(part)),) for part in columns])


def patches(*, shape: Sequence[int], shared: int = 0) -> Split:
  """One image of a stack each: P x [n, H, W, C] (Fu et al., BHI).

  Args:
    shape: (P, H, W, C) of an example.
    shared: images that party 0 holds beside its own, those of parties 1, 2,
      ..., side by side: [n, H, (1 + shared) * W, C].

  Raises:
    InputError: the shape is no stack of two or more, or is too small to share.
  """
  shape = _shaped('patches', shape, 'P', 'H', 'W', 'C')
  blocks = _blocks('patches', shape[0], shape[0], None)
  stacks = _split(shape, [(i,) for i in _share(blocks, shared)])
  return lambda x: tuple(_side_by_side(stack) for stack in stacks(x))


def _side_by_side(x):
  """Images of a stack next to each other, [n, k, H, W, C] -> [n, H, kW, C]."""
  num, stack, height, width, channels = x.shape
  return x.swapaxes(1, 2).reshape(num, height, stack * width, channels)


def _shaped(name, shape, *axes):
  """The shape as a tuple, of the rank that a split needs."""
  shape = tuple(shape)
  if len(shape) != len(axes):
    raise InputError(
      f'vertical.{name} cuts examples of shape ({", ".join(axes)}), not'
      f' {shape}; use another split or data set.'
    )
  return shape


def _blocks(name, length, parties, sizes):
  """Indices of P consecutive blocks that cover an axis."""
  if sizes is None:
    parties = 2 if parties is None else parties
    if not 2 <= parties <= length:
      raise InputError(
        f'parties={parties} must lie in 2..{length}, as an example has'
        f' {length} {name}; change it.'
      )
    return np.array_split(np.arange(length), parties)
  sizes = tuple(sizes)
  whole = all(isinstance(size, int) and size > 0 for size in sizes)
  if not whole or len(sizes) < 2 or sum(sizes) != length:
    raise InputError(
      f'sizes={sizes} must be two or more whole numbers above 0 that add up to'
      f' the {length} {name} of an example; change them.'
    )
  if parties not in (None, len(sizes)):
    raise InputError(
      f'parties={parties} contradicts the {len(sizes)} sizes={sizes}; leave out'
      ' either.'
    )
  return np.split(np.arange(length), np.cumsum(sizes)[:-1])


def _ordered(blocks, order):
  """Blocks as parties hold them: order[p] is that of party p."""
  if order is None:
    return blocks
  if sorted(order) != list(range(len(blocks))):
    raise InputError(
      f'order={tuple(order)} must name each of the {len(blocks)} blocks, 0 to'
      f' {len(blocks) - 1}, once; change it.'
    )
  return [blocks[k] for k in order]


def _share(blocks, shared):
  """Adds to party 0 the first `shared` indices of the others."""
  others = np.concatenate(blocks[1:])
  if not 0 <= shared <= len(others):
    raise InputError(
      f'shared={shared} must lie in 0..{len(others)}, what the other parties'
      ' hold; change it.'
    )
  return [
    _range(np.append(blocks[0], others[:shared])),
    *map(_range, blocks[1:]),
  ]


def _range(index):
  """The slice that equals an index, if there is one: a view, not a copy."""
  ends = index[0], index[-1] + 1
  return slice(*ends) if np.array_equal(index, np.arange(*ends)) else index


def _split(shape, keys):
  """The split whose party p holds x[:, *keys[p]]."""

  def split(x):
    if tuple(x.shape[1:]) != shape:
      raise InputError(
        f'this split cuts examples of shape {shape}, not {tuple(x.shape[1:])};'
        ' build it for the source that they come from.'
      )
    return tuple(x[(slice(None), *key)] for key in keys)

  return split
