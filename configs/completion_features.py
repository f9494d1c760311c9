"""Model completion against the attacker's share of the features: Figure 2.

An eighth to seven eighths: columns of an image, or randomly chosen buckets
(Criteo). Passive and active attack and the bound by all labels.
"""

from configs import common, completion, datasets

_FIGURE1 = 'Fu suppl. Figure 1'
HEAD = (
  dict(table='Fu Figure 2, on digits', minutes=5),
  dict(arg='data=criteo', table='Fu Figure 2', needs='criteo'),
  *(
    dict(arg=f'data={data}', table='Fu Figure 2', needs=data)
    for data in ('mnist', 'cifar10', 'cinic10')
  ),
  dict(arg='data=tiny_imagenet', table=_FIGURE1, needs='tiny_imagenet'),
)
_IMAGES = ('digits', 'mnist', 'cifar10', 'cinic10', 'tiny_imagenet')


def get_config(arg=None):
  arg = common.parse_arg(arg, data=(*_IMAGES, 'criteo'))
  data = arg['data']
  config = completion.derive('completion_features', arg, bound=True)
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
