"""Vertical FL: what the joint model learns, and what its messages cost."""

import time

import jax
import numpy as np

from labelleak import sweep, train
from labelleak.experiments import Measure, fields
from labelleak.experiments.result import NO_ATTACK, Result
from labelleak.experiments.vfl.build import build


def experiment(*, config: fields.Vertical) -> Measure:
  """Prepares one training a seed; a run without an attack.

  Values are `main_accuracy` on the split `train.tested` after the last step,
  `train_accuracy`, and `bytes`, of all messages of a step between all parties.
  A row's `step_seconds` is the whole training, compilation included, by step;
  of one that a killed run had begun, what was left of it.

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
    def trial(t):
      moves = []
      started = time.perf_counter()
      state = joint.fit(
        config.seed + t,
        workdir=progress.checkpoints,
        callback=lambda done, metrics: moves.append(done),
      )
      jax.block_until_ready(state)
      seconds = time.perf_counter() - started
      return dict(
        main_accuracy=joint.accuracy(state),
        train_accuracy=joint.accuracy(state, joint.source),
        step_seconds=seconds / _count(steps, moves) if moves else None,
      )

    trials = sweep.map_trials(
      trial, config.trials, finished=progress.finished, callback=progress
    )
    seconds = [each.pop('step_seconds') for each in trials]
    seconds = [value for value in seconds if value is not None]
    values = {k: [each[k] for each in trials] for k in trials[0]}
    values['bytes'] = [sum(map(sum, traffic))] * config.trials
    return [
      Result(
        NO_ATTACK,
        (),
        joint.setting._replace(batch_size=size),
        values={name: np.array(v, float) for name, v in values.items()},
        details=dict(
          traffic=[messages._asdict() for messages in traffic],
          step_seconds=round(float(np.median(seconds)), 5) if seconds else None,
        ),
      )
    ]

  return measure


def _count(steps, moves):
  """Returns how many steps a training took, from where its chunks ended."""
  return steps - (moves[0] - 1) // train.CHUNK * train.CHUNK
