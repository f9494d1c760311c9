"""LLBG on CIFAR-100, untrained models: Tables 1, 3, 4 and 8 of the paper.

Without `paper`, images of imagenet_sample at 32 pixels, grouped into 100
classes, stand in for CIFAR-100 (synthetic images where it is not prepared):
label statistics decide these tables.
"""

from configs import common, datasets

_SAMPLE = 'imagenet_sample'
HEAD = (
  dict(table='LLBG Table 1', needs=_SAMPLE),
  dict(arg='table=3', table='LLBG Table 3', minutes=196, needs=_SAMPLE),
  dict(arg='table=4', table='LLBG Table 4', needs=_SAMPLE),
  dict(arg='table=8', table='LLBG Table 8', minutes=3, needs=_SAMPLE),
  dict(arg='paper', table='LLBG Table 1', needs='cifar100'),
)
_MODELS = tuple(
  dict(name=name)
  for name in ('mlp.mlp', 'cnn.cnn', 'vgg.vgg19', 'resnet.resnet32_10')
)
_ACTIVATIONS = (
  dict(name='mlp.mlp'),  # ReLU
  *(
    dict(name='mlp.mlp', activation=activation)
    for activation in ('leaky', 'sigmoid', 'tanh')
  ),
)
_SWEEPS = {
  1: ('model', _MODELS),
  3: ('batch_size', (128, 256, 512, 1024)),
  4: ('model', _MODELS),
  8: ('model', _ACTIVATIONS),
}


def get_config(arg=None):
  arg = common.parse_arg(arg, table=tuple(_SWEEPS), paper=False)
  config = common.hfl('llbg_cifar')
  config.stands_for.data = 'cifar100'
  config.dataset = datasets.cifar100(arg['paper'])
  config.batch_size = 128
  config.per_class_cap = 100
  config.model = dict(name='vgg.vgg19')
  config.sweep = (_SWEEPS[arg['table']],)
  if arg['table'] == 4:
    config.batch_size = 100
    config.partition = 'iid'
  if arg['runlocal']:
    common.shrink(
      config,
      files=True,
      model=dict(name='mlp.mlp', width=64),
      sweep=(('batch_size', (config.batch_size, 200)),),
    )
  return config
