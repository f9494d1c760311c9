"""Model completion against the attacker's share of the features: Figure 2.

  python launch.py --config=configs/completion_features.py     # real digits
  python launch.py --config=configs/completion_features.py:data=mnist
  python launch.py --config=configs/completion_features.py:data=criteo
  python launch.py --config=configs/completion_features.py:data=tiny_imagenet
  python launch.py --config=configs/completion_features.py:runlocal

An eighth to seven eighths of the features: columns of an image (Figure 1 of the
supplement has TinyImageNet), or randomly chosen buckets (Criteo). Passive and
active attack and the bound by all labels, on training and on test rows. Digits
take 5 minutes on one core.

Published: Criteo at an eighth, passive about chance, active about .60; over .35
both above .65. TinyImageNet halves, top 5 on training rows: .4583 passive,
.5138 active, .9998 bound.
"""

from configs import common, completion

_COLUMNS = dict(digits=8, mnist=28, cifar10=32, cinic10=32, tiny_imagenet=64)


def get_config(arg=None):
  arg = common.parse_arg(arg, data='digits', runlocal=False)
  data = arg['data']
  common.check_choice('data', data, (*_COLUMNS, 'criteo'))
  local = ',runlocal' if arg['runlocal'] else ''
  config = completion.get_config(f'data={data}{local}')
  config.name = 'completion_features'
  passive, active, *_, bound = config.attacks
  config.attacks = (passive,) if arg['runlocal'] else (passive, active, bound)
  config.sweep = (('split', tuple(_splits(data, arg['runlocal']))),)
  return config


def _splits(data, few):
  """Splits with k eighths for the attacker."""
  for eighths in (2, 6) if few else range(1, 8):
    if data in _COLUMNS:
      width = _COLUMNS[data]
      half = width * eighths // 8
      yield dict(name='splits.columns', sizes=(half, width - half))
    else:
      yield dict(name='splits.random_features', fraction=eighths / 8)
