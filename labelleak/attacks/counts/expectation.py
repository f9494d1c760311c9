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

from labelleak import hfl
from labelleak.hfl import Known


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
    known: with `model`; `labelled` says the classes of x, its own examples
      then; else all rows are equal.
    x: [M, ...] inputs.
  """
  y = known.labelled.y if known.labelled else None
  probs = jax.nn.softmax(known.model.apply(view.variables, x))
  if not known.lr or known.steps == 1:
    return moments(probs, y)
  after = jax.nn.softmax(known.model.apply(_after(view, known), x))
  pull = (known.steps - 1) / (2 * known.steps)  # mean of s / S over the steps
  found = moments((1 - pull) * probs + pull * after, y)
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
    known: with `model` and `lr`.
    x: [M, ...] inputs; a handful is enough.
    counts: [K] estimated label counts.

  Returns:
    [K].
  """
  labels = jnp.broadcast_to(counts / counts.sum(), (x.shape[0], counts.size))

  def loss(params):
    logits = known.model.apply({**view.variables, 'params': params}, x)
    losses = optax.softmax_cross_entropy(logits, labels)
    return losses.mean(), jax.nn.softmax(logits).mean(0)

  def step(params, _):
    grads, probs = jax.grad(loss, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - known.lr * g, params, grads), probs

  params = view.variables['params']
  local, probs = jax.lax.scan(step, params, length=known.steps)
  end = jax.nn.softmax(known.model.apply(_after(view, known), x)).mean(0)
  pull = (known.steps - 1) / (2 * known.steps)  # mean of s / S over the steps
  moved = probs.mean(0) + pull * (end - loss(local)[1])
  return jnp.maximum(moved, 0.0)


def head_input(view, known: Known, x: chex.Array) -> chex.Array:
  """Mean input of the head over x [M, ...], [H]: d logit_0 / d kernel[:, 0]."""
  params = view.variables['params']
  kernel, _ = hfl.head(params)

  def logit(column):
    head = {**params['head'], 'kernel': kernel.at[:, 0].set(column)}
    variables = {**view.variables, 'params': {**params, 'head': head}}
    return known.model.apply(variables, x)[:, 0].mean()

  return jax.grad(logit)(kernel[:, 0])


def heard(bias: chex.Array, kernel: chex.Array, h: chex.Array) -> chex.Array:
  """`h` at the length that the update shows, [H].

  Model inputs other than the client's tell the direction of the head's input
  better than its length. Along a true h of length t the kernel's update reads t
  times the bias's, both with the same noise, so t is the slope of the line
  through the origin that lies closest to the K pairs (orthogonal regression).
  It is held within a factor of 2 of |h|.

  Args:
    bias: [K] update.
    kernel: [H, K] update.
    h: [H] mean head input, as the model's own inputs tell it.
  """
  length = jnp.linalg.norm(h)
  along = h @ kernel / length
  both = 2.0 * (bias @ along)
  excess = along @ along - bias @ bias
  slope = (excess + jnp.hypot(excess, both)) / jnp.where(both > 0, both, 1.0)
  slope = jnp.where(both > 0, slope, length)
  return h / length * jnp.clip(slope, length / 2, 2 * length)


def fused(
  bias: chex.Array, kernel: chex.Array, h: chex.Array
) -> tuple[chex.Array, chex.Array]:
  """The bias update as bias and kernel together tell it.

  An example with head input h_k adds (p - y) to the bias update and the outer
  product of h_k with it to the kernel's. Where all h_k are h and each entry
  carries the same independent noise, (bias + h^T kernel) / (1 + |h|^2) is the
  least-squares estimate of the summed p - y: it has the bias's mean, and its
  noise over sqrt(1 + |h|^2). Other h_k scale it by (1 + h^T h_k) / (1 + |h|^2).

  Args:
    bias: [K] update.
    kernel: [H, K] update.
    h: [H] typical head input.

  Returns:
    estimate [K], and its noise [] over that of an entry.
  """
  gain = 1.0 + h @ h
  return (bias + h @ kernel) / gain, gain**-0.5


def norm_ratio(
  view, known: Known, x: chex.Array, louder: chex.Array
) -> chex.Array:
  """Norm of a step's gradient over that of its bias part, [].

  Taken from the gradient on x, with soft labels as the bias update suggests
  them. What exceeds the bias part grows with the square of activations.

  Args:
    view: `hfl.View`.
    known: with `model`.
    x: [M, ...] inputs.
    louder: [] activations of the client's inputs over those of x.
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
