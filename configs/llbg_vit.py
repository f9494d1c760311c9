"""LLBG on vision transformers, untrained and trained: Table 9 of the paper.

A small ViT on scikit-learn's real digits is attacked untrained and trained;
ViT-Ti/16 at 64 pixels, untrained, with 1000 classes, on synthetic images stands
in for the published ViT-B/16: label statistics, not images, decide that part.
For the trained half of `paper` add timm's weights and the auxiliary attacks:
  --config.weights=vit_base_patch16_224.safetensors
  --config.attacks="({'name': 'counts.llbg', 'confidence': 0.7},)"
"""

from configs import common, datasets

HEAD = (
  dict(table='LLBG Table 9, a stand-in', minutes=2),
  dict(arg='paper', table='LLBG Table 9, a GPU', needs='imagenet2012'),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, paper=False)
  config = common.hfl('llbg_vit')
  if arg['runlocal']:
    common.shrink(config, trials=3, files=True)
  if arg['paper']:
    config.dataset = datasets.imagenet(True, 224)
    config.model = dict(name='vit.base')
    config.per_class_cap = 50
    return config
  small = dict(name='vit.vit', width=64, heads=4, depth=4, patch=2)
  train = dict(steps=300, batch_size=64, lr=1e-3)
  images = datasets.synthetic(64, 1000, 50)
  tiny = dict(name='vit.tiny')
  if arg['runlocal']:
    small, tiny = dict(small, depth=1), dict(tiny, depth=1)
    train = dict(train, steps=5)
    images = datasets.synthetic(32, 50, 50)
  stand_in = dict(
    dataset=images,
    model=tiny,
    attacks=common.UNTRAINED,
    stands_for=dict(data='imagenet2012', model='vit.base'),
    per_class_cap=50,
  )
  config.sweep = (
    (
      dict(model=small, attacks=common.UNTRAINED),
      dict(model=small, train=train, attacks=common.TRAINED),
      stand_in,
    ),
  )
  return config
