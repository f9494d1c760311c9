"""What a client's defenses cost: the accuracy of a model trained under them.

`relative_accuracy` is what that model's test accuracy is above the one of the
same training without a defense: a difference, as in Tables 11 to 13 of the LLBG
paper, where -69.60 beside a baseline of 70.60 % is `random guessing`, 1 %. The
paper trained `an instance of the model' for each setting `while applying the
noise and clipping of the setting during training', by a recipe that it does not
give; read here as one client that sends the gradient of every mini-batch,
clipped, noised and compressed (FedSGD). With one client, FedAVG is the same but
for compression, which then acts once in S steps.
"""

from collections.abc import Sequence
import functools
import json
from typing import Optional

import jax
from ml_collections import ConfigDict
import numpy as np

from labelleak import defenses, models, sweep, train
from labelleak.base import InputError
from labelleak.defenses import accounting
from labelleak.experiments import inputs

_DELTA = 1e-5  # of differential privacy


def check(field: str, options: dict) -> None:
  """Refuses options of a training that lack what has no default.

  Raises:
    InputError: names the field of the config and what it lacks.
  """
  for option in ('steps', 'batch_size', 'lr'):
    if option not in options:
      raise InputError(f'config.{field} lacks {option!r}; add it.')


def validate(config: ConfigDict, links: Sequence[dict]) -> None:
  """Refuses, before a run, a `config.main_task` that cannot run.

  Raises:
    InputError: what is wrong with it.
  """
  for spec in _specs(config, links)[:1]:
    jax.eval_shape(functools.partial(_trained, spec, steps=0, progress=False))


def accuracy(
  config: ConfigDict, links: Sequence[dict]
) -> dict[str, np.ndarray]:
  """`main_accuracy` and `relative_accuracy` over seeds; {} where not asked for.

  `config.main_task` holds options of `train.classifier`, `seeds` to repeat it
  with (the first is `config.seed`), and the `dataset` and `model` to train
  where they are not those of the attack.

  Args:
    config: of the point.
    links: its defenses, in the order in which a gradient meets them.
  """
  defended, plain = (
    np.array([_accuracy(spec) for spec in _specs(config, chain)])
    for chain in (links, ())
  )
  if not len(defended):
    return {}
  return dict(main_accuracy=defended, relative_accuracy=defended - plain)


def describe(config: ConfigDict) -> Optional[str]:
  """The model and data of the main task, None where they are the attack's."""
  own = config.get('main_task') or {}
  parts = [sweep.describe(own[k]) for k in ('model', 'dataset') if k in own]
  return ' on '.join(parts) or None


def privacy(config: ConfigDict, links: Sequence[dict]) -> dict[str, float]:
  """`epsilon` at delta 1e-5 of the messages of one training; {} without any.

  Of the client, not of an example: clipping acts on the mean of a mini-batch,
  so that replacing its examples moves a message by up to twice the clip, and
  nothing is gained by the size of the batch. Steps of a Gaussian compose to one
  of stddev / sqrt(steps), exactly.
  """
  release = accounting.release(defenses.build(links).strengths)
  if not (config.get('main_task') and release and release[0]):
    return {}
  import dp_accounting  # seconds, which only such a run should pay

  stddev, max_norm = release
  multiplier = stddev / (2 * max_norm * config.main_task.steps**0.5)
  spent = dp_accounting.get_epsilon_gaussian(multiplier, _DELTA)
  return dict(epsilon=float(f'{spent:.3g}'))


def _specs(config, links):
  """One training for each seed, as JSON; none without a `config.main_task`."""
  options = dict(config.get('main_task') or {})
  if not options:
    return []
  check('main_task', options)
  own = {
    field: dict(options.pop(field, None) or config[field])
    for field in ('dataset', 'model')
  }
  seeds = range(config.seed, config.seed + options.pop('seeds', 1))
  own |= dict(data_dir=config.data_dir, options=options, links=links)
  return [json.dumps(dict(own, seed=seed)) for seed in seeds]


def _trained(spec, **override):
  """Variables after the training that a spec describes."""
  spec = json.loads(spec)
  return train.classifier(
    _model(spec),
    _source(spec, 'train'),
    seed=spec['seed'],
    defense=defenses.build_only('gradient', spec['links']),
    **spec['options'] | override,
  )


@functools.cache
def _accuracy(spec):
  """Test accuracy after `_trained`; all points share the undefended one."""
  variables, spec = _trained(spec), json.loads(spec)
  return train.accuracy(_model(spec), variables, _source(spec))


def _source(spec, split=None):
  data = {field: spec[field] for field in ('dataset', 'data_dir')}
  return inputs.source(ConfigDict(data), split)


def _model(spec):
  return models.load(num_classes=_source(spec).num_classes, **spec['model'])
