"""The Jacobian of a party's embedding, which is never formed."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

Forward = Callable[[chex.ArrayTree], chex.Array]  # parameters -> h [B, D]
Push = Callable[[chex.ArrayTree], chex.Array]  # V -> J V [B, D]
Pull = Callable[[chex.Array], chex.ArrayTree]  # U [B, D] -> J^T U


def jacobian(forward: Forward, params: chex.ArrayTree) -> tuple[Push, Pull]:
  """Returns the products with J of `forward` at params, V -> J V, U -> J^T U.

  One of the two sums the activations [B, F] over rows, the other over columns,
  so each keeps a copy in its own order: on a CPU a product against the grain is
  much slower.
  """
  _, push = jax.linearize(forward, params)
  # The barrier stops XLA from undoing the transposition ahead of a loop.
  turned = _map_matrices(lambda a: jax.lax.optimization_barrier(a.T), push)

  def pull(cut):
    straight = _map_matrices(jnp.transpose, turned)
    return jax.linear_transpose(straight, params)(cut)[0]

  return push, pull


def _map_matrices(fn, tree):
  """Applies fn to every matrix, but to masks, which no product reads."""
  floats = lambda a: a.ndim == 2 and jnp.issubdtype(a.dtype, jnp.floating)
  return jax.tree.map(lambda a: fn(a) if floats(a) else a, tree)
