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

from collections.abc import Mapping, Sequence
import functools
import itertools
import json
from typing import Any, NamedTuple, Optional

import jax
import numpy as np

from labelleak import annotation, defenses, registry, runs, spec, sweep, train
from labelleak.defenses import accounting
from labelleak.experiments import fields, misfits, sources
from labelleak.spec import Spec

_ACCURACIES: dict[str, float] = {}  # of trainings, by what they are


class MainTask(NamedTuple):
  """Trainings that tell what defenses cost, one a seed."""

  defended: tuple[str, ...] = ()  # each as JSON; empty where none was asked for
  plain: tuple[str, ...] = ()  # the same without a defense
  # what identifies them: `main_task`, the model and data where they are not the
  # attack's, and `epsilon`
  facts: Mapping[str, Any] = {}

  def accuracy(self, workdir: Optional[str] = None) -> dict[str, np.ndarray]:
    """Returns `main_accuracy` and `relative_accuracy` over seeds, if any.

    Args:
      workdir: of the point, where the states of trainings are kept for as long
        as that runs, unless they have their own.
    """
    if not self.defended:
      return {}
    defended = np.array([_accuracy(each, workdir) for each in self.defended])
    plain = np.array([_accuracy(each, workdir) for each in self.plain])
    return dict(main_accuracy=defended, relative_accuracy=defended - plain)


def build(
  options: Optional[Mapping[str, Any]],
  *,
  dataset: Spec,
  model: Spec,
  data_dir: Optional[str],
  defense: Sequence[Spec],
  seed: int,
) -> MainTask:
  """Reads `config.main_task`, and refuses what cannot run.

  Args:
    options: of `train.classifier`, `seeds` to repeat it with, and the `dataset`
      and `model` to train where they are not those of the attack. None: no main
      task.
    dataset, model: of the attack.
    data_dir: where prepared data sets live.
    defense: of the clients.
    seed: the first one.

  Raises:
    InputError: an option that is missing or wrong.
  """
  options = dict(options or {})
  if not options:
    return MainTask()
  annotation.check('config.main_task', options, fields.MainTask)
  seeds = range(seed, seed + options.pop('seeds', 1))
  other = {k: options.pop(k) for k in ('model', 'dataset') if k in options}
  shared = dict(dataset=dataset, model=model, data_dir=data_dir) | other
  dump = lambda **own: json.dumps(spec.plain(shared | own))
  links = [*itertools.chain(*defenses.split(defense))]
  defended, plain = (
    tuple(dump(options=options, links=chain, seed=s) for s in seeds)
    for chain in (links, ())
  )
  dry = functools.partial(
    _train, defended[0], steps=0, workdir=None, progress=False
  )
  first = json.loads(defended[0])
  with misfits.refuse(first['model'], _source(first, 'train').shape):
    jax.eval_shape(dry)
  name = ' on '.join(spec.describe(v) for v in other.values())
  facts = dict(main_task=name) if name else {}
  strengths = defenses.build(links).strengths
  facts |= accounting.facts(strengths, options['steps'])
  return MainTask(defended, plain, facts)


def _accuracy(training: str, workdir: Optional[str]) -> float:
  """Returns test accuracy after a training; points share the undefended one."""
  if training not in _ACCURACIES:
    options = json.loads(training)
    kept = dict(workdir=workdir, every=runs.EVERY)
    variables = _train(training, **kept | options['options'])
    source = _source(options)
    _ACCURACIES[training] = train.accuracy(_model(options), variables, source)
  return _ACCURACIES[training]


def _train(training: str, **override: Any):
  """Returns the variables after a training that is told as JSON."""
  options = json.loads(training)
  return train.classifier(
    _model(options),
    _source(options, 'train'),
    seed=options['seed'],
    key=sweep.key(options['seed'], 'main_task'),
    defense=defenses.build(options['links']).gradient,
    **options['options'] | override,
  )


def _source(options, split: Optional[str] = None):
  return sources.load(options['dataset'], options['data_dir'], split)


def _model(options):
  num_classes = _source(options).num_classes
  return registry.build('models', options['model'], num_classes=num_classes)
