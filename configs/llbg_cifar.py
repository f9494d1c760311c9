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
33.0. On 2 cores 100 trials of all attacks take 10 s with the MLP, 3 minutes
with VGG19 (results/llbg_cifar_table4).
"""

from configs import common

_MODELS = tuple(
  dict(name=name)
  for name in ('mlp.mlp', 'cnn.cnn', 'vgg.vgg19', 'resnet.resnet32_10')
)
_ACTIVATIONS = (
  dict(name='mlp.mlp'),  # ReLU
  dict(name='mlp.mlp', activation='leaky'),
  dict(name='mlp.mlp', activation='sigmoid'),
  dict(name='mlp.mlp', activation='tanh'),
)
_SWEEPS = {
  1: ('model', _MODELS),
  3: ('batch_size', (128, 256, 512, 1024)),
  4: ('model', _MODELS),
  8: ('model', _ACTIVATIONS),
}


def get_config(arg=None):
  arg = common.parse_arg(arg, table=1, paper=False, runlocal=False)
  common.check_choice('table', arg['table'], tuple(_SWEEPS))
  config = common.hfl('llbg_cifar')
  config.stands_for.data = 'cifar100'
  config.dataset = common.cifar100(arg['paper'])
  config.batch_size = 128
  config.per_class_cap = 100
  config.model = dict(name='vgg.vgg19')
  config.sweep = (_SWEEPS[arg['table']],)
  if arg['table'] == 4:
    config.batch_size = 100
    config.partition = 'iid'
  if arg['runlocal']:
    config.trials = 2
    config.model = dict(name='mlp.mlp', width=64)
    config.sweep = (('batch_size', (config.batch_size, 200)),)
  return config
