"""Training: one loop for everything that learns, and our own classifiers.

`fit` scans a pure step over chunks of batches; between chunks it shows a
progress bar, calls back, and saves. Steps are numbered from 1, so that step n
is also the number of steps done. Chunks begin at multiples of `chunk` whether
or not a run was interrupted: resumed, it executes the same compiled programs on
the same batches, and ends with the same bits.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import inspect
import pathlib
from typing import Any, NamedTuple, Optional

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import tqdm

from labelleak import base
from labelleak.base import InputError


class State(NamedTuple):
  """What training a classifier carries from step to step."""

  variables: chex.ArrayTree  # Flax's dict: 'params' and, say, 'batch_stats'
  opt_state: chex.ArrayTree
  key: chex.PRNGKey  # constant; steps fold in their number
  count: chex.Array  # [] steps done


@contextlib.contextmanager
def _checkpoints(workdir: Optional[str]) -> Iterator[Optional[Any]]:
  """The checkpoints under `workdir`, closed at the end; None without one."""
  if workdir is None:
    yield None
    return
  options = ocp.CheckpointManagerOptions(
    max_to_keep=1, enable_async_checkpointing=False
  )
  path = pathlib.Path(workdir).resolve() / 'checkpoints'
  with ocp.CheckpointManager(path, options=options) as manager:
    yield manager


def _restore(manager, state, steps):
  """The saved state and its step, or the given one and 0."""
  done = manager.latest_step() if manager else None
  if done is None:
    return state, 0
  if done > steps:
    raise InputError(
      f'{manager.directory} is at step {done}, beyond steps={steps}; ask for'
      ' more steps or use another workdir.'
    )
  like = jax.tree.map(ocp.tree.to_shape_dtype_struct, dict(state=state))
  saved = manager.restore(done, args=ocp.args.StandardRestore(like))
  return saved['state'], done


@functools.lru_cache(maxsize=4)
def _scanned(step):
  """Trainings that share a step share its compiled form."""
  return jax.jit(lambda state, batch: jax.lax.scan(step, state, batch))


def _numbers(done, steps, chunk):
  """Steps of the chunk after `done`, from 1; none after the last."""
  return np.arange(done, min((done // chunk + 1) * chunk, steps)) + 1


def _check_finite(metrics, done):
  """Raises where a metric [n] of the steps after `done` is not finite."""
  for name, values in metrics.items():
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
      raise FloatingPointError(
        f'{name} is {values[bad[0]]} at step {done + bad[0] + 1}; lower lr,'
        ' clip the gradients or look for invalid inputs.'
      )


def fit(
  step: Callable,
  state: chex.ArrayTree,
  batches: Callable,
  *,
  steps: int,
  chunk: int = 20,
  callback: Optional[Callable] = None,
  workdir: Optional[str] = None,
  progress: Optional[bool] = None,
) -> chex.ArrayTree:
  """Runs `step` over `steps` batches and returns the final state.

  Args:
    step: (state, batch) -> (state, metrics), pure; metrics is a dict of scalars
      such as loss and accuracy.
    state: pytree of arrays, typed keys included.
    batches: (numbers [n]) -> leaves [n, ...], the batches of the steps with
      these numbers (from 1), on the host. The same numbers must give the same
      batches, or a resumed run differs.
    steps: total number of steps, those of an earlier run included.
    chunk: steps between two returns to the host; what is left over at the end
      is a shorter chunk.
    callback: (step, metrics) after every chunk: steps done, and the chunk's
      mean metrics as floats.
    workdir: where the state is saved after every chunk and resumed from.
    progress: whether to show a bar; None shows it on a terminal.

  Raises:
    FloatingPointError: a metric is not finite; names the step. The state saved
      last is from before that chunk.
    InputError: workdir holds a run that is longer than `steps`.
  """
  if steps < 0 or chunk < 1:
    raise InputError(
      f'steps={steps} and chunk={chunk}: need steps >= 0 and chunk >= 1.'
    )
  scan = _scanned(step)
  hide = None if progress is None else not progress
  with _checkpoints(workdir) as manager:
    state = jax.tree.map(jnp.asarray, state)
    state, done = _restore(manager, state, steps)
    bar = tqdm.tqdm(
      total=steps, initial=done, disable=hide, unit='step', desc='train'
    )
    with bar:
      numbers = _numbers(done, steps, chunk)
      batch = batches(numbers) if numbers.size else None
      while done < steps:
        state, metrics = scan(state, batch)
        following = _numbers(numbers[-1], steps, chunk)
        if following.size:  # made on the host while the device is at work
          batch = batches(following)
        metrics = jax.device_get(metrics)
        _check_finite(metrics, done)
        done = int(numbers[-1])
        if manager:
          manager.save(done, args=ocp.args.StandardSave(dict(state=state)))
        means = {name: float(np.mean(v)) for name, v in metrics.items()}
        bar.set_postfix(means, refresh=False)
        bar.update(len(numbers))
        if callback:
          callback(done, means)
        numbers = following
  return state


def transformation(
  name: str, lr: Any, *, weight_decay: float = 0.0, **hyper: Any
) -> optax.GradientTransformation:
  """`optax.<name>`; L2 decay where it has no weight decay of its own.

  `lr` is a number or an optax schedule, `hyper` the optimizer's own.

  Raises:
    InputError: unknown optimizer or hyperparameter.
  """
  known = sorted(
    key
    for key, value in vars(optax).items()
    if inspect.isfunction(value)
    and 'learning_rate' in inspect.signature(value).parameters
  )
  if name not in known:
    raise InputError(
      f'optax has no optimizer {name!r}; known: {", ".join(known)}.'
    )
  make = getattr(optax, name)
  accepted = inspect.signature(make).parameters
  for argument in hyper:
    if argument not in accepted:
      raise InputError(
        f'optimizer {name} takes no {argument!r}; it takes:'
        f' {", ".join(accepted)}.'
      )
  if 'weight_decay' in accepted:
    return make(lr, weight_decay=weight_decay, **hyper)
  return optax.chain(optax.add_decayed_weights(weight_decay), make(lr, **hyper))


def _train_step(model, tx, state, batch):
  """One step of cross entropy, batch norm and dropout in training mode."""
  x, y = batch
  params = state.variables['params']
  rest = {k: v for k, v in state.variables.items() if k != 'params'}
  key = jax.random.fold_in(state.key, state.count)
  dropout_key, defense_key = jax.random.split(key)

  def loss_fn(params):
    logits, updated = model.apply(
      {**rest, 'params': params},
      x,
      train=True,
      rngs={'dropout': dropout_key},
      mutable=list(rest),
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
    variables={**rest, **updated, 'params': params},
    opt_state=opt_state,
    count=state.count + 1,
  )
  return state, {'loss': loss, 'accuracy': hits}


def whole_batches(
  size: int, batch_size: int, numbers: np.ndarray, seed: Sequence[int]
) -> np.ndarray:
  """Rows [n, B] of the steps `numbers` [n], from 1: shuffled passes of batches.

  What is left of a pass after its last whole batch is dropped; each pass has an
  order, and leftovers, of its own.

  Args:
    size: N, rows of the data, at least B.
    batch_size: B.
    numbers: of the steps.
    seed: of the order.
  """
  which, place = np.divmod(np.asarray(numbers) - 1, size // batch_size)
  orders = {
    n: np.random.default_rng((*seed, n)).permutation(size)
    for n in set(which.tolist())
  }
  starts = (place * batch_size).tolist()
  return np.stack(
    [orders[n][i : i + batch_size] for n, i in zip(which.tolist(), starts)]
  )


def _shuffled(source, batch_size, seed, numbers):
  """Batches of the steps `numbers` [n]: a stream of shuffled epochs."""
  size = len(source.y)
  start = (numbers[0] - 1) * batch_size
  place = np.arange(start, numbers[-1] * batch_size)
  epochs = range(place[0] // size, place[-1] // size + 1)
  order = np.concatenate(
    [np.random.default_rng((seed, epoch)).permutation(size) for epoch in epochs]
  )
  index = order[place - epochs[0] * size]
  x = source.take(index)
  shape = len(numbers), batch_size
  return (
    x.reshape(*shape, *x.shape[1:]),
    np.asarray(source.y)[index].reshape(shape),
  )


def classifier(
  model: nn.Module,
  source: Any,
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
  callback: Optional[Callable] = None,
  progress: Optional[bool] = None,
  **hyper: Any,
) -> chex.ArrayTree:
  """Trains `model` on all examples of `source`; returns its variables.

  Args:
    model: called as (x [B, ...], train=...) -> logits [B, K].
    source: a `data.Source`.
    steps, batch_size: of mini-batches from epochs shuffled anew.
    lr: learning rate, constant.
    seed: of the order, and of all else without a key.
    key: of initialisation, dropout and defense.
    optimizer: name in optax, such as 'adam', 'adamw' or 'sgd'.
    weight_decay: the optimizer's own, else added to the gradient (L2).
    defense: acts on the mean gradient of every mini-batch, before decay and
      optimizer: one client that sends each step's gradient (FedSGD). Its state
      starts anew with every training.
    variables: where to start; None initialises from `seed`.
    workdir, callback, progress: see `fit`.
    **hyper: the optimizer's own, such as momentum.

  Raises:
    InputError: unknown optimizer or hyperparameter, or no examples in a batch.
    FloatingPointError: the loss is not finite.
  """
  if batch_size < 1 or lr <= 0:
    raise InputError(
      f'batch_size={batch_size} must be at least 1 and lr={lr} positive.'
    )
  tx = transformation(optimizer, lr, weight_decay=weight_decay, **hyper)
  tx = optax.chain(defense or optax.identity(), tx)
  tx = optax.with_extra_args_support(tx)
  key = jax.random.key(seed) if key is None else key
  init_key, step_key = jax.random.split(key)
  if variables is None:
    variables = base.jit_once(model.init)(init_key, source.take(np.arange(1)))
  state = State(
    variables=variables,
    opt_state=tx.init(variables['params']),
    key=step_key,
    count=jnp.zeros((), jnp.int32),
  )
  state = fit(
    functools.partial(_train_step, model, tx),
    state,
    functools.partial(_shuffled, source, batch_size, seed),
    steps=steps,
    workdir=workdir,
    callback=callback,
    progress=progress,
  )
  return state.variables


@functools.partial(jax.jit, static_argnums=0)
def _predict(model, variables, x):
  return model.apply(variables, x).argmax(-1)


def accuracy(
  model: nn.Module,
  variables: chex.ArrayTree,
  source: Any,
  *,
  batch_size: int = 256,
) -> float:
  """Share of `source` that the model classifies right, in evaluation mode."""
  size = len(source.y)
  hits = 0
  for start in range(0, size, batch_size):
    # The last batch wraps around, so that all of them have one shape.
    index = np.arange(start, start + batch_size) % size
    right = _predict(model, variables, source.take(index)) == source.y[index]
    hits += int(np.sum(np.asarray(right)[: size - start]))
  return hits / size
