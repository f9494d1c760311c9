"""Label codes: what each makes of the classes, no model and no data."""

import numpy as np

from labelleak import defenses, spec, sweep, validate
from labelleak.defenses import label_codes
from labelleak.experiments import Measure, fields
from labelleak.experiments.result import NO_ATTACK, Result, Setting


def experiment(*, config: fields.Codes) -> Measure:
  """Prepares statistics of the config's label code; a trial is another seed.

  A CoAE that cannot decode all classes is measured, too: rows are to say how
  often that happens, where a training would be refused. Values are
  `label_codes.statistics`.

  Args:
    config: `defense`, `classes`, `trials`, `seed`.

  Raises:
    InputError: a code that does not exist or does not fit.
  """
  config = config.copy_and_resolve_references()
  num_classes = config.classes
  validate.whole('classes', num_classes, 2)
  links = defenses.canonical(config.defense)
  build = lambda **options: defenses.build(
    [_seed(link, **options) for link in links], num_classes, only='labels'
  )
  build(steps=1)

  def measure(progress):
    def trial(t):
      seed = config.seed + t
      code = build(seed=seed).labels
      key = sweep.key(seed, 'code')
      statistics = label_codes.statistics(key, code, num_classes)
      return {name: float(value) for name, value in statistics.items()}

    statistics = sweep.map_trials(
      trial, config.trials, finished=progress.finished, callback=progress
    )
    setting = Setting(
      data=f'{num_classes} classes',
      model=dict(name='none'),
      num_classes=num_classes,
      batch_size=None,
      trained=False,
      defense=spec.plain(links),
    )
    names = statistics[0]
    values = {n: np.array([s[n] for s in statistics]) for n in names}
    return [Result(NO_ATTACK, (), setting, values)]

  return measure


def _seed(link, **options):
  """Returns CoAE with other options, lossy or not; other codes as they are."""
  if link['name'] == 'coae':
    return dict(link, lossless=False, **options)
  return link
