"""What the active attack changes: reliance, Grad-CAM and t-SNE, in pictures.

After an honest training and after one in which the attacker accelerates its own
bottom: the share of the accuracy that rests on the attacker, where the model
looks (ResNets; `maps.png`) and how the attacker's bottom tells the labels apart
(`points.png`). t-SNE is of the bottom at the end; the release collects outputs
while it still trains.
"""

from configs import common, completion

_FU = 'Fu Figure 4, Table 5'
HEAD = (
  dict(table=f'{_FU}, on digits'),
  dict(arg='data=mnist', table=f'{_FU}, on MNIST', needs='mnist'),
  dict(arg='data=cifar10,small', table=_FU, needs='cifar10'),
  dict(arg='data=cifar10', table=f'{_FU}, a GPU', needs='cifar10'),
  dict(arg='data=cinic10', table=f'{_FU}, a GPU', needs='cinic10'),
)


def get_config(arg=None):
  arg = common.parse_arg(
    arg, data=('digits', 'mnist', 'cifar10', 'cinic10'), small=False
  )
  data = arg['data']
  config = completion.derive('completion_figures', arg)
  config.experiment = 'vfl.attribution'
  images = 0 if data in ('digits', 'mnist') else 4
  config.figures = dict(rows=2000, points=1000, images=images, layer='conv1')
  if arg['runlocal']:
    config.figures.update(rows=100, points=60)
    config.attacks += (dict(name='completion.active', **completion.QUICK),)
  return config
