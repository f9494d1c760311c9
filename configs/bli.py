"""Labels of a batch from a passive party's own gradients, under encryption.

  python launch.py --config=configs/bli.py               # real digits, minutes
  python launch.py --config=configs/bli.py:part=mnist    # VFLAIR's record
  python launch.py --config=configs/bli.py:part=grey     # grey CIFAR-10
  python launch.py --config=configs/bli.py:part=resnet20 # Table 2, CIFAR-10
  python launch.py --config=configs/bli.py:part=resnet18
  python launch.py --config=configs/bli.py:part=classes  # Figure 5, MNIST
  python launch.py --config=configs/bli.py:part=step     # in mid-training
  python launch.py --config=configs/bli.py:runlocal      # seconds

All but the first need mnist or cifar10, prepared by tensorflow_datasets, under
../shared/tfds or --config.data_dir. `linear.full` is ours; `inversion.batch`,
the published attack, is left out of Table 2, where its 10,000 passes through a
ResNet are not for a CPU (it was not run); add it with --config.attacks.

Published (BLI paper, Table 2): CIFAR-10 .977, .934, .893 at B=128, 512, 2048;
VFLAIR's record on MNIST at B=1024: .9965 +- .0013.
"""

from configs import common

_FULL = (dict(name='linear.full'),)
_RESNETS = {
  'resnet20': dict(name='resnet.resnet20', shortcut='pad'),
  'resnet18': dict(name='resnet.resnet18'),
}
_PARTS = ('digits', 'mnist', 'grey', *_RESNETS, 'classes', 'step')


def get_config(arg=None):
  arg = common.parse_arg(arg, part='digits', runlocal=False)
  part = arg['part']
  common.check_choice('part', part, _PARTS)
  config = common.vfl('bli')
  config.sweep = (('batch_size', (64, 128, 256, 512, 1024)),)
  if part == 'mnist':
    common.images(config, 'mnist')
    config.draw = 'first'
    config.sweep = (('batch_size', (1024,)),)
  elif part == 'grey':
    common.images(config, 'cifar10', grey=True, crop=28)
    config.sweep = (('batch_size', (1024, 2048, 4096)),)
  elif part in _RESNETS:
    common.images(config, 'cifar10')
    config.model = _RESNETS[part]
    config.attacks = _FULL
    config.sweep = (('batch_size', (128, 512, 2048)),)
  elif part == 'classes':
    common.images(config, 'mnist')
    config.sweep = (
      ('batch_size', (128, 512, 2048)),
      ('classes', (2, 4, 6, 8, 10)),
    )
  elif part == 'step':
    common.images(config, 'mnist')
    config.batch_size = 1024
    config.train.batch_size = 1024
    config.optimizer.lr = 0.01
    config.sweep = (('train.steps', (0, 10, 59, 295, 885)),)
  return _runlocal(config) if arg['runlocal'] else config


def _runlocal(config):
  """A model of three steps, in seconds, without files."""
  config.dataset = dict(name='digits', split='train', normalise=False)
  config.attacks = (
    *_FULL,
    dict(name='linear.last_layer'),
    dict(name='inversion.batch', steps=50),
  )
  config.model = dict(name='mlp.mlp2')
  config.batch_size = config.train.batch_size = 32
  config.trials = 2
  config.sweep = (('train.steps', (3,)),)
  return config
