"""Count attacks before and after training: a CNN and a small ViT.

Both are trained on the training split and attacked by FedAVG updates of the
test split, S = 10, B = 64, with the attacks of the LLBG paper's section 6.3.
"""

from configs import common

_TABLE9 = 'LLBG Table 9'
HEAD = (
  dict(table=f'{_TABLE9}, on digits', minutes=3),
  dict(
    arg='data=mnist',
    table=f'{_TABLE9}, on MNIST',
    minutes=33,
    needs='mnist',
  ),
  dict(
    arg='data=cifar10',
    table=f'{_TABLE9}, on CIFAR-10',
    minutes=50,
    needs='cifar10',
  ),
)
_CNN = dict(name='cnn.cnn', width=32)
_VIT = dict(name='vit.vit', width=64, heads=4, depth=4)
# Patch of the ViT; steps of training, of the CNN and of the ViT.
_DATA = dict(
  digits=dict(patch=2, cnn=300, vit=1000),
  mnist=dict(patch=4, cnn=300, vit=2000),
  cifar10=dict(patch=4, cnn=600, vit=1500),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, data=tuple(_DATA))
  data = arg['data']
  config = common.hfl('llbg_trained')
  if data != 'digits':
    config.dataset = dict(name=data)
  sizes = _DATA[data]
  cnn, vit = _CNN, dict(_VIT, patch=sizes['patch'])
  if arg['runlocal']:
    common.shrink(config, files=True)
    sizes = dict(cnn=5, vit=5)
    cnn, vit = dict(cnn, width=4), dict(vit, depth=1)
  config.sweep = ((*_points(cnn, sizes['cnn']), *_points(vit, sizes['vit'])),)
  return config


def _points(model, steps):
  """A model, untrained and after so many steps."""
  train = dict(steps=steps, batch_size=64, lr=1e-3)
  yield dict(model=model, train=None, attacks=common.UNTRAINED)
  yield dict(model=model, train=train, attacks=common.TRAINED)
