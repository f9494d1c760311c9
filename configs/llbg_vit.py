"""LLBG on vision transformers, untrained and trained: Table 9 of the paper.

  python launch.py --config=configs/llbg_vit.py           # 2 cores, 2 minutes
  python launch.py --config=configs/llbg_vit.py:paper     # ImageNet, one GPU
  python launch.py --config=configs/llbg_vit.py:runlocal  # seconds

The default has two parts and downloads nothing. A small ViT on scikit-learn's
real digits is attacked untrained and after some seconds of training; ViT-Ti/16
at 64 pixels, untrained, with 1000 classes, on synthetic images stands in for
the published ViT-B/16: label statistics, not images, decide that part.

Published, ImageNet, B=64: untrained LLG 2.19 +- 1.89, EBI 95.36 +- 1.88, LLBG
94.90 +- 0.69; trained LLG 0.34, EBI 84.41, LLBG_aux 90.20, LLBG with a constant
confidence of .5, .7, .9: 70.25, 81.22, 76.58.
"""

from configs import common

_AUX = ('lr', 'steps', 'clients', 'apply', 'x', 'y')
_ATTACKS = (
    dict(name='counts.llg'),
    dict(name='counts.ebi'),
    dict(name='counts.llbg'),
    dict(name='counts.calibrated'),
)
_TRAINED = (
    dict(name='counts.llg'),
    dict(name='counts.ebi'),
    dict(name='counts.llbg', confidence='aux', known=_AUX),
    dict(name='counts.llbg', confidence=0.5),
    dict(name='counts.llbg', confidence=0.7),
    dict(name='counts.llbg', confidence=0.9),
    dict(name='counts.calibrated', known=_AUX),
)
_FIELDS = (
    'dataset', 'model', 'train', 'attacks', 'paper_data', 'per_class_cap',
)  # fmt: skip


def get_config(arg=None):
  arg = common.parse_arg(arg, paper=False, runlocal=False)
  config = common.hfl('llbg_vit')
  if arg['paper']:
    return _paper(config)
  digits = dict(name='embedded.digits')
  small = dict(name='vit.vit', width=64, heads=4, depth=4, patch=2)
  images = dict(
      name='synthetic.images',
      shape=(64, 64, 3),
      num_classes=1000,
      per_class=50,
  )
  train = dict(steps=300, batch_size=64, lr=1e-3)
  tiny = dict(name='vit.tiny')
  if arg['runlocal']:
    images = dict(images, shape=(32, 32, 3), num_classes=50)
    tiny, small = dict(tiny, depth=1), dict(small, depth=1)
    train = dict(train, steps=5)
    config.trials = 3
  config.sweep = (
      (
          _FIELDS,
          (
              (digits, small, None, _ATTACKS, None, None),
              (digits, small, train, _TRAINED, None, None),
              (images, tiny, None, _ATTACKS, 'imagenet2012', 50),
          ),
      ),
  )
  return config


def _paper(config):
  """ViT-B/16 at 224 on ImageNet's validation split.

  The trained half needs timm's weights: --config.weights=PATH.
  """
  config.dataset = dict(name='imagenet2012', size=224)
  config.paper_data = 'imagenet2012'
  config.model = dict(name='vit.base')
  config.attacks = _ATTACKS
  config.per_class_cap = 50
  return config
