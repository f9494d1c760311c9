"""The softmax that the victim's model gives, over the local steps of a round.

The bias gradient is the mean softmax minus the label counts. An attacker who
holds the model can predict the first term: on labelled auxiliary examples by
class, else on whatever inputs it has, the same for all classes.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak.hfl import Known, View

# Of a confident model; chosen with the constants of `head_update`.
_SCATTER = 0.5  # of confidences: their variance over what it is at most
_UNLIKE = 0.3  # relative, of what the examples of two classes lack of it


class Softmax(NamedTuple):
  """Moments of a softmax by class of the example; J = K, or 1: all alike."""

  mean: chex.Array  # [J, K] row j: E[p | class j], averaged over the steps
  var: chex.Array  # [J, K] row j: Var[p | class j] of one example
  num: chex.Array  # [J] examples behind row j
  shift: chex.Array | float = 0.0  # [] by how much the steps moved the mean


def uniform(num_classes: int) -> Softmax:
  """Returns an untrained model as the LLBG paper assumes it: p = 1/K."""
  return alike(jnp.full(num_classes, 1 / num_classes))


def alike(probs: chex.Array) -> Softmax:
  """Returns a model that gives every example the softmax `probs` [K]."""
  return Softmax(probs[None], jnp.zeros((1, len(probs))), jnp.ones(1))


def confident(num_classes: int, confidence: chex.Array | float) -> Softmax:
  """Returns a model that gives each label so much, and the others as much each.

  Args:
    num_classes: K.
    confidence: [] in (0, 1), of all classes in the mean.
  """
  own = jnp.eye(num_classes)
  lack = 1 - confidence
  mean = confidence * own + (1 - own) * lack / (num_classes - 1)
  var = _SCATTER * mean * (lack * own + 1 - own)
  examples = _SCATTER * confidence / (lack * _UNLIKE**2)
  return Softmax(mean, var, jnp.full(num_classes, examples))


def measure(view: View, known: Known, x: chex.Array) -> Softmax:
  """Measures the softmax of x before and after the local steps, by class.

  The server sees where the steps ended, theta - lr * update; between them
  the softmax is taken to move evenly. Without `known.lr`, or where the update
  is of a part of the model, it stays at the start. `known.labelled` says the
  classes of x [M, ...], its own examples then; else all rows are equal.
  """
  y = known.labelled.y if known.labelled else None
  probs = jax.nn.softmax(known.model.apply(view.variables, x))
  if not tells_end(view, known):
    return moments(probs, y)
  after = jax.nn.softmax(known.model.apply(_after(view, known), x))
  pull = (known.steps - 1) / (2 * known.steps)  # mean of s / S over the steps
  softmax = moments((1 - pull) * probs + pull * after, y)
  return softmax._replace(shift=jnp.abs((after - probs).mean(0)).max())


def tells_end(view: View, known: Known) -> bool:
  """Returns whether the view says where several local steps ended."""
  whole = jax.tree.structure(view.variables['params'])
  several = bool(known.lr) and known.steps > 1
  return several and jax.tree.structure(view.grads) == whole


def replay(
  view: View, known: Known, x: chex.Array, counts: chex.Array
) -> chex.Array:
  """Returns the mean softmax over the steps, had the batch been x, counts; [K].

  Where activations are large one step throws the softmax from class to class,
  so that neither end of the training nor a line between them is close to the
  mean. The attacker runs the S steps itself, every step on all of x [M, ...]
  (a handful is enough) with the shares of the estimated counts [K] as soft
  labels, and pulls the path so that it ends where the client's did.
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
  path = probs.mean(0) + pull * (end - loss(local)[1])
  return jnp.maximum(path, 0.0)


def draw_dummies(
  key: chex.PRNGKey, num: int, shape: tuple[int, ...]
) -> chex.Array:
  """Draws inputs of unit variance, [num, *shape], in place of data.

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


def own(rows: chex.Array) -> chex.Array:
  """Returns what rows [J, K] say of an example's own class, [K]."""
  return rows[0] if len(rows) == 1 else jnp.diag(rows)


def sum_others(weight: chex.Array, rows: chex.Array) -> chex.Array:
  """Sums what examples of other classes give to a class, [K].

  Args:
    weight: [K] of all examples of a class.
    rows: [J, K] what one of class j gives.
  """
  if len(rows) == 1:
    return (weight.sum() - weight) * rows[0]
  return jnp.maximum(weight @ rows - weight * jnp.diag(rows), 0.0)


def _after(view, known):
  """The client's variables after its steps, as the update tells them."""
  params = jax.tree.map(
    lambda p, g: p - known.lr * g, view.variables['params'], view.grads
  )
  return {**view.variables, 'params': params}


def moments(probs: chex.Array, y: chex.Array | None) -> Softmax:
  """Returns mean and variance of probs [M, K] by class, of one-hot y [M, K].

  A class without examples, and every class without y, gets those of all.
  """
  everyone = jnp.ones((probs.shape[0], 1))
  total, total_var = _weigh(everyone, probs)
  m = probs.shape[0]
  if y is None:
    return Softmax(total, total_var, jnp.full(1, float(m)))
  num = y.sum(0)
  mean, var = _weigh(y, probs)
  # A class's own variance is unreliable below a handful of examples.
  trust = (num / (num + 2.0))[:, None]
  return Softmax(
    jnp.where(num[:, None] > 0, mean, total),
    trust * var + (1 - trust) * total_var,
    jnp.where(num > 0, num, float(m)),
  )


def _weigh(weight, probs):
  """Column-weighted mean and variance, [M, J] and [M, K] -> 2 x [J, K]."""
  share = weight / jnp.maximum(weight.sum(0), 1e-12)[None]
  mean = jnp.einsum('mj,mk->jk', share, probs)
  square = jnp.einsum('mj,mk->jk', share, probs**2)
  return mean, jnp.maximum(square - mean**2, 0.0)
