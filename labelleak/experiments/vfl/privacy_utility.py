"""Vertical FL: what a defense hides, and what its training still learns."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from labelleak import sweep
from labelleak.base import InputError
from labelleak.experiments import grants
from labelleak.experiments.vfl import batch_inference as attacked
from labelleak.experiments.vfl import fitting, joint


def experiment(*, config: ConfigDict) -> Callable:
  """Attacks the first step of each training, and trains on to the end.

  A trial is a training with a seed of its own, `seed`, `seed` + 1, ...; its
  first batch is attacked at the initialisation, as VFLAIR does, and the model
  it ends with is tested. Trainings run together, vmapped.

  `observed.steps` > 1 attacks each of the first steps, as Fu et al. do during
  the first epoch: a trial's value is the mean over them. `observed.epochs` > 1
  attacks the same batches in each of the first epochs and averages the scores,
  and with them a defense's noise.

  Args:
    config: fields as in `configs/common.py: vfl`. `draw` has no meaning here:
      the attacked batch is the first of the training.

  Returns:
    measure(progress) -> results, whose values hold the `main_accuracy` of every
    trial beside what the attack scored; see `labelleak.experiments`.

  Raises:
    InputError: anything in the config that cannot run; no training steps, a
      batch size that is not that of the training, fewer trained steps than
      attacked ones, several epochs in random order.
  """
  config = config.copy_and_resolve_references()
  source = joint.source(config)
  _check(config, len(source.y))
  tested = joint.source(config, config.train.tested)
  model = joint.build(config, source)
  specs = grants.specs(
    config, attacked.GRANTS, links=config.defense, baseline='scores.random'
  )
  size, steps = config.train.batch_size, config.train.steps
  joint.check_cost(config, model, source, size, config.trials * steps)
  seeds = [config.seed + t for t in range(config.trials)]
  trial = _trial(config, model, specs, source.num_classes)
  stops = _stops(config, len(source.y))
  each = lambda seed: _batches(config, model, source, seed)
  start = fitting.start(config, model, source, seeds[0])
  states = jax.tree.map(lambda a: jnp.stack([a] * len(stops)), start)
  jax.eval_shape(trial, jax.random.key(0), (each(seeds[0]), states), ())

  def measure(progress):
    *states, end = fitting.fit_all(
      config, model, source, seeds, (*stops, config.train.steps)
    )
    states = jax.tree.map(lambda *a: jnp.stack(a, 1), *states)  # [T, E, ...]

    def items(index):
      batches = [each(seeds[i]) for i in index]
      taken = jax.tree.map(lambda a: a[index], states)
      return jax.tree.map(lambda *a: np.stack(a), *batches), taken

    values = sweep.spread(
      trial,
      sweep.trial_keys(jax.random.key(config.seed), len(seeds)),
      items,
      (),
      per_device=config.per_device,
      finished=progress.finished,
      callback=progress,
    )
    learned = [
      joint.accuracy(model, jax.tree.map(lambda a, t=t: a[t], end), tested)
      for t in range(len(seeds))
    ]
    facts = joint.facts(config, source, size)
    draw = 'random' if config.train.shuffle else 'first'
    facts['setting'].update(step=0, trained=False, draw=draw)  # as attacked
    observed = config.observed.to_dict()
    if observed != dict(steps=1, epochs=1):
      facts['setting'].update(observed=observed)
    return attacked.results(
      config,
      specs,
      facts,
      source.num_classes,
      values,
      main_accuracy=np.array(learned),
    )

  return measure


def _trial(config, model, specs, num_classes):
  """(key, (batches [n, ...], states [E, ...]), ()) -> what attacks scored."""
  attack = attacked.scorer(config, model, specs, num_classes)

  def observe(state, inputs):
    key, batch = inputs
    return model.protocol.step(state, batch)[0], attack(key, batch, state)

  def trial(key, item, shared):
    batches, states = item
    shape = config.observed.epochs, config.observed.steps
    keys = jax.random.split(key, shape)
    epoch = lambda args: jax.lax.scan(observe, args[0], (args[1], batches))[1]
    scores = jax.lax.map(epoch, (states, keys))  # each [E, n, B, K]
    mean = [each.mean(0) for each in scores]
    found = jax.lax.map(lambda args: attacked.scored(*args), (mean, batches.y))
    return jax.tree.map(lambda a: a.mean(0), found)

  return trial


def _batches(config, model, source, seed):
  """The first batches of a training, [n, B, ...]."""
  numbers = np.arange(config.observed.steps) + 1
  return fitting.epochs(config, model, source, numbers, seed)


def _stops(config, rows):
  """Steps before each epoch that is observed."""
  each = -(-rows // config.train.batch_size)
  return tuple(each * epoch for epoch in range(config.observed.epochs))


def _check(config, rows):
  """Refuses what cannot be observed of a training over `rows` rows."""
  size, steps = config.train.batch_size, config.train.steps
  if not joint.trained(config) or config.batch_size != size:
    raise InputError(
      f'train.steps={steps} must be positive and batch_size='
      f'{config.batch_size} that of the training, {size}; change them.'
    )
  num, epochs = config.observed.steps, config.observed.epochs
  if min(num, epochs) < 1 or max(num, *_stops(config, rows)) > steps:
    raise InputError(
      f'observed.steps={num} and observed.epochs={epochs} must be at least 1'
      f' and lie within the train.steps={steps}; change them.'
    )
  if rows % size and num >= -(-rows // size):
    raise InputError(
      f'observed.steps={num} of batch_size={size} include the short last batch'
      f' of {rows} rows; use at most {rows // size}.'
    )
  if epochs > 1 and config.train.shuffle:
    raise InputError(
      f'observed.epochs={epochs} averages over epochs of the same batches; set'
      ' train.shuffle=False.'
    )
