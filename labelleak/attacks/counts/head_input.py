"""The head's input, which reads the kernel's update along with the bias's."""

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import hfl
from labelleak.hfl import Known, View


def mean_input(view: View, known: Known, x: chex.Array) -> chex.Array:
  """Returns the head's mean input [H] over x [M, ...].

  That is d logit_0 / d kernel[:, 0].
  """
  params = view.variables['params']
  kernel, _ = hfl.head(params)

  def logit(column):
    head = {**params['head'], 'kernel': kernel.at[:, 0].set(column)}
    variables = {**view.variables, 'params': {**params, 'head': head}}
    return known.model.apply(variables, x)[:, 0].mean()

  return jax.grad(logit)(kernel[:, 0])


def rescale(bias: chex.Array, kernel: chex.Array, h: chex.Array) -> chex.Array:
  """Rescales a mean input h to the length that the update shows, [H].

  Model inputs other than the client's tell the direction of the head's input
  better than its length. Along a true h of length t the kernel's update [H, K]
  reads t times the bias's [K], both with the same noise, so t is the slope of
  the line through the origin that lies closest to the K pairs (orthogonal
  regression). It is held within a factor of 2 of |h|.
  """
  length = jnp.linalg.norm(h)
  along = h @ kernel / length
  both = 2.0 * (bias @ along)
  excess = along @ along - bias @ bias
  slope = (excess + jnp.hypot(excess, both)) / jnp.where(both > 0, both, 1.0)
  slope = jnp.where(both > 0, slope, length)
  return h / length * jnp.clip(slope, length / 2, 2 * length)


def fuse(
  bias: chex.Array, kernel: chex.Array, h: chex.Array
) -> tuple[chex.Array, chex.Array]:
  """Estimates the bias update from bias [K] and kernel [H, K] together.

  An example with head input h_k adds (p - y) to the bias update and the outer
  product of h_k with it to the kernel's. Where all h_k are h [H] and each entry
  carries the same independent noise, (bias + h^T kernel) / (1 + |h|^2) is the
  least-squares estimate of the summed p - y: it has the bias's mean, and its
  noise over sqrt(1 + |h|^2). Other h_k scale it by (1 + h^T h_k) / (1 + |h|^2).

  Returns:
    estimate [K], and its noise [] over that of an entry.
  """
  gain = 1.0 + h @ h
  return (bias + h @ kernel) / gain, gain**-0.5


def norm_ratio(
  view: View, known: Known, x: chex.Array, louder: chex.Array
) -> chex.Array:
  """Returns the norm of a step's gradient over that of its bias part, [].

  Taken from the gradient on x [M, ...], with soft labels as the bias update
  suggests them. What exceeds the bias part grows with the square of
  activations; the client's are `louder` [] times those of x.
  """
  _, bias = hfl.head(view.grads)
  labels = jnp.maximum(-bias, 0.0)
  labels = labels / jnp.maximum(labels.sum(), 1e-12)

  def loss(params):
    logits = known.model.apply({**view.variables, 'params': params}, x)
    return optax.softmax_cross_entropy(logits, labels[None]).mean()

  grads = jax.grad(loss)(view.variables['params'])
  _, part = hfl.head(grads)
  square = sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads))
  excess = square / jnp.maximum(part @ part, 1e-30) - 1.0
  return jnp.sqrt(1.0 + louder**2 * excess)
