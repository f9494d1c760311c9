"""Vertical FL: what the joint model learns, and what its messages cost."""

from collections.abc import Callable
import time

import jax
from ml_collections import ConfigDict
import numpy as np

from labelleak.base import InputError
from labelleak.experiments.vfl import fitting, joint


def experiment(*, config: ConfigDict) -> Callable:
  """Trains the joint model once a seed; a run without an attack.

  Args:
    config: fields as in `configs/common.py: vfl`.

  Returns:
    measure(progress) -> one result, whose values are `main_accuracy` on the
    split `train.tested` after the last step, `train_accuracy`, and `bytes`, of
    all messages of a step between all parties; see `labelleak.experiments`. A
    row's `step_seconds` is the whole training, compilation included, by step.

  Raises:
    InputError: anything in the config that cannot run, or encryption that
      would take longer than `he.max_hours`.
  """
  config = config.copy_and_resolve_references()
  if not joint.trained(config):
    raise InputError(
      f'train.steps={config.train.steps} trains nothing; raise it.'
    )
  source = joint.source(config)
  tested = joint.source(config, config.train.tested)
  model = joint.build(config, source)
  size, steps = config.train.batch_size, config.train.steps
  traffic = joint.traffic(model, source, size)
  joint.check_cost(config, model, source, size, config.trials * steps)

  def measure(progress):
    values = dict(main_accuracy=[], train_accuracy=[])
    seconds = []
    for trial in range(config.trials):
      started = time.perf_counter()
      state = fitting.fit(config, model, source, config.seed + trial)
      jax.block_until_ready(state)
      seconds.append(time.perf_counter() - started)
      values['main_accuracy'].append(joint.accuracy(model, state, tested))
      values['train_accuracy'].append(joint.accuracy(model, state, source))
      progress(1)
    values['bytes'] = [sum(map(sum, traffic))] * config.trials
    per_step = np.array(seconds) / steps
    return [
      dict(
        attack='none',
        attack_args={},
        known=[],
        **joint.facts(config, source, size),
        traffic=[each._asdict() for each in traffic],
        step_seconds=round(float(np.median(per_step)), 5),
        values={name: np.array(v, float) for name, v in values.items()},
      )
    ]

  return measure
