"""LLBG on ImageNet: Tables 2 (untrained) and 5, 6, 7 (trained) of the paper.

Without `paper`, 1000 images, repeated to 50 a class, stand in for the
validation split (synthetic ones where they are absent): label statistics decide
the untrained table. Trained models need torchvision's weights, one at a time:
  --config.weights=vgg19.safetensors --config.model.form=imagenet
"""

from configs import common, datasets

_SAMPLE, _ITSELF = 'imagenet_sample', 'imagenet2012'
HEAD = (
  dict(table='LLBG Table 2', needs=_SAMPLE),
  dict(arg='size=64', table='LLBG Table 2, smaller images', needs=_SAMPLE),
  dict(arg='paper', table='LLBG Table 2', needs=_ITSELF),
  dict(arg='table=5,paper', table='LLBG Tables 5, 6, 7', needs=_ITSELF),
)
_MODELS = (
  dict(name='vgg.vgg19', form='imagenet'),
  dict(name='resnet.resnet50'),
  dict(name='efficientnet.b0'),
  dict(name='mnasnet.mnasnet'),
  dict(name='shufflenet.shufflenet_v2'),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, table=(2, 5), size=224, paper=False)
  config = common.hfl('llbg_imagenet')
  config.stands_for.data = 'imagenet2012'
  config.dataset = datasets.imagenet(arg['paper'], arg['size'])
  config.batch_size = 128
  config.per_class_cap = 50
  config.model = _MODELS[0]
  if arg['table'] == 2:
    config.sweep = (('model', _MODELS),)
  else:
    config.attacks = common.TRAINED
  if arg['runlocal']:
    common.shrink(
      config,
      files=True,
      dataset=datasets.synthetic(32, 50, 50),
      attacks=common.UNTRAINED[:3],  # the others compile it again
      sweep=(('model', _MODELS[-1:]),),
    )
  return config
