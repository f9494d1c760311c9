"""Leaves of a model in the order of its computation, read as matrices."""

from collections.abc import Callable, Mapping
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

Path = tuple[str, ...]  # of a leaf in 'params'
Group = tuple[Path, ...]  # leaves that are read as one matrix
Leaves = Mapping[Path, chex.Array]

_SIDE = 1024  # rows, and columns, that are read of a larger leaf


def last_groups(
  forward: Callable[[Leaves], chex.Array], params: Leaves, size: float
) -> list[Group]:
  """Lists groups of leaves, last used first, that hold `size` numbers or all.

  A kernel and its bias form a group; every other leaf is one by itself.
  """
  paths, leaves = zip(*params.items())
  flat = lambda *leaves: forward(dict(zip(paths, leaves)))
  jaxpr = jax.make_jaxpr(flat)(*leaves).jaxpr
  use = {p: _first_use(jaxpr, v) for p, v in zip(paths, jaxpr.invars)}
  groups = []
  for path in paths:
    kernel, bias = (*path[:-1], 'kernel'), (*path[:-1], 'bias')
    if path == bias and kernel in params:
      continue
    groups.append(
      (path, bias) if path == kernel and bias in params else (path,)
    )
  groups.sort(key=lambda group: use[group[0]], reverse=True)
  count, chosen = 0, []
  for group in groups:
    if count >= size or not use[group[0]]:
      break
    chosen.append(group)
    count += math.prod(group_shape(params, group))
  return chosen


def _first_use(jaxpr, var):
  """Returns the place of the first equation that reads a variable, or ()."""
  for i, eqn in enumerate(jaxpr.eqns):
    at = [j for j, v in enumerate(eqn.invars) if v is var]
    if at:
      inner = getattr(eqn.params.get('jaxpr'), 'jaxpr', None)
      if inner is None or len(inner.invars) != len(eqn.invars):
        return (i,)
      return (i, *_first_use(inner, inner.invars[at[0]]))
  return ()


def group_shape(leaves: Leaves, group: Group) -> tuple[int, int]:
  """Returns the shape of a group's matrix, before `_SIDE` cuts it."""
  leaf = leaves[group[0]]
  if leaf.ndim < 2:
    return leaf.size, 1
  return leaf.size // leaf.shape[-1] + len(group) - 1, leaf.shape[-1]


def group_matrix(leaves: Leaves, group: Group) -> chex.Array:
  """Returns a kernel with its bias as one more row; else one column."""
  leaf = leaves[group[0]]
  matrix = leaf.reshape(-1, leaf.shape[-1] if leaf.ndim > 1 else 1)
  if len(group) > 1:
    matrix = jnp.concatenate([matrix, leaves[group[1]][None]])
  for axis, size in enumerate(matrix.shape):
    if size > _SIDE:
      places = np.linspace(0, size - 1, _SIDE).astype(int)
      matrix = jnp.take(matrix, places, axis)
  return matrix
