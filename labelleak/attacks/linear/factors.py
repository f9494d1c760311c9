"""Equations of dense layers as factors, whose square takes few products.

What a row's cut gradient u_b adds to the gradient of a dense layer is an outer
product, a_b (D_b u_b)^T of the layer's input and of what comes back to its
output. The square of the equations is then, entry by entry, a product of two
small Gram matrices: hundreds of times fewer operations than of the equations
written out. Whether layers are such is measured, on the gradients themselves.
"""

from typing import NamedTuple

import chex
from flax import traverse_util
import jax
import jax.numpy as jnp

from labelleak import vfl
from labelleak.attacks.linear import equations, leaves
from labelleak.attacks.linear.jacobian import jacobian

_ROWS = 32  # whose gradients are held at once
_EXACT = 1e-5  # of a gradient's length: float32's


class Factors(NamedTuple):
  """Equations of one layer.

  Attributes:
    inputs: a [B, I] of unit length.
    outputs: D [B, K, O], of centred rows of S - Y.
    numbers: [I, O] gradient of the batch's sum, all three of a scale at which
      the root mean square of it is 1.
  """

  inputs: chex.Array
  outputs: chex.Array
  numbers: chex.Array


def factor(
  view: vfl.View, known: vfl.Known
) -> tuple[list[Factors], chex.Array]:
  """Returns factors of the last leaves that hold B K numbers.

  Returns:
    Factors of each group of leaves; [] whether they are the gradients of this
    model, whose layers may be others, or whose rows may see each other.
  """
  num, classes = view.h.shape
  part, groups, forward = equations.choose(view, known, num * classes)
  read = lambda tree: [leaves.group_matrix(tree, group) for group in groups]
  params = traverse_util.flatten_dict(view.variables['params'])
  units = equations.center(jnp.eye(classes))

  def split(x):
    def embed(part):
      tree = traverse_util.unflatten_dict({**params, **part})
      variables = {**view.variables, 'params': tree}
      # Batch norm refuses one row, and two that are equal fail the check.
      return known.bottom(variables, jnp.stack([x, x]), view.key)[0]

    _, pull = jax.vjp(embed, part)
    return [_split(g) for g in jax.vmap(lambda u: read(pull(u)[0]))(units)]

  factors = []
  with jax.default_matmul_precision('highest'):
    pairs = jax.lax.map(split, view.x, batch_size=_ROWS)
    numbers = read(equations.batch_gradient(view, part))
    scales = equations.unit_scales(numbers)
    for (a, d), b, scale in zip(pairs, numbers, scales):
      factors.append(Factors(a, scale * d, scale * b))
    # Layers of another kind, or rows that see each other, fail here.
    u = equations.center(jax.random.normal(jax.random.key(0), view.h.shape))
    exact = jnp.ones((), bool)
    for (a, d), g in zip(pairs, read(jacobian(forward, part)[1](u))):
      error = jnp.linalg.norm(a.T @ jnp.einsum('bko,bk->bo', d, u) - g)
      exact &= error <= _EXACT * jnp.linalg.norm(g)
  return factors, exact


def _split(gradients):
  """Returns a [I] and D [K, O] of gradients a D_k^T, [K, I, O]."""
  largest = gradients[jnp.argmax(jnp.square(gradients).sum((1, 2)))]
  column = largest[:, jnp.argmax(jnp.square(largest).sum(0))]
  a = column / jnp.maximum(jnp.linalg.norm(column), 1e-30)
  return a, jnp.einsum('i,kio->ko', a, gradients)


def square(
  factors: list[Factors], dtype: jnp.dtype
) -> tuple[chex.Array, chex.Array]:
  """Returns A A^T [n, n] and A b [n] of n = B K entries of S - Y."""
  num, classes, _ = factors[0].outputs.shape
  gram, rhs = 0.0, 0.0
  for layer in factors:
    a, d, b = (array.astype(dtype) for array in layer)
    flat = d.reshape(num * classes, -1)
    shape = num, classes, num, classes
    gram += (flat @ flat.T).reshape(shape) * (a @ a.T)[:, None, :, None]
    rhs += jnp.einsum('bo,bko->bk', a @ b, d)
  return gram.reshape(num * classes, num * classes), rhs.ravel()


def count(factors: list[Factors]) -> chex.Array:
  """Returns how many numbers some entry moves, []."""
  total = 0
  for layer in factors:
    outputs = (layer.outputs != 0).any(1).astype(jnp.float32)
    pairs = (layer.inputs != 0).astype(jnp.float32).T @ outputs
    total += (pairs > 0).sum()
  return total
