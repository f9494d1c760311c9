"""Clients: pure functions from what the server sent to what they send back."""

from collections.abc import Callable
import math
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import validate
from labelleak.base import Batch, Forward, InputError
from labelleak.hfl.description import Client
from labelleak.hfl.losses import Loss, example_losses
from labelleak.hfl.steps import step_sizes

# (key, variables, batch) -> update, like variables['params']
LocalUpdate = Callable[[chex.PRNGKey, chex.ArrayTree, Batch], chex.ArrayTree]
# (key, variables, batch) -> its gradient, variables with new statistics
StepGradient = Callable[
  [chex.PRNGKey, chex.ArrayTree, Batch], tuple[chex.ArrayTree, chex.ArrayTree]
]


class Steps(NamedTuple):
  """Which examples each local step takes."""

  rows: chex.Array  # [S, b]
  real: chex.Array  # [S, b] 1 for an example, 0 for padding


def fedsgd(loss_fn: Loss) -> LocalUpdate:
  """Returns a client that sends the gradient of its mean loss."""
  return lambda key, variables, batch: _gradient(loss_fn, variables, batch)


def fedavg(
  loss_fn: Loss,
  *,
  lr: float,
  steps: int,
  step_defense: Optional[optax.GradientTransformation] = None,
) -> LocalUpdate:
  """Returns a client that takes S SGD steps, sends (server - local) / lr.

  Slices are consecutive, of ceil(B/S) examples; the last one may be ragged (see
  `step_sizes`). The update is divided by the learning rate and not by S, so
  that it is the sum of S step gradients, up to the float32 rounding of the
  parameters: about 1e-9 / lr an entry. LLG reads that rounding where a layer
  norm makes the head's inputs sum to zero, as in a ViT.

  Args:
    loss_fn: such as `cross_entropy`.
    lr: local learning rate.
    steps: S.
    step_defense: acts on each step's mini-batch gradient, before the step.
  """
  validate.within('lr', lr, '(0, inf)', 'the update is divided by it')
  tx = optax.sgd(lr)

  def gradient(key, variables, batch):
    del key
    return _gradient(loss_fn, variables, batch), variables

  def client(key, variables, batch):
    num = batch.mask.shape[0]
    sizes = jnp.array(step_sizes(num, steps))
    width = max(step_sizes(num, steps))
    starts = jnp.arange(steps)[:, None] * width
    slots = jnp.arange(width)[None, :]
    slices = Steps(
      rows=(starts + slots) % num,
      real=(slots < sizes[:, None]).astype(batch.mask.dtype),
    )
    train = _train(gradient, tx, lr, step_defense)
    return train(key, variables, batch, slices)

  return client


def local_training(
  client: Client,
  forward: Forward,
  *,
  step_defense: Optional[optax.GradientTransformation] = None,
) -> LocalUpdate:
  """Returns what a described client does; it sends (server - local) / lr.

  Args:
    client: with its learning rate.
    forward: the model's pass, in training and evaluation mode.
    step_defense: acts on each step's gradient, before the optimizer.

  Raises:
    InputError: a client without a learning rate.
  """
  if client.lr is None:
    raise InputError('Client: lr=None cannot be trained; set it.')
  gradient = _clipped_gradient if client.clip_per_example else _mean_gradient
  train = _train(
    gradient(client, forward),
    client.make_optimizer(client.lr),
    client.lr,
    step_defense,
    proximal=client.proximal,
  )

  def update(key, variables, batch):
    order_key, train_key = jax.random.split(key)
    steps = draw_steps(order_key, client, batch.mask)
    return train(train_key, variables, batch, steps)

  return update


def draw_steps(key: chex.PRNGKey, client: Client, mask: chex.Array) -> Steps:
  """Draws which examples each of a client's steps takes.

  Args:
    key: of the orders.
    client: its description.
    mask: [B] 0 for padding, which is in no step.
  """
  num, real = len(mask), mask.sum()
  size = min(client.batch_size or num, num)
  per_epoch = len(client.step_sizes(num)) // client.epochs
  if client.poisson:
    shape = client.epochs * per_epoch, num
    drawn = jax.random.bernoulli(key, size / jnp.maximum(real, 1.0), shape)
    needed = jnp.arange(shape[0]) % per_epoch * size < real
    rows = jnp.broadcast_to(jnp.arange(num), shape)
    return Steps(rows, drawn * mask[None] * needed[:, None])
  slots = jnp.arange(per_epoch * size)

  def epoch(key):
    order = jnp.arange(num) / num
    if client.shuffle:
      order = jax.random.uniform(key, (num,))
    order = jnp.argsort(order + 2.0 * (mask == 0))  # padding goes last
    end = real // size * size if client.drop_last else real
    rows = order[jnp.minimum(slots, num - 1)]
    return rows, (slots < end).astype(mask.dtype)

  rows, taken = jax.vmap(epoch)(jax.random.split(key, client.epochs))
  return Steps(rows.reshape(-1, size), taken.reshape(-1, size))


