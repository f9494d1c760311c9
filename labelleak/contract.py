"""The contract of an attack: what its view must be, what it must answer.

`base.attack` holds every attack of this package to it; experiments hold all.
Shapes are checked before tracing. Values are checked where there are any: a
captured update is refused by the names of its leaves, and under a trace the
answer says that there is none (`base.blank`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import registry, validate
from labelleak.base import InputError, Reconstruction, named_leaves


def plain_number(value: Any) -> Any:
  """Returns a Python number for an array of no axes, else the value."""
  return value.item() if getattr(value, 'shape', None) == () else value


def whole_fields(known: Any, lows: Mapping[str, int]) -> dict[str, int]:
  """Returns sizes of a `Known` as integers.

  Args:
    known: a `Known` in the making.
    lows: field -> the least that it may be.

  Raises:
    InputError: a field that is no whole number, or less.
  """
  sizes = {field: plain_number(getattr(known, field)) for field in lows}
  for field, low in lows.items():
    validate.whole(f'Known: {field}', sizes[field], low)
  return {field: int(size) for field, size in sizes.items()}


def strengths(defense: Any) -> tuple[tuple[str, float], ...]:
  """Returns pairs of kind and strength, by the names of this package.

  Raises:
    InputError: a defense that is no such pairs, or is unknown.
  """
  try:
    pairs = [(kind, plain_number(v)) for kind, v in tuple(defense)]
    hash(defense)
  except (TypeError, ValueError):
    pairs = [(None, None)]
  if not all(isinstance(kind, str) for kind, _ in pairs):
    raise InputError(
      f'Known: defense={defense!r} must be a tuple of pairs of name and'
      " strength, such as (('clip', 0.1), ('gaussian', 0.01)); () is none at"
      ' all, None an unknown one.'
    )
  for kind, value in pairs:
    validate.at_least(f'Known: defense {kind}', value, 0.0)
  return tuple((registry.canonical('defenses', k), v) for k, v in pairs)


def check_axes(
  name: str, field: str, leaf: chex.Array, shape: tuple[int, ...]
) -> None:
  """Refuses a leaf of another shape than `Known` says; None passes.

  Args:
    name: of the attack.
    field: of the view.
    leaf: its value.
    shape: what it must be; -1 is of any size, and so are axes after it.
  """
  if leaf is None:
    return
  actual = jnp.shape(leaf)
  if shape[-1] == -1:
    actual, shape = actual[: len(shape) - 1], shape[:-1]
  if actual != shape:
    raise InputError(
      f'{name}: view.{field} of shape {jnp.shape(leaf)} contradicts Known,'
      f' which says {shape}; correct num_classes or batch_size, or vmap over'
      ' views.'
    )


def check_like(
  name: str, field: str, tree: chex.ArrayTree, like: chex.ArrayTree
) -> None:
  """Refuses gradients that are not of these parameters, by the first leaf.

  Args:
    name: of the attack.
    field: of the view, that holds the gradients.
    tree: the gradients; none at all pass.
    like: the parameters.
  """
  ours, theirs = named_leaves(tree), named_leaves(like)
  for leaf in sorted(ours):
    shape = jnp.shape(theirs[leaf]) if leaf in theirs else None
    if shape != jnp.shape(ours[leaf]):
      raise InputError(
        f'{name}: view.{field} has {leaf!r} of shape {jnp.shape(ours[leaf])},'
        f' the parameters {"lack it" if shape is None else f"have {shape}"};'
        ' take both from one model.'
      )


def check_labelled(name: str, known: Any) -> None:
  """Refuses labelled examples whose labels are not one-hot rows [M, K].

  Args:
    name: of the attack.
    known: what it is granted.
  """
  if known.labelled is None:
    return
  x, y = map(jnp.shape, known.labelled)
  if y != (x[0], known.num_classes):
    raise InputError(
      f'{name}: Known.labelled has labels of shape {y} for examples of shape'
      f' {x} and num_classes={known.num_classes}; give one-hot labels [M, K].'
    )
  if is_traced(known.labelled):
    return
  rows = np.asarray(known.labelled.y, np.float64)
  if not (rows.min() >= 0 and np.allclose(rows.sum(1), 1, atol=1e-4)):
    raise InputError(
      f'{name}: a row of Known.labelled.y is no distribution over classes: at'
      ' least 0, and 1 in sum; give one-hot labels [M, K].'
    )


def check_floats(name: str, tree: chex.ArrayTree) -> None:
  """Refuses gradients that are no real floating point numbers."""
  for leaf, value in named_leaves(tree).items():
    dtype = jnp.result_type(value)
    if not jnp.issubdtype(dtype, jnp.floating):
      raise InputError(
        f'{name}: {leaf!r} is of dtype {dtype}, and a gradient is in floats; if'
        ' it was quantised, undo that first.'
      )


def is_traced(tree: chex.ArrayTree) -> bool:
  """Returns whether a pytree holds no values yet."""
  return any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(tree))


def check_finite(name: str, tree: chex.ArrayTree) -> None:
  """Refuses values that are not finite, by the names of their leaves.

  Args:
    name: whose they are.
    tree: values, not traced.
  """
  bad = {
    leaf: int(np.sum(~np.isfinite(np.asarray(value, np.float64))))
    for leaf, value in named_leaves(tree).items()
    if jnp.issubdtype(jnp.result_type(value), jnp.inexact)
  }
  bad = {leaf: num for leaf, num in bad.items() if num}
  if bad:
    listed = ', '.join(f'{num} of {leaf!r}' for leaf, num in bad.items())
    raise InputError(
      f'{name}: entries that are not finite: {listed}; find where the training'
      ' diverged, or drop this view.'
    )


def all_finite(tree: chex.ArrayTree) -> chex.Array:
  """Returns whether all entries of a pytree are finite, []."""
  leaves = [
    jnp.isfinite(leaf).all()
    for leaf in jax.tree.leaves(tree)
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
  ]
  return jnp.stack(leaves).all() if leaves else jnp.array(True)


def widen(tree: chex.ArrayTree) -> chex.ArrayTree:
  """Returns a pytree with float32 in the place of shorter floats."""

  def cast(leaf):
    short = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    short = short and jnp.finfo(jnp.result_type(leaf)).bits < 32
    return jnp.asarray(leaf, jnp.float32) if short else leaf

  return jax.tree.map(cast, tree)


def check_untraced(name: str, tree: chex.ArrayTree) -> None:
  """Refuses a traced view of an attack that keeps steps on the host."""
  if is_traced(tree):
    raise InputError(
      f'{name} keeps every step on the host, which no trace can; use'
      " experiment='vfl.whole_training'."
    )


def check_shape(
  name: str, answer: Any, shapes: Sequence[tuple[int, ...]], what: str
) -> None:
  """Refuses an answer of another shape than the threat model asks for.

  Args:
    name: of the attack.
    answer: what it returned.
    shapes: that are right.
    what: it must return, in words.
  """
  if isinstance(answer, Reconstruction):
    answer = answer.labels
  shape = getattr(answer, 'shape', None)
  if shape not in shapes:
    got = f'shape {shape}' if shape is not None else type(answer).__name__
    listed = ' or '.join(map(str, shapes))
    raise InputError(
      f'{name} returned {got}, not {what} {listed}; correct the attack.'
    )
