"""LLBG on vision transformers, untrained and trained: Table 9 of the paper.

  python launch.py --config=configs/llbg_vit.py           # any laptop
  python launch.py --config=configs/llbg_vit.py:paper     # ImageNet, one GPU
  python launch.py --config=configs/llbg_vit.py:runlocal  # seconds

The default has two parts and downloads nothing. A small ViT on scikit-learn's
real digits is attacked untrained and after some seconds of training; ViT-Ti/16
at 64 pixels, untrained, with 1000 classes, on synthetic images stands in for
the published ViT-B/16: label statistics, not images, decide that part.

Published, ImageNet, B=64: untrained LLG 2.19 +- 1.89, EBI 95.36 +- 1.88, LLBG
94.90 +- 0.69; trained LLG 0.34, EBI 84.41, LLBG_aux 90.20, LLBG with a constant
confidence of .5, .7, .9: 70.25, 81.22, 76.58.

On 2 cores the default takes 2.3 minutes, compilation included, and finds on
ViT-Ti LLG 10.1 +- 9.5, EBI 95.3 +- 1.8 and LLBG 94.8 +- .8 (results/llbg_vit).
"""

from configs import common

_FIELDS = (
  'dataset',
  'model',
  'train',
  'attacks',
  'stands_for',
  'per_class_cap',
)
_ITSELF = dict(data=None, model=None)
_PUBLISHED = dict(data='imagenet2012', model='vit.base')


def get_config(arg=None):
  arg = common.parse_arg(arg, paper=False, runlocal=False)
  config = common.hfl('llbg_vit')
  digits = dict(name='digits')
  small = dict(name='vit.vit', width=64, heads=4, depth=4, patch=2)
  train = dict(steps=300, batch_size=64, lr=1e-3)
  images = common.synthetic(64, 1000, 50)
  tiny = dict(name='vit.tiny')
  if arg['runlocal']:
    config.trials = 3
    small, tiny = dict(small, depth=1), dict(tiny, depth=1)
    train = dict(train, steps=5)
    images = common.synthetic(32, 50, 50)
  config.sweep = (
    (
      _FIELDS,
      (
        (digits, small, None, common.UNTRAINED, _ITSELF, None),
        (digits, small, train, common.TRAINED, _ITSELF, None),
        (images, tiny, None, common.UNTRAINED, _PUBLISHED, 50),
      ),
    ),
  )
  return _paper(config) if arg['paper'] else config


def _paper(config):
  """ViT-B/16 at 224 on ImageNet's validation split, untrained.

  For the trained half add timm's weights and the auxiliary attacks:
    --config.weights=vit_base_patch16_224.safetensors
    --config.attacks="({'name': 'counts.llbg', 'confidence': 0.7},)"
  """
  config.sweep = ()
  config.dataset = dict(name='imagenet2012', size=224)
  config.model = dict(name='vit.base')
  config.per_class_cap = 50
  return config
