"""Vertical FL: what a defense hides, and what its training still learns."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from labelleak import sweep
from labelleak.base import InputError
from labelleak.experiments import fitting, grants, joint
from labelleak.experiments import vfl as attacked


def experiment(*, config: ConfigDict) -> Callable:
  """Attacks the first step of each training, and trains on to the end.

  A trial is a training with a seed of its own, `seed`, `seed` + 1, ...; its
  first batch is attacked at the initialisation, as VFLAIR does, and the model
  it ends with is tested. Trainings run together, vmapped.

  Args:
    config: fields as in `configs/common.py: vfl`. `draw` has no meaning here:
      the attacked batch is the first of the training.

  Returns:
    measure(progress) -> results, whose values hold the `main_accuracy` of every
    trial beside what the attack scored; see `labelleak.experiments`.

  Raises:
    InputError: anything in the config that cannot run; no training steps, or a
      batch size that is not that of the training.
  """
  config = config.copy_and_resolve_references()
  size, steps = config.train.batch_size, config.train.steps
  if not joint.trained(config) or config.batch_size != size:
    raise InputError(
      f'train.steps={steps} must be positive and batch_size='
      f'{config.batch_size} that of the training, {size}; change them.'
    )
  source = joint.source(config)
  tested = joint.source(config, config.train.tested)
  model = joint.build(config, source)
  specs = grants.specs(
    config, attacked.GRANTS, links=config.defense, baseline='scores.random'
  )
  joint.check_cost(config, model, source, size, config.trials * steps)
  trial = attacked.first_step(config, model, specs, source.num_classes)
  seeds = [config.seed + t for t in range(config.trials)]
  first = _first(config, model, source, seeds[0])
  jax.eval_shape(trial, jax.random.key(0), *first)

  def measure(progress):
    items = [_first(config, model, source, seed) for seed in seeds]
    values = sweep.spread(
      lambda key, item, shared: trial(key, *item),
      sweep.trial_keys(jax.random.key(config.seed), len(seeds)),
      jax.tree.map(lambda *a: jnp.stack(a), *items),
      (),
      per_device=config.per_device,
      callback=progress,
    )
    states = fitting.fit_all(config, model, source, seeds)
    each = [
      jax.tree.map(lambda a, t=t: a[t], states) for t in range(len(seeds))
    ]
    learned = np.array([joint.accuracy(model, s, tested) for s in each])
    facts = joint.facts(config, source, size)
    return attacked.results(
      config, specs, facts, source.num_classes, values, main_accuracy=learned
    )

  return measure


def _first(config, model, source, seed):
  """First batch of a training, and the state before it."""
  batch = fitting.epochs(config, model, source, np.array([1]), seed)
  state = fitting.start(config, model, source, seed)
  return jax.tree.map(lambda a: a[0], batch), state