def _train(gradient, tx, lr, step_defense=None, proximal=0.0):
  """Returns (key, variables, batch, steps) -> (server - local) / lr."""
  defense = optax.with_extra_args_support(step_defense or optax.identity())

  def train(key, variables, batch, steps):
    server = variables['params']

    def step(carry, inputs):
      key, rows, real = inputs
      part = jax.tree.map(lambda a: jnp.asarray(a)[rows], batch)
      part = part._replace(mask=part.mask * real)
      now, opt_state, defense_state = carry
      grads, after = gradient(key, now, part)
      if proximal:
        pull = lambda g, p, q: g + proximal * (p - q)
        grads = jax.tree.map(pull, grads, now['params'], server)
      grads, defense_state = defense.update(
        grads, defense_state, now['params'], key=key, mask=part.mask
      )
      moves, opt_state = tx.update(grads, opt_state, now['params'])
      params = optax.apply_updates(now['params'], moves)
      after = {**after, 'params': params}, opt_state, defense_state
      # A client of fewer examples takes fewer steps.
      active = part.mask.sum() > 0
      keep = lambda new, old: jnp.where(active, new, old)
      return jax.tree.map(keep, after, carry), None

    # Who differentiates the update keeps a step's activations, not those of S.
    step = jax.checkpoint(step, prevent_cse=False)
    keys = jax.random.split(key, len(steps.rows))
    start = variables, tx.init(server), defense.init(server)
    (local, *_), _ = jax.lax.scan(step, start, (keys, *steps))
    return jax.tree.map(lambda p, q: (p - q) / lr, server, local['params'])

  return train


def _gradient(loss_fn, variables, batch):
  """Returns the gradient of a loss in the parameters."""
  return jax.grad(lambda p: loss_fn({**variables, 'params': p}, batch))(
    variables['params']
  )


def _mean_gradient(client, forward) -> StepGradient:
  """Returns the gradient of a step's loss, reduced as the client says."""

  def gradient(key, variables, batch):
    def loss(params):
      losses, weights, after = example_losses(
        client, forward, key, {**variables, 'params': params}, batch
      )
      total = (losses * batch.mask).sum()
      if client.reduction == 'mean':
        total /= jnp.maximum((weights * batch.mask).sum(), 1e-12)
      return total, after

    return jax.grad(loss, has_aux=True)(variables['params'])

  return gradient


def _clipped_gradient(client, forward) -> StepGradient:
  """Returns DP-SGD's gradient: clipped by example, summed, made noisy."""

  def one(key, variables, example):
    def loss(params):
      losses, weights, _ = example_losses(
        client, forward, key, {**variables, 'params': params}, example
      )
      return losses[0] / (weights[0] if client.loss == 'sigmoid' else 1.0)

    grads = jax.grad(loss)(variables['params'])
    norm = optax.tree.norm(grads)
    factor = jnp.minimum(1.0, client.clip_per_example / (norm + 1e-6))
    return jax.tree.map(lambda g: factor * g, grads)

  def gradient(key, variables, batch):
    example_key, noise_key = jax.random.split(key)
    alone = jax.tree.map(lambda a: jnp.asarray(a)[:, None], batch)
    grads = jax.vmap(one, (None, None, 0))(example_key, variables, alone)
    grads = jax.tree.map(lambda g: jnp.tensordot(batch.mask, g, axes=1), grads)
    std = client.noise_multiplier * client.clip_per_example
    if std:
      noise = optax.tree.random_like(noise_key, grads, _normal)
      grads = jax.tree.map(lambda g, n: g + std * n, grads, noise)
    if client.reduction == 'mean':
      size = client.divisor(len(batch.mask))
      grads = jax.tree.map(lambda g: g / size, grads)
    return grads, variables

  return gradient


def _normal(key, shape, dtype):
  """Draws from a normal distribution.

  Flat, which XLA compiles several times faster; the numbers are the same.
  """
  return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)
