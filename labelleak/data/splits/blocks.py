"""Blocks of an axis: cut, given to parties, shared."""

from collections.abc import Sequence
from typing import Optional

import numpy as np

from labelleak import validate
from labelleak.base import InputError

Index = slice | np.ndarray  # of one axis


def cut(
  name: str,
  length: int,
  parties: Optional[int] = None,
  sizes: Optional[Sequence[int]] = None,
) -> list[np.ndarray]:
  """Cuts an axis into P consecutive blocks.

  Args:
    name: of what lies along the axis, for errors.
    length: of the axis.
    parties: P, default 2; blocks are as even as can be, the first ones larger.
    sizes: of the blocks instead.

  Raises:
    InputError: blocks that do not fit the axis.
  """
  if sizes is None:
    parties = 2 if parties is None else parties
    has = f'an example has {length} {name}'
    validate.whole('parties', parties, 2, length, has)
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


def deal(
  name: str,
  length: int,
  parties: Optional[int],
  sizes: Optional[Sequence[int]],
  order: Optional[Sequence[int]],
  shared: int,
) -> list[Index]:
  """Deals the blocks of `cut`: order[p] to party p, what is shared to party 0.

  Raises:
    InputError: see `cut` and `share`; not an order of all blocks.
  """
  blocks = cut(name, length, parties, sizes)
  order = range(len(blocks)) if order is None else order
  if sorted(order) != list(range(len(blocks))):
    raise InputError(
      f'order={tuple(order)} must name each of the {len(blocks)} blocks, 0 to'
      f' {len(blocks) - 1}, once; change it.'
    )
  return share([blocks[k] for k in order], shared)


def share(blocks: list[np.ndarray], shared: int) -> list[Index]:
  """Adds to party 0 the first `shared` indices of the others.

  Raises:
    InputError: more than they hold.
  """
  others = np.concatenate(blocks[1:])
  validate.whole('shared', shared, 0, len(others), 'what other parties hold')
  first = np.append(blocks[0], others[:shared])
  return [index(block) for block in (first, *blocks[1:])]


def index(block: np.ndarray) -> Index:
  """Returns the slice that equals a block, if one does: a view, not a copy."""
  start, stop = block[0], block[-1] + 1
  consecutive = np.array_equal(block, np.arange(start, stop))
  return slice(start, stop) if consecutive else block
