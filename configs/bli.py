"""Labels of a batch from a passive party's own gradients, under encryption.

`linear.full` is ours; `inversion.batch`, the published attack, is left out of
Table 2, where its 10,000 passes through a ResNet are not for a CPU (it was not
run); add it with --config.attacks. `part=step` attacks in mid-training.
"""

from configs import common, datasets

HEAD = (
  dict(table='BLI Table 2, on digits', minutes=5),
  dict(arg='part=mnist', table="VFLAIR's record", minutes=1, needs='mnist'),
  dict(
    arg='part=grey', table='BLI, grey CIFAR-10', minutes=12, needs='cifar10'
  ),
  dict(arg='part=resnet20', table='BLI Table 2', minutes=10, needs='cifar10'),
  dict(arg='part=resnet18', table='BLI Table 2', needs='cifar10'),
  dict(arg='part=classes', table='BLI Figure 5', minutes=12, needs='mnist'),
  dict(arg='part=step', table='ours', minutes=70, needs='mnist'),
)
_FULL = (dict(name='linear.full'),)
_RESNETS = {
  'resnet20': dict(name='resnet.resnet20', shortcut='pad'),
  'resnet18': dict(name='resnet.resnet18'),
}
_SIZES = {  # of the attacked batch
  'digits': (64, 128, 256, 512, 1024),
  'mnist': (1024,),
  'grey': (1024, 2048, 4096),
  'resnet20': (128, 512, 2048),
  'resnet18': (128, 512, 2048),
  'classes': (128, 512, 2048),
  'step': (1024,),
}


def get_config(arg=None):
  arg = common.parse_arg(arg, part=tuple(_SIZES))
  part = arg['part']
  config = common.vfl('bli')
  config.sweep = (('batch_size', _SIZES[part]),)
  if part in ('mnist', 'classes', 'step'):
    datasets.use(config, 'mnist')
  elif part == 'grey':
    datasets.use(config, 'cifar10', grey=True, crop=28)
  elif part in _RESNETS:
    datasets.use(config, 'cifar10')
    config.model = _RESNETS[part]
    config.attacks = _FULL
  if part == 'mnist':
    config.draw = 'first'
  elif part == 'classes':
    config.sweep += (('classes', (2, 4, 6, 8, 10)),)
  elif part == 'step':
    common.train(config, batch_size=1024)
    config.optimizer.lr = 0.01
    config.attacks = (
      *_FULL,
      dict(name='linear.expectation_propagation'),
      dict(name='linear.least_squares'),
    )
    config.trials = 1
    config.sweep = (
      ('seed', (0, 1, 2, 3, 4)),
      ('train.steps', (0, 12, 58, 120, 295, 885)),
    )
  if arg['runlocal']:
    common.shrink(
      config,
      training=dict(batch_size=32),
      attacks=(
        *_FULL,
        dict(name='linear.last_layer'),
        dict(name='inversion.batch'),
      ),
      model=dict(name='mlp.mlp2'),
      sweep=(('train.steps', (3,)),),
    )
  return config
