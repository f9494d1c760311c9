"""Small configs of both threat models, and what tests read off their rows."""

from ml_collections import ConfigDict
from ml_collections.config_flags import config_path

from configs import common

COUNTS = (dict(name='counts.llbg'), dict(name='counts.ebi'))


def horizontal(**fields) -> ConfigDict:
  """Six clients' batches of 20 digits; fields as `model__width=8`."""
  config = common.hfl('test')
  config.attacks = COUNTS
  config.model = dict(name='mlp.mlp', width=16)
  config.trials = 6
  config.batch_size = 20
  return _set(config, fields)


def vertical(**fields) -> ConfigDict:
  """Two batches of 32 digits, and an attack that solves a sealed one."""
  config = common.vfl('test')
  config.batch_size = 32
  config.trials = 2
  config.attacks = (dict(name='linear.last_layer'),)
  return _set(config, fields)


def _set(config, fields):
  for path, value in fields.items():
    config_path.set_value(path.replace('__', '.'), config, value)
  return config


def at_step(*defenses) -> tuple[dict, ...]:
  """Returns defenses that act on the gradient of every local step."""
  return tuple(dict(defense, at='step') for defense in defenses)


def by_attack(rows, metric='count_accuracy') -> dict[str, dict[str, float]]:
  """Returns one metric of each attack by its name."""
  return {row['attack']['name']: row['metrics'][metric] for row in rows}
