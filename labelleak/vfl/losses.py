"""Losses of the active party, means over the rows that are not padding."""

from collections.abc import Callable, Sequence

import chex
import jax.numpy as jnp
import numpy as np
import optax

from labelleak.base import InputError

# (logits [B, K], y [B, K], mask [B]) -> []
Loss = Callable[[chex.Array, chex.Array, chex.Array], chex.Array]


def cross_entropy(
  logits: chex.Array, y: chex.Array, mask: chex.Array
) -> chex.Array:
  """Mean cross entropy over the rows that are not padding, [B, K] -> []."""
  losses = optax.softmax_cross_entropy(logits, y)
  return (losses * mask).sum() / jnp.maximum(mask.sum(), 1.0)


def weighted_cross_entropy(weights: Sequence[float]) -> Loss:
  """`cross_entropy` of classes that weigh `weights` [K].

  A mean weighted by the labels' weights, as in PyTorch: over w_{y_n} and not
  over the rows (Fu et al. on unbalanced data).

  Raises:
    InputError: a weight is not positive.
  """
  if not min(weights) > 0:
    raise InputError(f'class_weights={tuple(weights)} must all be positive.')
  weights = np.asarray(weights, np.float32)
  weights = weights / weights.min()  # changes nothing: no mask between 0 and 1
  return lambda logits, y, mask: cross_entropy(logits, y, mask * (y @ weights))
