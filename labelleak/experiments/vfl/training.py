"""Vertical FL: what the joint model learns, and what its messages cost."""

import time

import jax
import numpy as np

from labelleak.experiments import Measure, fields
from labelleak.experiments.result import NO_ATTACK, Result
from labelleak.experiments.vfl.build import build


def experiment(*, config: fields.Vertical) -> Measure:
  """Prepares one training a seed; a run without an attack.

  Values are `main_accuracy` on the split `train.tested` after the last step,
  `train_accuracy`, and `bytes`, of all messages of a step between all parties.
  A row's `step_seconds` is the whole training, compilation included, by step.

  Args:
    config: fields as in `configs/common.py: vfl`.

  Raises:
    InputError: anything in the config that cannot run, or encryption that
      would take longer than `he.max_hours`.
  """
  joint = build(config)
  joint.check_training()
  size, steps = joint.training.batch_size, joint.training.steps
  traffic = joint.traffic(size)
  joint.check_cost((size, config.trials * steps))

  def measure(progress):
    values = dict(main_accuracy=[], train_accuracy=[])
    seconds = []
    for trial in range(config.trials):
      started = time.perf_counter()
      state = joint.fit(config.seed + trial)
      jax.block_until_ready(state)
      seconds.append(time.perf_counter() - started)
      values['main_accuracy'].append(joint.accuracy(state))
      values['train_accuracy'].append(joint.accuracy(state, joint.source))
      progress(1)
    values['bytes'] = [sum(map(sum, traffic))] * config.trials
    step_seconds = float(np.median(np.array(seconds) / steps))
    return [
      Result(
        NO_ATTACK,
        (),
        joint.setting._replace(batch_size=size),
        values={name: np.array(v, float) for name, v in values.items()},
        details=dict(
          traffic=[messages._asdict() for messages in traffic],
          step_seconds=round(step_seconds, 5),
        ),
      )
    ]

  return measure
