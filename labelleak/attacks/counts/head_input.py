"""The head's input, which reads the kernel's update along with the bias's."""

from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import hfl
from labelleak.hfl import Known, View

_ITERATIONS = 30  # of the power method
# Found on seeds 100 to 123 of a small CNN on digits, under DP-SGD:
_QUIET = 0.03  # noise on the bias's update, by its norm, that is left alone
_ALIGNED = 0.3  # squared cosine of sums of rows and inputs
_INPUTS = 8  # fewer tell no noise from another loss
_EDGE = 1.0  # least singular value, by the largest that noise has


class Reading(NamedTuple):
  """What the head's update says of the summed softmax errors.

  Attributes:
    beta: [K] their sum.
    quiet: [] noise on `beta` over that on one entry of the update.
    ratio: [] norm of a step's gradient over that of its bias part; None where
      the model does not tell it.
  """

  beta: chex.Array
  quiet: chex.Array | float = 1.0
  ratio: Optional[chex.Array] = None


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


def denoise(bias: chex.Array, kernel: chex.Array) -> Reading:
  """Reads bias [K] and kernel [H, K] together where an update shows noise.

  Without noise each row of a kernel's update sums to zero, as p - y does, so
  that sums of rows measure it. Were all examples of one head input, the update
  would be of rank one: its first singular vector is the bias's update, whose
  length the bias tells, with all of its noise. Sums that follow the inputs are
  of another loss, no noise, and are left alone (sigmoids that happen to sum to
  1, of inputs about 0, are not told apart); so are two classes, few inputs, and
  an update that noise has drowned.
  """
  both = jnp.concatenate([kernel, bias[None]])
  num, classes = both.shape
  sums = both.sum(1)
  noise = jnp.sqrt(jnp.mean(sums**2) / classes)
  rows = both - sums[:, None] / classes

  def step(_, v):
    v = rows.T @ (rows @ v)
    return v / jnp.maximum(jnp.linalg.norm(v), 1e-30)

  start = rows[-1] / jnp.maximum(jnp.linalg.norm(rows[-1]), 1e-30)
  v = jax.lax.fori_loop(0, _ITERATIONS, step, start)
  along = rows @ v
  size, length = jnp.linalg.norm(along), rows[-1] @ v
  aligned = (sums @ along) ** 2 / jnp.maximum(sums @ sums, 1e-30)
  edge = noise * (num**0.5 + classes**0.5)
  is_noisy = noise * classes**0.5 > _QUIET * jnp.linalg.norm(bias)
  is_noisy &= (aligned < _ALIGNED * size**2) & (size > _EDGE * edge)
  is_noisy &= (num > _INPUTS) & (classes > 2)
  # One direction is as noisy as before, that of sums is not there.
  share = (length / jnp.maximum(size, 1e-30)) ** 2
  quiet = jnp.sqrt((1 + (classes - 2) * share) / classes)
  return Reading(
    jnp.where(is_noisy, length * v, bias), jnp.where(is_noisy, quiet, 1.0)
  )


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
