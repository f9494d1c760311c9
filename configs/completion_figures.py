"""What the active attack changes: reliance, Grad-CAM and t-SNE, in pictures.

Section 5.3 of Fu et al.: after an honest training and after one in which the
attacker accelerates its own bottom, the share of the accuracy that rests on the
attacker, where the model looks (ResNets; `maps.png`) and how the attacker's
bottom tells the labels apart (`points.png`). t-SNE is of the bottom at the end,
in evaluation mode; the release collects outputs while it still trains.
"""

from configs import common, completion

_FU = 'Fu Figure 4, Table 5'
HEAD = (
  dict(table=f'{_FU}, on digits'),
  dict(arg='data=mnist', table=f'{_FU}, on MNIST', needs=('mnist',)),
  dict(arg='data=cifar10,small', table=_FU, needs=('cifar10',)),
  dict(arg='data=cifar10', table=f'{_FU}, a GPU', needs=('cifar10',)),
  dict(arg='data=cinic10', table=f'{_FU}, a GPU', needs=('cinic10',)),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, data='digits', small=False, runlocal=False)
  data = arg['data']
  common.check_choice('data', data, ('digits', 'mnist', 'cifar10', 'cinic10'))
  flags = ''.join(f',{k}' for k in ('small', 'runlocal') if arg[k])
  config = completion.get_config(f'data={data}{flags}')
  config.name = 'completion_figures'
  config.experiment = 'vfl.attribution'
  config.attacks = config.attacks[:2]
  images = 0 if data in ('digits', 'mnist') else 4
  config.figures = dict(rows=2000, points=1000, images=images, layer='conv1')
  if arg['runlocal']:
    config.figures.update(rows=100, points=60)
  return config
