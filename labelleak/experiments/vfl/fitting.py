"""Training of a vertical config: its seeds, batches and checkpoints."""

from collections.abc import Callable, Sequence
import functools
import hashlib
import os
from typing import Optional

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from labelleak import base, data, train, vfl
from labelleak.base import Batch
from labelleak.data import plans
from labelleak.experiments.vfl import joint
from labelleak.models import weights


def fit(
  config: ConfigDict,
  model: joint.Joint,
  source: data.Source,
  seed: int,
  *,
  batches: Optional[Callable] = None,
  name: str = '',
  progress: Optional[bool] = None,
) -> vfl.State:
  """Trains the joint model on all rows of `source`, epoch by epoch.

  With `train.workdir` the state is saved there, by config, name and seed, and a
  training that was killed goes on from it.

  Args:
    config: of the point.
    model: the joint model.
    source: of the rows.
    seed: of the initialisation and of the order.
    batches: (numbers [n]) -> Batch, leaves [n, ...], where it is not the
      epochs of `source` that the model sees.
    name: sets a training apart from others of the same config.
    progress: whether to show a bar; None shows it on a terminal.
  """
  options = config.train
  workdir = None
  if options.workdir:
    whole = (config.to_json() + name).encode()
    own = hashlib.sha256(whole).hexdigest()[:16]
    workdir = os.path.join(options.workdir, own, str(seed))
  state = start(config, model, source, seed, batches)
  return train.fit(
    _metrics_alone(model.protocol.step),
    state,
    batches or (lambda n: epochs(config, model, source, n, seed)),
    steps=options.steps,
    workdir=workdir,
    progress=progress,
  )


def fit_all(
  config: ConfigDict,
  model: joint.Joint,
  source: data.Source,
  seeds: Sequence[int],
  stops: Sequence[int],
) -> list[vfl.State]:
  """`fit` for all seeds at once, vmapped and without checkpoints.

  Args:
    stops: ascending steps; the states after each of them are kept.

  Returns:
    a state for each stop, leaves [T, ...].
  """
  shuffled = config.train.shuffle
  order = lambda numbers, seed: epochs(config, model, source, numbers, seed)

  def batches(numbers):
    if not shuffled:  # the same for all
      return order(numbers, None)
    each = [order(numbers, seed) for seed in seeds]
    return jax.tree.map(lambda *a: np.stack(a, 1), *each)

  one = _metrics_alone(model.protocol.step)
  step = jax.vmap(one, (0, 0 if shuffled else None))

  def mean(states, batch):
    states, metrics = step(states, batch)
    return states, dict(loss=metrics['loss'].mean())  # decoding costs time

  each = [start(config, model, source, seed) for seed in seeds]
  states = jax.tree.map(lambda *a: jnp.stack(a), *each)
  kept, done = [], 0
  for stop in stops:
    states = train.fit(
      mean, states, lambda n, d=done: batches(n + d), steps=stop - done
    )
    kept, done = [*kept, states], stop
  return kept


def start(
  config: ConfigDict,
  model: joint.Joint,
  source: data.Source,
  seed: int,
  batches: Optional[Callable] = None,
) -> vfl.State:
  """What the training of this seed starts from.

  Parameters follow from the seed, those of bottoms but for their heads from
  the file `config.weights`, if there is one; what a link keeps has the size of
  a batch.
  """
  index = np.arange(config.train.batch_size) % len(source.y)
  if batches:
    xs = jax.tree.map(lambda a: a[0], batches(np.arange(1) + 1).xs)
  else:
    xs = model.split(source.take(index))
  state = base.jit_once(model.protocol.init)(jax.random.key(seed), xs)
  if not config.get('weights'):
    return state
  load = lambda bottom: weights.load(config.weights, bottom, head='fresh')
  return state._replace(variables=tuple(map(load, state.variables)))


def epochs(
  config: ConfigDict,
  model: joint.Joint,
  source: data.Source,
  numbers: np.ndarray,
  seed: Optional[int],
) -> Batch:
  """Batches of the training steps `numbers` [n], from 1; leaves [n, B, ...].

  With `train.shuffle` their order is that of `seed`.
  """
  index, mask = plans.epochs(
    len(source.y),
    config.train.batch_size,
    numbers,
    seed=seed if config.train.shuffle else None,
  )
  return joint.batch_of(source, model.split, index, mask)


@functools.lru_cache(maxsize=4)
def _metrics_alone(step):
  """A step that drops its views."""

  def run(state, batch):
    state, (_, metrics) = step(state, batch)
    return state, metrics

  return run
