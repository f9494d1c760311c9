"""Model completion against the attacker's share of the features: Figure 2.

An eighth to seven eighths of the features: columns of an image (Figure 1 of the
supplement has TinyImageNet), or randomly chosen buckets (Criteo). Passive and
active attack and the bound by all labels, on training and on test rows.

Published: Criteo at an eighth, passive about chance, active about .60; over .35
both above .65. TinyImageNet halves, top 5 on training rows: .4583 passive,
.5138 active, .9998 bound.
"""

from configs import common, completion, datasets

HEAD = (
  dict(table='Fu Figure 2, on digits', minutes=5),
  dict(arg='data=criteo', table='Fu Figure 2', needs=('criteo',)),
  *(
    dict(arg=f'data={data}', table='Fu Figure 2', needs=(data,))
    for data in ('mnist', 'cifar10', 'cinic10')
  ),
  dict(
    arg='data=tiny_imagenet',
    table='Fu suppl. Figure 1',
    needs=('tiny_imagenet',),
  ),
)
_IMAGES = ('digits', 'mnist', 'cifar10', 'cinic10', 'tiny_imagenet')


def get_config(arg=None):
  arg = common.parse_arg(arg, data='digits', runlocal=False)
  data = arg['data']
  common.check_choice('data', data, (*_IMAGES, 'criteo'))
  local = ',runlocal' if arg['runlocal'] else ''
  config = completion.get_config(f'data={data}{local}')
  config.name = 'completion_features'
  passive, active, *_, bound = config.attacks
  config.attacks = (passive,) if arg['runlocal'] else (passive, active, bound)
  eighths = (2, 6) if arg['runlocal'] else range(1, 8)
  config.sweep = (('split', tuple(_split(data, num) for num in eighths)),)
  return config


def _split(data, eighths):
  """So many eighths for the attacker."""
  if data not in _IMAGES:
    return dict(name='splits.random_features', fraction=eighths / 8)
  width = datasets.SIDES[data]
  part = width * eighths // 8
  return dict(name='splits.columns', sizes=(part, width - part))
