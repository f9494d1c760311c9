"""What the attacker guesses, and the published forms of guessing it."""

from collections.abc import Callable
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak.base import InputError


class Form(NamedTuple):
  """One published shape of the attack."""

  # Label variable [B, K] -> labels of the cross entropy [B, K]
  soft: Callable[[chex.Array], chex.Array]
  reduce: Callable[[chex.Array], chex.Array]  # losses [B] -> []
  # Learning rate -> optax
  optimizer: Callable[[float | chex.Array], optax.GradientTransformation]
  lr: Optional[float]  # its default; None: one over the curvature at the start


FORMS = {
  # As released (VFLAIR).
  'adam': Form(jax.nn.softmax, jnp.mean, optax.adam, 0.05),
  # Algorithm 2 to the letter. Eq. 10 sums, so g becomes that of the sum.
  'descent': Form(lambda labels: labels, jnp.sum, optax.sgd, None),
}


class Dummies(NamedTuple):
  """What the attacker guesses."""

  z: chex.Array  # [B, K] logits of the other parties
  labels: chex.Array  # [B, K] label variable
  # {} for the sum; kernel [D + K, K] and bias [K] of a linear top
  top: dict[str, chex.Array]


def draw(
  key: chex.PRNGKey, h: chex.Array, num_classes: int, top: str
) -> Dummies:
  """Draws standard normal guesses beside an own embedding h [B, D].

  Of a linear `top` also its weights, as PyTorch initialises them.

  Raises:
    InputError: D != K under 'sum'.
  """
  key, kernel_key, bias_key = jax.random.split(key, 3)
  (size, width), layer = h.shape, {}
  if top == 'linear':
    bound = (width + num_classes) ** -0.5
    shapes = (width + num_classes, num_classes), (num_classes,)
    kernel, bias = (
      jax.random.uniform(k, shape, minval=-bound, maxval=bound)
      for k, shape in zip((kernel_key, bias_key), shapes)
    )
    layer = dict(kernel=kernel, bias=bias)
  elif width != num_classes:
    raise InputError(
      f'the embedding has width {width}, not one entry for each of'
      f" {num_classes} classes, so it cannot be added; use top='linear'."
    )
  z, labels = jax.random.normal(key, (2, size, num_classes))
  return Dummies(z, labels, layer)


def dummy_cut(form: Form, h: chex.Array, dummies: Dummies) -> chex.Array:
  """Returns the gradient of the guessed loss (Eq. 10) by h, [B, D]."""

  def loss(h):
    if dummies.top:
      joined = jnp.concatenate([h, dummies.z], -1)
      logits = joined @ dummies.top['kernel'] + dummies.top['bias'][None]
    else:
      logits = h + dummies.z
    labels = form.soft(dummies.labels)
    return form.reduce(optax.softmax_cross_entropy(logits, labels))

  return jax.grad(loss)(h)
