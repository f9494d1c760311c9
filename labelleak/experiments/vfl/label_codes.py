"""Label codes: what each makes of the classes, no model and no data."""

from collections.abc import Callable

import jax
from ml_collections import ConfigDict
import numpy as np

from labelleak import defenses, registry
from labelleak.base import InputError
from labelleak.defenses import label_codes
from labelleak.experiments import grants


def experiment(*, config: ConfigDict) -> Callable:
  """Statistics of the config's label code; a trial is another seed.

  A CoAE that cannot decode all classes is measured, too: rows are to say how
  often that happens, where a training would be refused.

  Args:
    config: `code`, `classes`, `trials`, `seed`.

  Returns:
    measure(progress) -> one result, whose values are `label_codes.statistics`;
    see `labelleak.experiments`.

  Raises:
    InputError: a code that does not exist or does not fit.
  """
  config = config.copy_and_resolve_references()
  num_classes = config.classes
  if num_classes is None or num_classes < 2:
    raise InputError(f'classes={num_classes} must be at least 2; set it.')
  build = lambda **options: defenses.build_only(
    'labels', [_seeded(link, **options) for link in config.code], num_classes
  )
  build(steps=1)

  def measure(progress):
    found = []
    for seed in range(config.seed, config.seed + config.trials):
      key = jax.random.key(seed)
      each = label_codes.statistics(key, build(seed=seed), num_classes)
      found.append({name: float(value) for name, value in each.items()})
      progress(1)
    name = grants.chain(config.code)[0]
    facts = dict(data=f'{num_classes} classes', model=name)
    return [
      dict(
        attack='none',
        attack_args={},
        known=[],
        setting=dict(
          facts,
          num_classes=num_classes,
          code=name,
          trained=False,
          defense='none',
        ),
        **facts,
        defense=grants.chain(config.code)[1],
        trials=config.trials,
        values={name: np.array([f[name] for f in found]) for name in found[0]},
      )
    ]

  return measure


def _seeded(link, **options):
  """CoAE with other options, lossy or not; any other code as it is."""
  named = isinstance(link, dict) and 'name' in link
  if named and registry.canonical('defenses', link['name']) == 'coae':
    return dict(link, lossless=False, **options)
  return link
