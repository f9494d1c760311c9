"""What clients minimise."""

from collections.abc import Callable

import chex
import jax.numpy as jnp
import optax

from labelleak.base import Apply, Batch, Forward, InputError
from labelleak.hfl.description import Client

# (variables, batch) -> [], a mean over `Batch.mask`
Loss = Callable[[chex.ArrayTree, Batch], chex.Array]


def cross_entropy(apply: Apply) -> Loss:
  """Returns the mean cross entropy over examples that are not padding."""

  def loss_fn(variables, batch):
    logits = apply(variables, batch.xs[0])
    _check_logits(logits, batch.y)
    losses = optax.softmax_cross_entropy(logits, batch.y)
    return (losses * batch.mask).sum() / jnp.maximum(batch.mask.sum(), 1.0)

  return loss_fn


def example_losses(
  client: Client,
  forward: Forward,
  key: chex.PRNGKey,
  variables: chex.ArrayTree,
  batch: Batch,
) -> tuple[chex.Array, chex.Array, chex.ArrayTree]:
  """Returns each example's loss, as PyTorch defines them.

  Args:
    client: says the loss, its smoothing and its weights.
    forward: the model's pass.
    key: of dropout.
    variables: of the model.
    batch: leaves [B, ...].

  Returns:
    losses [B]; what a mean divides their sum by, [B], summed as well; and the
    variables with new statistics.
  """
  train = client.training_mode
  logits, after = forward(variables, batch.xs[0], train=train, key=key)
  _check_logits(logits, batch.y)
  num_classes = logits.shape[-1]
  weights = jnp.array(client.class_weights or (1.0,) * num_classes)
  if len(weights) != num_classes:
    raise InputError(
      f'Client: {len(weights)} class_weights for {num_classes} classes; give'
      ' one a class.'
    )
  if client.loss == 'sigmoid':
    losses = optax.sigmoid_binary_cross_entropy(logits, batch.y) @ weights
    return losses, jnp.full(len(losses), float(num_classes)), after
  smooth = client.label_smoothing
  target = (1 - smooth) * batch.y + smooth / num_classes
  losses = optax.softmax_cross_entropy(logits, weights[None] * target)
  return losses, batch.y @ weights, after


def _check_logits(logits, y):
  """Refuses labels that are not of the model's classes."""
  if logits.shape != y.shape:
    raise InputError(
      f'logits of shape {logits.shape} for labels of shape {y.shape}:'
      " both must be [B, K]; make labels one-hot, of the model's classes."
    )
