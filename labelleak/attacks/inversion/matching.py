"""The distance of a guess: its gradient against the observed one (Eq. 11)."""

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak.attacks.linear.jacobian import Pull, jacobian
from labelleak.vfl import Known, View


def matching_loss(
  pullback: Pull, cut: chex.Array, grads: chex.ArrayTree
) -> chex.Array:
  """Returns || J^T U - g ||^2 over all parameters, unweighted (Eq. 11), [].

  J^T is `pullback`, U [B, D] the cut gradient and g the observed gradient.
  """
  off = jax.tree.map(jnp.subtract, pullback(cut), grads)
  return optax.tree.norm(off, squared=True)


def transposed_jacobian(view: View, known: Known) -> Pull:
  """Returns J^T, cut gradient [B, D] -> gradient of the attacker's parameters.

  J is that of the very pass behind the view. Being linear, the map is its own
  derivative and J its transpose.
  """

  def forward(params):
    return known.bottom({**view.variables, 'params': params}, view.x, view.key)

  push, pull = jacobian(forward, view.variables['params'])
  transposed = jax.custom_vjp(pull)
  transposed.defvjp(
    lambda cut: (pull(cut), None), lambda _, tree: (push(tree),)
  )
  return transposed
