"""Small runs of nine experiments, each in a process that may be killed.

What a run keeps every ten seconds it keeps at once here, so that a trial of a
moment is one of a minute: what has finished must not be computed again.
"""

from collections.abc import Callable
import os
import pathlib
import sys
from unittest import mock

import jax
from ml_collections import ConfigDict

from configs import coae, common, completion_figures
from labelleak import experiments, runs
from labelleak.train import checkpoints
from tests.experiments import samples

FINISHED = 'finished.txt'  # a line for each trial that was finished


def _label_counts():
  config = samples.horizontal(per_device=1, sweep=(('batch_size', (20, 30)),))
  config.train = dict(steps=60, batch_size=32, lr=1e-2)
  return config


def _batch_inference():
  return samples.vertical(trials=6, per_device=1, train__steps=60)


def _model_completion():
  config = common.completion('test')
  config.model = dict(name='mlp.mlp2', width=16)
  config.batch_size = config.train.batch_size = 32
  config.train.steps, config.trials = 60, 3
  config.attacks = tuple(
    dict(name=f'completion.{name}', epochs=2, iterations=10, ema=0.9)
    for name in ('passive', 'active')
  )
  return config


def _backdoor():
  config = common.backdoor('test')
  config.train.update(steps=60, epochs=0)
  config.trials = 3
  return config


def _training():
  config = samples.vertical(experiment='vfl.training', train__steps=60)
  config.model = dict(name='mlp.linear')
  config.trials = 3
  config.sweep = (('optimizer.lr', (0.01, 0.02)),)
  return config


def _attribution():
  config = completion_figures.get_config('runlocal')
  config.trials, config.train.steps = 3, 40
  config.attacks = config.attacks[:1]
  return config


def _label_codes():
  config = coae.get_config('runlocal')
  config.trials, config.classes = 12, 5
  config.sweep = ()
  config.defense = (dict(name='coae', confusion=0.5, steps=2000),)
  return config


def _privacy_utility():
  config = samples.vertical(experiment='vfl.privacy_utility', train__steps=60)
  config.aggregate = dict(name='plaintext')
  config.attacks = (dict(name='scores.direct'),)
  config.batch_size = config.train.batch_size = 64
  config.trials, config.per_device = 6, 1
  return config


def _whole_training():
  config = samples.vertical(experiment='vfl.whole_training')
  config.aggregate = dict(name='plaintext')
  config.known = ('pool',)
  config.attacks = (
    dict(name='history.gaussian_process', anchors=30, rounds=1),
    dict(name='scores.direct'),
  )
  config.defense = (dict(name='gaussian', stddev=0.005),)
  common.train(config, batch_size=128, epochs=2)
  config.after, config.trials = (1, 2), 2
  return config


CONFIGS: dict[str, Callable[[], ConfigDict]] = dict(
  label_counts=_label_counts,
  batch_inference=_batch_inference,
  model_completion=_model_completion,
  backdoor=_backdoor,
  training=_training,
  attribution=_attribution,
  label_codes=_label_codes,
  privacy_utility=_privacy_utility,
  whole_training=_whole_training,
)


def work(name: str, workdir: str) -> None:
  """Runs a config, and writes a line as soon as a trial has finished."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
  jax.config.update('jax_compilation_cache_dir', f'{workdir}/../programs')
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  log = pathlib.Path(workdir, FINISHED)
  log.parent.mkdir(exist_ok=True)
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  tell = experiments.Progress.__call__

  def tell_and_note(progress, num, values=None):
    tell(progress, num, values)
    os.write(file, b'trial\n' * num)

  with (
    mock.patch.object(experiments.Progress, '__call__', tell_and_note),
    mock.patch.object(runs, 'EVERY', 0.0),
    mock.patch.object(checkpoints, '_WORTH', 0.0),
  ):
    experiments.run(CONFIGS[name](), workdir)
