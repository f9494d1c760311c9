"""What a link hands to a transform, and how a transform asks for it.

A vertical link calls `tx.update(cut [B, D], state, h [B, D], key=, labels=
[B, K], index= [B], mask= [B], epoch= [], relabel=)`, a client of horizontal FL
`tx.update(tree, state, params, key=, mask=)`. Rows whose mask is 0 are padding:
they arrive as 0, leave as 0, and count in no statistic.

`optax.chain` hands one `key` to all of its transforms, and two draws of noise
are then one draw, doubled or cancelled: `chain` gives each a key of its own.
"""

from collections.abc import Callable
from typing import Any, Optional, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak.base import InputError


class Update(Protocol):
  """What a transform without a state does."""

  def __call__(self, updates: chex.ArrayTree, **extra: Any) -> chex.ArrayTree:
    """Returns what is sent in the place of `updates`."""


def require(name: str, **arguments: Any) -> None:
  """Refuses extra arguments that are None.

  Raises:
    InputError: names the first of them.
  """
  for argument, value in arguments.items():
    if value is None:
      raise InputError(
        f'{name} has {argument}=None; pass {argument}= to update(...).'
      )


def stateless(update: Update) -> optax.GradientTransformationExtraArgs:
  """Makes a transform of a function, as `optax.stateless` does."""

  def apply(updates, state, params=None, **extra):
    del params
    return update(updates, **extra), state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), apply
  )


def chain(
  *transforms: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Makes one transform of several, each with its own key; of none, identity.

  As `optax.chain` in all else.
  """
  links = [_with_own_key(place, tx) for place, tx in enumerate(transforms)]
  joint = optax.chain(*links) if links else optax.identity()
  return optax.with_extra_args_support(joint)


def _with_own_key(place, tx):
  """Folds a transform's place into `key`: no two may share noise."""
  tx = optax.with_extra_args_support(tx)

  def update(updates, state, params=None, *, key=None, **extra):
    if key is not None:
      key = jax.random.fold_in(key, place)
    return tx.update(updates, state, params, key=key, **extra)

  return optax.GradientTransformationExtraArgs(tx.init, update)


def is_cut(updates: chex.ArrayTree) -> bool:
  """Tells whether `updates` is one matrix, and no client's tree of tensors."""
  leaf = jax.tree_util.treedef_is_leaf(jax.tree.structure(updates))
  return leaf and jnp.ndim(updates) == 2


def row_mask(
  name: str, cut: chex.ArrayTree, mask: Optional[chex.Array]
) -> chex.Array:
  """Returns 1 for the rows of a cut gradient [B, D], 0 for padding, [B, 1].

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


def look_up(real: chex.Array, function: Callable[[int], float]) -> chex.Array:
  """Returns function(n) [] of the number n of real rows, from a table.

  Published counts are int(n * share), in double precision and for a static n.

  Args:
    real: of `row_mask`, [B, 1].
    function: of Python numbers.
  """
  entries = np.array([function(rows) for rows in range(real.shape[0] + 1)])
  return jnp.asarray(entries)[real.sum().astype(int)]
