"""Classifiers of our own: cross entropy on all examples of a source."""

from collections.abc import Callable
import functools
import hashlib
from typing import Any, NamedTuple, Optional, Protocol

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import compilation, optimizers, validate
from labelleak.train import loop, order
from labelleak.train.loop import Callback

_PROBED = 256  # rows that tell two sources apart, beside all labels


class Examples(Protocol):
  """Labelled examples on the host, such as a `data.Source`.

  Attributes:
    take: index [n] -> x [n, ...].
    y: [N] int labels.
  """

  take: Callable[[np.ndarray], np.ndarray]
  y: np.ndarray


class State(NamedTuple):
  """What training carries from step to step."""

  variables: chex.ArrayTree  # Flax's dict: 'params' and, say, 'batch_stats'
  opt_state: chex.ArrayTree  # of the optimizer
  key: chex.PRNGKey  # constant; steps fold in their number
  count: chex.Array  # [] steps done


def classifier(
  model: nn.Module,
  source: Examples,
  *,
  steps: int,
  batch_size: int,
  lr: float,
  seed: int,
  key: Optional[chex.PRNGKey] = None,
  optimizer: str = 'adam',
  weight_decay: float = 0.0,
  defense: Optional[optax.GradientTransformation] = None,
  variables: Optional[chex.ArrayTree] = None,
  workdir: Optional[str] = None,
  every: float = 0.0,
  callback: Optional[Callback] = None,
  progress: Optional[bool] = None,
  **hyper: Any,
) -> chex.ArrayTree:
  """Trains `model` on all examples of `source`; returns its variables.

  Args:
    model: called as (x [B, ...], train=...) -> logits [B, K].
    source: a `data.Source`, or what else has `take` and `y`.
    steps, batch_size: of mini-batches from epochs shuffled anew.
    lr: learning rate, constant.
    seed: of the order, and of all else without a key.
    key: of initialisation, dropout and defense; None: from the seed.
    optimizer: name in optax, such as 'adam', 'adamw' or 'sgd'.
    weight_decay: the optimizer's own, else added to the gradient (L2).
    defense: acts on the mean gradient of every mini-batch, before decay and
      optimizer: one client that sends each step's gradient (FedSGD). Its state
      starts anew with every training.
    variables: where to start; None initialises from `seed`.
    workdir, every, callback, progress: see `fit`.
    **hyper: the optimizer's own, such as momentum.

  Raises:
    InputError: unknown optimizer or hyperparameter, or no examples in a batch.
    FloatingPointError: the loss is not finite.
  """
  validate.whole('batch_size', batch_size, 1)
  validate.positive('lr', lr)
  tx = optimizers.optimizer(optimizer, lr, weight_decay=weight_decay, **hyper)
  tx = optax.chain(defense or optax.identity(), tx)
  tx = optax.with_extra_args_support(tx)
  key = jax.random.key(seed) if key is None else key
  init_key, step_key = jax.random.split(key)
  if variables is None:
    variables = compilation.jit_once(model.init)(
      init_key, source.take(np.arange(1))
    )
  state = State(
    variables=variables,
    opt_state=tx.init(variables['params']),
    key=step_key,
    count=jnp.zeros((), jnp.int32),
  )
  state = loop.fit(
    functools.partial(_step, model, tx),
    state,
    functools.partial(_batches, source, batch_size, seed),
    steps=steps,
    workdir=workdir,
    made_by=_describe(source, batch_size, seed) if workdir else '',
    every=every,
    callback=callback,
    progress=progress,
  )
  return state.variables


def _describe(source, batch_size, seed):
  """Returns what tells the batches of a training apart, without its rows."""
  y = np.asarray(source.y)
  rows = np.unique(np.linspace(0, len(y) - 1, _PROBED).astype(int))
  digest = hashlib.sha256(y.tobytes())
  digest.update(np.asarray(source.take(rows)).tobytes())
  return f'{digest.hexdigest()} {batch_size} {seed}'


@functools.partial(jax.jit, static_argnums=0)
def _predict(model, variables, x):
  return model.apply(variables, x).argmax(-1)


def accuracy(
  model: nn.Module,
  variables: chex.ArrayTree,
  source: Examples,
  *,
  batch_size: int = 256,
) -> float:
  """Returns the share of `source` that the model gets right, train=False."""
  size = len(source.y)
  hits = 0
  for start in range(0, size, batch_size):
    # The last batch wraps around, so that all of them have one shape.
    index = np.arange(start, start + batch_size) % size
    right = _predict(model, variables, source.take(index)) == source.y[index]
    hits += int(np.sum(np.asarray(right)[: size - start]))
  return hits / size


def _step(model, tx, state, batch):
  """Takes a step of cross entropy, batch norm and dropout in training mode."""
  x, y = batch
  params = state.variables['params']
  statistics = {k: v for k, v in state.variables.items() if k != 'params'}
  key = jax.random.fold_in(state.key, state.count)
  dropout_key, defense_key = jax.random.split(key)

  def loss_fn(params):
    logits, updated = model.apply(
      {**statistics, 'params': params},
      x,
      train=True,
      rngs={'dropout': dropout_key},
      mutable=list(statistics),
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return losses.mean(), (updated, (logits.argmax(-1) == y).mean())

  value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
  (loss, (updated, hits)), grads = value_and_grad(params)
  updates, opt_state = tx.update(
    grads, state.opt_state, params, key=defense_key, mask=jnp.ones(len(y))
  )
  params = optax.apply_updates(params, updates)
  state = state._replace(
    variables={**statistics, **updated, 'params': params},
    opt_state=opt_state,
    count=state.count + 1,
  )
  return state, {'loss': loss, 'accuracy': hits}


def _batches(source, batch_size, seed, numbers):
  """Batches of the steps `numbers` [n]: a stream of shuffled epochs."""
  index = order.stream(len(source.y), batch_size, numbers, seed)
  x = source.take(index.ravel())
  return x.reshape(*index.shape, *x.shape[1:]), np.asarray(source.y)[index]
