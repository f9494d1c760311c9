"""What a link hands to a transform, and how a transform asks for it.

A vertical link calls `tx.update(cut [B, D], state, h [B, D], key=, labels=
[B, K], index= [B], mask= [B], epoch= [], relabel=)`, a client of horizontal FL
`tx.update(tree, state, params, key=, mask=)`. Rows whose mask is 0 are padding:
they arrive as 0, leave as 0, and count in no statistic.
"""

from collections.abc import Callable
import numbers
from typing import Any, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak.base import InputError


def check(name: str, value: Any, rule: str, holds: Callable) -> None:
  """Raises InputError unless `value` is a number and `holds(value)`."""
  number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not (number and holds(value)):
    raise InputError(f'{name}={value!r} must be {rule}.')


def need(name: str, **arguments: Any) -> None:
  """Raises InputError for an extra argument that is None."""
  for argument, value in arguments.items():
    if value is None:
      raise InputError(
        f'{name} has {argument}=None; pass {argument}= to update(...).'
      )


def stateless(update: Callable) -> optax.GradientTransformationExtraArgs:
  """A transform without a state from `update(updates, **extra) -> updates`."""

  def apply(updates, state, params=None, **extra):
    del params
    return update(updates, **extra), state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), apply
  )


def is_cut(updates: chex.ArrayTree) -> bool:
  """Whether `updates` is one matrix, and so no client's tree of tensors."""
  leaf = jax.tree_util.treedef_is_leaf(jax.tree.structure(updates))
  return leaf and jnp.ndim(updates) == 2


def real(
  name: str, cut: chex.ArrayTree, mask: Optional[chex.Array]
) -> chex.Array:
  """1 for the rows of a cut gradient [B, D], 0 for its padding, [B, 1].

  Raises:
    InputError: `cut` is no matrix, or the mask is not one of its rows.
  """
  if not is_cut(cut):
    raise InputError(
      f'{name} acts on one cut gradient [B, D], not on'
      f" {jax.tree.map(jnp.shape, cut)}; use 'clip', 'compress' or noise there."
    )
  if mask is None:
    return jnp.ones((cut.shape[0], 1), cut.dtype)
  if mask.shape != cut.shape[:1]:
    raise InputError(
      f'{name} has a mask of shape {mask.shape} for a cut gradient of shape'
      f' {cut.shape}; pass one entry a row.'
    )
  return mask.astype(cut.dtype)[:, None]


def lookup(real: chex.Array, table: Callable) -> chex.Array:
  """table(rows), from a table of Python numbers: rows is what `real` counts.

  Published counts are int(n * share), in double precision and for a static n.
  """
  entries = np.array([table(rows) for rows in range(real.shape[0] + 1)])
  return jnp.asarray(entries)[real.sum().astype(int)]
