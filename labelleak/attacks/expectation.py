"""What softmax does the victim's model give, over the local steps of a round?

The bias gradient is the mean softmax minus the label counts. An attacker who
holds the model can predict the first term: on labelled auxiliary examples by
class, else on whatever inputs it has, the same for all classes.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak.base import Known


class Softmax(NamedTuple):
  """Moments of an example's softmax, by its class."""

  mean: chex.Array  # [K, K] row j: E[p | class j], averaged over the steps
  var: chex.Array  # [K, K] row j: Var[p | class j] of one example
  num: chex.Array  # [K] examples behind row j
  moved: chex.Array | float = 0.0  # [] by how much the steps moved the mean


def uniform(num_classes: int) -> Softmax:
  """An untrained model as the LLBG paper assumes it: p = 1/K."""
  square = (num_classes, num_classes)
  return Softmax(
    jnp.full(square, 1 / num_classes),
    jnp.zeros(square),
    jnp.ones(num_classes),
  )


def measured(view, known: Known, x: chex.Array) -> Softmax:
  """Softmax of x before and after the client's local steps, by class.

  The server sees where the steps ended, theta - lr * update; between them
  the softmax is taken to move evenly. Without `known.lr` it stays at the start.

  Args:
    view: `hfl.View`.
    known: with `apply`; `y` says the classes of x, else all rows are equal.
    x: [M, ...] inputs.
  """
  probs = jax.nn.softmax(known.apply(view.variables, x))
  if not known.lr or known.steps == 1:
    return moments(probs, known.y)
  after = jax.nn.softmax(known.apply(_after(view, known), x))
  pull = (known.steps - 1) / (2 * known.steps)  # mean of s / S over the steps
  found = moments((1 - pull) * probs + pull * after, known.y)
  return found._replace(moved=jnp.abs((after - probs).mean(0)).max())


def replayed(
  view, known: Known, x: chex.Array, counts: chex.Array
) -> chex.Array:
  """Mean softmax over the local steps, had the batch been x with these counts.

  Where activations are large one step throws the softmax from class to class,
  so that neither end of the training nor a line between them is close to the
  mean. The attacker runs the S steps itself, every step on all of x with the
  label shares as soft labels, and pulls the path so that it ends where the
  client's did.

  Args:
    view: `hfl.View`.
    known: with `apply` and `lr`.
    x: [M, ...] inputs; a handful is enough.
    counts: [K] estimated label counts.

  Returns:
    [K].
  """
  labels = jnp.broadcast_to(counts / counts.sum(), (x.shape[0], counts.size))

  def loss(params):
    logits = known.apply({**view.variables, 'params': params}, x)
    losses = optax.softmax_cross_entropy(logits, labels)
    return losses.mean(), jax.nn.softmax(logits).mean(0)

  def step(params, _):
    grads, probs = jax.grad(loss, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - known.lr * g, params, grads), probs

  params = view.variables['params']
  local, probs = jax.lax.scan(step, params, length=known.steps)
  end = jax.nn.softmax(known.apply(_after(view, known), x)).mean(0)
  pull = (known.steps - 1) / (2 * known.steps)  # mean of s / S over the steps
  moved = probs.mean(0) + pull * (end - loss(local)[1])
  return jnp.maximum(moved, 0.0)


def dummies(key: chex.PRNGKey, num: int, shape: tuple[int, ...]) -> chex.Array:
  """Inputs of unit variance, [num, *shape], in place of data.

  Images [H, W, C] get a falling spectrum as natural images do and mostly
  grey content, since models answer white noise differently; other shapes are
  white.
  """
  white = jax.random.normal(key, (num, *shape))
  if len(shape) != 3 or min(shape[:2]) < 2:
    return white
  height, width, channels = shape
  f = jnp.hypot(jnp.fft.fftfreq(height)[:, None], jnp.fft.fftfreq(width)[None])
  amplitude = jnp.maximum(f, 1.0 / max(height, width)) ** -1.2
  spectrum = jnp.fft.fft2(white, axes=(1, 2)) * amplitude[None, :, :, None]
  color = jnp.fft.ifft2(spectrum, axes=(1, 2)).real
  grey = color.mean(-1, keepdims=True) * channels**0.5
  x = 0.95 * grey + 0.3 * color
  return x / x.std()


def _after(view, known):
  """The client's variables after its steps, as the update tells them."""
  params = jax.tree.map(
    lambda p, g: p - known.lr * g, view.variables['params'], view.grads
  )
  return {**view.variables, 'params': params}


def moments(probs: chex.Array, y: chex.Array | None) -> Softmax:
  """Mean and variance by class, probs [M, K] and one-hot y [M, K] or None.

  A class without examples gets the moments of all examples.
  """
  everyone = jnp.ones((probs.shape[0], 1))
  total, total_var = _weighted(everyone, probs)
  m, num_classes = probs.shape
  if y is None:
    square = (num_classes, num_classes)
    return Softmax(
      jnp.broadcast_to(total, square),
      jnp.broadcast_to(total_var, square),
      jnp.full(num_classes, float(m)),
    )
  num = y.sum(0)
  mean, var = _weighted(y, probs)
  # A class's own variance is unreliable below a handful of examples.
  trust = (num / (num + 2.0))[:, None]
  return Softmax(
    jnp.where(num[:, None] > 0, mean, total),
    trust * var + (1 - trust) * total_var,
    jnp.where(num > 0, num, float(m)),
  )


def _weighted(weight, probs):
  """Column-weighted mean and variance, [M, J] and [M, K] -> 2 x [J, K]."""
  share = weight / jnp.maximum(weight.sum(0), 1e-12)[None]
  mean = jnp.einsum('mj,mk->jk', share, probs)
  square = jnp.einsum('mj,mk->jk', share, probs**2)
  return mean, jnp.maximum(square - mean**2, 0.0)
