"""Losses of the active party, means over the rows that are not padding.

A loss says, too, how wide the logits are that it reads and what they mean: two
classes need one logit alone, K classes K, each against the rest.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak.base import InputError

# (logits [B, D], y [B, K]) -> losses [B]
RowLosses = Callable[[chex.Array, chex.Array], chex.Array]


class Loss(NamedTuple):
  """A loss of joint logits [B, D] and labels [B, K].

  Attributes:
    rows: (logits, y) -> the loss of each row [B].
    predict: logits -> probabilities [B, K].
    width: K -> D.
    weigh: y -> the weight of each row [B] in the mean.
  """

  rows: RowLosses
  predict: Callable[[chex.Array], chex.Array]
  width: Callable[[int], int]
  weigh: Callable[[chex.Array], chex.Array] = lambda y: jnp.ones(len(y))

  def mean(
    self, logits: chex.Array, y: chex.Array, mask: chex.Array
  ) -> chex.Array:
    """Returns the mean over the rows with mask [B] 1, [B, D], [B, K] -> []."""
    weights = mask * self.weigh(y)
    return (self.rows(logits, y) * weights).sum() / jnp.maximum(
      weights.sum(), 1.0
    )


def cross_entropy(*, class_weights: Sequence[float] = ()) -> Loss:
  """Builds cross entropy of the softmax of K logits.

  Args:
    class_weights: [K] of the classes: the mean is weighted by those of the
      labels, as in PyTorch, over w_{y_n} and not over the rows (Fu et al. on
      unbalanced data). (): all alike.

  Raises:
    InputError: a weight is not positive.
  """
  loss = Loss(
    optax.softmax_cross_entropy, jax.nn.softmax, lambda num_classes: num_classes
  )
  if not class_weights:
    return loss
  if not min(class_weights) > 0:
    raise InputError(
      f'class_weights={tuple(class_weights)} must all be positive.'
    )
  weights = np.asarray(class_weights, np.float32)
  weights = weights / weights.min()  # changes nothing: no mask between 0 and 1
  return loss._replace(weigh=lambda y: y @ weights)


def sigmoid() -> Loss:
  """Builds cross entropy of sigmoids: one logit for two classes.

  K > 2 logits are K classifiers of one class against the rest, whose losses are
  added.
  """

  def rows(logits, y):
    losses = optax.sigmoid_binary_cross_entropy(logits, _select(logits, y))
    return losses.sum(-1)

  return Loss(rows, _complete(jax.nn.sigmoid), _count_logits)


def taylor() -> Loss:
  """Builds the Taylor expansion of `sigmoid` at 0 that FATE trains on.

  log 2 - t z / 2 + z^2 / 8 of a logit z and t in {-1, 1}, whose gradient,
  z / 4 - t / 2, homomorphic encryption can form (Hardy et al.,
  arXiv:1711.10677, equations 7 and 8).
  """

  def rows(logits, y):
    signs = 2 * _select(logits, y) - 1
    losses = jnp.log(2.0) - signs * logits / 2 + logits**2 / 8
    return losses.sum(-1)

  return Loss(rows, _complete(jax.nn.sigmoid), _count_logits)


def _count_logits(num_classes):
  """Counts logits: one for two classes."""
  return 1 if num_classes == 2 else num_classes


def _select(logits, y):
  """Returns the labels that logits [B, D] stand for, of y [B, K]; [B, D]."""
  return y[:, 1:] if logits.shape[-1] == 1 else y


def _complete(activation):
  """Returns logits [B, D] -> probabilities [B, K]."""

  def predict(logits):
    p = activation(logits)
    if logits.shape[-1] == 1:
      return jnp.concatenate([1 - p, p], -1)
    return p / p.sum(-1, keepdims=True)

  return predict
