"""LLBG on CIFAR-100, untrained models: Tables 1, 3, 4 and 8 of the paper.

  python launch.py --config=configs/llbg_cifar.py          # Table 1
  python launch.py --config=configs/llbg_cifar.py:table=3  # batch size
  python launch.py --config=configs/llbg_cifar.py:table=4  # iid labels
  python launch.py --config=configs/llbg_cifar.py:table=8  # activations
  python launch.py --config=configs/llbg_cifar.py:paper    # on CIFAR-100 itself

Without `paper`, images of ../shared/tfds/imagenet_sample at 32 pixels, grouped
into 100 classes, stand in for CIFAR-100 (synthetic images where they are
absent): label statistics decide these tables. Rows name the data they ran on.

Published (B=128): LLG about 81.6, EBI 79.0, LLBG 99.6; ResNet32-10 56.3, 50.4,
33.0. 100 trials take, on 2 cores, 5 seconds for the MLP and 6 minutes for VGG19.
"""

import os

from configs import common

_SAMPLE = '../shared/tfds/imagenet_sample/1.0.0'
_MODELS = ('mlp.mlp', 'cnn.cnn', 'vgg.vgg19', 'resnet.resnet32_10')
_ACTIVATIONS = ('relu', 'leaky', 'sigmoid', 'tanh')


def get_config(arg=None):
  arg = common.parse_arg(arg, table=1, paper=False, runlocal=False)
  config = common.hfl('llbg_cifar')
  config.paper_data = 'cifar100'
  config.dataset = _dataset(arg)
  config.batch_size = 128
  config.per_class_cap = 100
  models = tuple(dict(name=name) for name in _MODELS)
  if arg['table'] == 1:
    config.sweep = (('model', models),)
  elif arg['table'] == 3:
    config.model = dict(name='vgg.vgg19')
    config.sweep = (('batch_size', (128, 256, 512, 1024)),)
  elif arg['table'] == 4:
    config.batch_size = 100
    config.partition = 'iid'
    config.sweep = (('model', models),)
  elif arg['table'] == 8:
    mlps = [dict(name='mlp.mlp', activation=a) for a in _ACTIVATIONS[1:]]
    config.sweep = (('model', (dict(name='mlp.mlp'), *mlps)),)
  else:
    raise common.unknown_table(arg['table'], (1, 3, 4, 8))
  if arg['runlocal']:
    config.trials = 2
    config.model = dict(name='mlp.mlp', width=64)
    path, values = config.sweep[0]
    small = tuple(dict(v, width=64) for v in values[:1] + values[-1:]) if (
        arg['table'] == 8
    ) else values[:2]
    config.sweep = ((path, small),) if path != 'model' or arg['table'] == 8 else ()
  return config


def _dataset(arg):
  if arg['paper']:
    return dict(name='cifar100')
  if os.path.isdir(_SAMPLE):
    return dict(name=_SAMPLE, size=32, classes=100, copies=10)
  return dict(
      name='synthetic.images', shape=(32, 32, 3), num_classes=100, per_class=100
  )
