"""Linear maps of encrypted messages from inside jit: a matrix, then the host.

The exchange is a `pure_callback`: it works under jit, scan and vmap, and it may
be left out where nobody reads the result, or repeated, since no state hangs on
it. Its body is numpy and the HE library only: a jax operation in a callback can
hang on CPU.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from labelleak.base import InputError, Revealed
from labelleak.he import exchange
from labelleak.he.exchange import Scheme

# Entries of a materialised map: 256 MiB in float32.
_MOST_ENTRIES = 2**26

# A pytree of I entries -> one of O entries.
Linear = Callable[[chex.ArrayTree], chex.ArrayTree]


class Product(NamedTuple):
  """A linear map and its argument, as a matrix and a vector."""

  matrix: chex.Array  # [O, I] float32
  vector: chex.Array  # [I] float32, the message
  # The largest of matrix and map, relative to the sum of magnitudes, []: of the
  # order of 1 where the map is not linear.
  disagreement: chex.Array
  # [O] -> the result, of the map's output structure.
  restore: Callable[[chex.Array], chex.ArrayTree]


def materialise(
  key: chex.PRNGKey, linear: Linear, message: chex.ArrayTree
) -> Product:
  """Builds the matrix of a linear map, column by column from unit vectors.

  Args:
    key: for the vector on which matrix and map are compared.
    linear: a pytree of I entries -> one of O entries.
    message: of the map's input structure.

  Raises:
    InputError: the matrix would not fit.
  """
  flat, unravel = ravel_pytree(message)
  zeros = lambda s: jnp.zeros(s.shape, s.dtype)
  empty, unflatten = ravel_pytree(
    jax.tree.map(zeros, jax.eval_shape(linear, message))
  )
  if flat.size * empty.size > _MOST_ENTRIES:
    raise InputError(
      f'a map of {flat.size} message entries to {empty.size} results is too'
      f' large to materialise ({_MOST_ENTRIES} entries at most); use aggregate'
      ' ideal, or a smaller batch or bottom model.'
    )

  def column(vector):
    return ravel_pytree(linear(unravel(vector)))[0].astype(jnp.float32)

  with jax.default_matmul_precision('highest'):
    matrix = jax.vmap(column)(jnp.eye(flat.size, dtype=flat.dtype)).T
    probe = jax.random.normal(key, flat.shape, flat.dtype)
    gap = jnp.abs(column(probe) - matrix @ probe)
    scale = jnp.abs(matrix) @ jnp.abs(probe)
  return Product(
    matrix=matrix,
    vector=flat.astype(jnp.float32),
    disagreement=jnp.max(gap / jnp.maximum(scale, 1e-30)),
    restore=lambda result: unflatten(result.astype(empty.dtype)),
  )


def reveal(
  key: chex.PRNGKey,
  linear: Linear,
  message: chex.ArrayTree,
  *,
  scheme: Scheme,
) -> Revealed:
  """Applies a linear map to ciphertexts of a message, under a scheme.

  Raises:
    InputError: the matrix of the map would not fit. At run time, in JAX's
      words: a map that is not linear or not finite, and see `exchange`.
  """
  product = materialise(key, linear, message)

  def run(matrix, vector, disagreement):
    if not np.asarray(disagreement) < 1e-3:
      raise InputError(
        'the map given to the aggregator is not linear, or not finite; only'
        ' linear maps run on ciphertexts.'
      )
    sent = exchange.exchange(scheme, np.asarray(matrix), np.asarray(vector))
    return sent.result.astype(np.float32)

  result = jax.pure_callback(
    run,
    jax.ShapeDtypeStruct(product.matrix.shape[:1], jnp.float32),
    product.matrix,
    product.vector,
    product.disagreement,
    vmap_method='sequential',
  )
  return Revealed(product.restore(result), None)
