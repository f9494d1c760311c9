"""LLBG on ImageNet: Tables 2 (untrained) and 5, 6, 7 (trained) of the paper.

  python launch.py --config=configs/llbg_imagenet.py           # untrained
  python launch.py --config=configs/llbg_imagenet.py:size=64   # smaller images
  python launch.py --config=configs/llbg_imagenet.py:paper     # on ImageNet
  python launch.py --config=configs/llbg_imagenet.py:table=5,paper \\
      --config.weights=vgg19.safetensors --config.model.form=imagenet

Without `paper`, the 1000 images of ../shared/tfds/imagenet_sample, repeated to
50 a class, stand in for the validation split (synthetic images where they are
absent): label statistics decide the untrained table. Rows name their data.
Trained models need torchvision's weights, one model at a time; Table 6 is the
constant confidences of `table=5`, Table 7 the confidences themselves.

Published, B=128: untrained EBI 99.2 and LLBG 99.9, but ResNet50 55.9 and 44.9;
LLG 97.9, 62.9, 16.5 (EfficientNet), 91.1, 91.0. Trained LLBG_aux 78 to 94.
"""

from configs import common

_MODELS = (
  dict(name='vgg.vgg19', form='imagenet'),
  dict(name='resnet.resnet50'),
  dict(name='efficientnet.b0'),
  dict(name='mnasnet.mnasnet'),
  dict(name='shufflenet.shufflenet_v2'),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, table=2, size=224, paper=False, runlocal=False)
  common.check_choice('table', arg['table'], (2, 5))
  config = common.hfl('llbg_imagenet')
  config.stands_for.data = 'imagenet2012'
  config.dataset = _dataset(arg)
  config.batch_size = 128
  config.per_class_cap = 50
  config.model = _MODELS[0]
  if arg['table'] == 2:
    config.sweep = (('model', _MODELS),)
  else:
    config.attacks = common.TRAINED
  if arg['runlocal']:
    config.trials = 2
    config.dataset = common.synthetic(32, 50, 50)
    config.attacks = common.UNTRAINED[:3]  # the others compile it again
    config.sweep = (('model', _MODELS[-1:]),)
  return config


def _dataset(arg):
  if arg['paper']:
    return dict(name='imagenet2012', size=arg['size'])
  if common.has_sample():
    return dict(name=common.SAMPLE, size=arg['size'], copies=50)
  return common.synthetic(arg['size'], 1000, 50)
