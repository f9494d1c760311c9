"""Count attacks before and after training: a CNN and a small ViT.

  python launch.py --config=configs/llbg_trained.py             # real digits
  python launch.py --config=configs/llbg_trained.py:data=mnist   # in ../shared
  python launch.py --config=configs/llbg_trained.py:data=cifar10
  python launch.py --config=configs/llbg_trained.py:runlocal    # seconds

Both are trained by `train.classifier` on the training split and attacked by
FedAVG updates of the test split, S = 10, B = 64, with the attacks of the LLBG
paper's section 6.3: LLBG with confidences measured on ten auxiliary examples a
class, or one constant for all.

Published for ViT-B/16 on ImageNet, trained: LLG .34, EBI 84.41, LLBG with
auxiliary data 90.20, with a constant of .5, .7, .9: 70.25, 81.22, 76.58.
"""

from configs import common

_CNN = dict(name='cnn.cnn', width=32)
_VIT = dict(name='vit.vit', width=64, heads=4, depth=4)
# patch of the ViT; steps of training, of the CNN and of the ViT
_DATA = dict(
  digits=(2, 300, 1000), mnist=(4, 300, 2000), cifar10=(4, 600, 1500)
)


def get_config(arg=None):
  arg = common.parse_arg(arg, data='digits', runlocal=False)
  data = arg['data']
  common.check_choice('data', data, tuple(_DATA))
  config = common.hfl('llbg_trained')
  patch, *steps = _DATA[data]
  models = _CNN, dict(_VIT, patch=patch)
  if data != 'digits':
    config.dataset = dict(name=data)
    config.data_dir = common.prepared(data)
  if arg['runlocal']:
    config.trials, steps = 2, (5, 5)
    models = dict(_CNN, width=4), dict(_VIT, patch=patch, depth=1)
  fields = 'model', 'train', 'attacks'
  config.sweep = ((fields, tuple(_points(models, steps))),)
  return config


def _points(models, steps):
  """Each model, untrained and after its steps."""
  for model, num in zip(models, steps):
    yield model, None, common.UNTRAINED
    yield model, dict(steps=num, batch_size=64, lr=1e-3), common.TRAINED
