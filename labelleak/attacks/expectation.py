"""What softmax does the victim's model give, over the local steps of a round?

The bias gradient is the mean softmax minus the label counts. An attacker who
holds the model can predict the first term: on labelled auxiliary examples by
class, else on whatever inputs it has, the same for all classes.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak.base import Known


class Softmax(NamedTuple):
  """Moments of an example's softmax, by its class."""

  mean: chex.Array  # [K, K] row j: E[p | class j], averaged over the steps
  var: chex.Array  # [K, K] row j: Var[p | class j] of one example
  num: chex.Array  # [K] examples behind row j


def uniform(num_classes: int) -> Softmax:
  """An untrained model as the LLBG paper assumes it: p = 1/K."""
  square = (num_classes, num_classes)
  return Softmax(
    jnp.full(square, 1 / num_classes),
    jnp.zeros(square),
    jnp.ones(num_classes),
  )


def measured(view, known: Known, x: chex.Array, *, points: int = 4) -> Softmax:
  """Softmax of x along the client's local training.

  FedAVG's steps move the softmax, strongly where activations are large. The
  server sees where the steps ended, theta - lr * update, so they are replayed
  as a straight line: step s of S computes its gradient s/S along the way. That
  needs `known.lr`; without it the softmax stays that of the start.

  Args:
    view: `hfl.View`.
    known: with `apply`; `y` says the classes of x, else all rows are equal.
    x: [M, ...] inputs.
    points: how many of the S steps are evaluated, evenly spread.
  """
  steps = known.steps if known.lr else 1
  nodes = np.linspace(0.0, steps - 1.0, min(points, steps))
  # The steps between two evaluated ones are interpolated linearly.
  share = [np.interp(range(steps), nodes, e).mean() for e in np.eye(len(nodes))]

  def at(time):
    params = jax.tree.map(
      lambda p, g: p - known.lr * time * g if known.lr else p,
      view.variables['params'],
      view.grads,
    )
    return jax.nn.softmax(known.apply({**view.variables, 'params': params}, x))

  probs = jax.lax.map(at, jnp.asarray(nodes / steps))
  return moments(jnp.einsum('s,smk->mk', jnp.asarray(share), probs), known.y)


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
  share = weight / jnp.maximum(weight.sum(0), 1e-12)
  mean = jnp.einsum('mj,mk->jk', share, probs)
  square = jnp.einsum('mj,mk->jk', share, probs**2)
  return mean, jnp.maximum(square - mean**2, 0.0)
