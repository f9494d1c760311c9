"""Model completion: the labels of all rows from a bottom and a few labels.

  python launch.py --config=configs/completion.py              # real digits
  python launch.py --config=configs/completion.py:data=mnist   # 5 min
  python launch.py --config=configs/completion.py:data=cifar10,small
  python launch.py --config=configs/completion.py:data=cifar10 # a GPU
  python launch.py --config=configs/completion.py:data=cifar10,table=3
  python launch.py --config=configs/completion.py:runlocal     # seconds

Tables 2 and 4 of Fu et al.: the passive attack, the active one as published
runs must have had it, its gain without acceleration, the same learning on a
bottom that never was trained, and the bound by all labels. `table=3` varies the
number of known labels. `small` is CIFAR-10 on two cores: a tenth of the rows at
16 pixels, fewer epochs, a faster average, and neither ablation nor bound; 13
minutes on an otherwise idle machine.

Other data (`data=` cifar100, cinic10, tiny_imagenet, criteo, yahoo,
histopathology) are files that one fetches by hand into --config.data_dir;
`labelleak/data` says in which layout. Yahoo's texts are bags of hashed words;
`data=yahoo,bert` is the paper's BERT and MixText, for a GPU, its encoder, head
and top at rates of their own. It needs word pieces and weights, in the names of
the released bert-base-uncased:
  --config.dataset.vocab=vocab.txt --config.weights=model.safetensors

Published on CIFAR-10, training / test rows: passive .8024 / .6299, active .8484
/ .6342, untrained bottom .1698 / .1683; model .8280, under the active attack
.8139.
"""

from ml_collections.config_dict import placeholder

from configs import common

_RESNET = dict(name='resnet.resnet20', shortcut='pad', init='fan_in')
_HALVES = dict(name='splits.features')
# rows, epochs and batch size of the joint training; then what differs from
# CIFAR-10: fields of the config, and the schedule of the completion.
_DATA = {
  'digits': (1347, 40, 32, dict(model=dict(name='mlp.mlp2', width=64)), {}),
  'mnist': (60000, 10, 128, dict(model=dict(name='mlp.mlp2', width=128)), {}),
  'cifar10': (50000, 100, 32, {}, {}),
  'cifar100': (
    *(50000, 150, 32),
    dict(top=dict(name='mlp.bn_mlp', widths=(200, 100, 100))),
    {},
  ),
  'cinic10': (180000, 100, 32, {}, {}),
  'tiny_imagenet': (
    *(100000, 110, 128),
    dict(
      model=dict(_RESNET, name='resnet.resnet56'),
      top=dict(name='mlp.bn_mlp', widths=(400, 200)),
    ),
    {},
  ),
  'criteo': (
    *(80000, 7, 1000),
    dict(
      split=_HALVES,
      model=dict(name='mlp.fcnn'),
      cut_width=4,
      top=dict(name='mlp.bn_mlp', widths=(8, 4), batch_norm=False),
    ),
    dict(batch_size=100, epochs=5, iterations=900),
  ),
  'yahoo': (
    *(50000, 25, 16),
    dict(split=_HALVES, model=dict(name='mlp.fcnn', widths=(128,))),
    dict(epochs=10, iterations=1000),
  ),
  'histopathology': (
    *(69181, 5, 64),
    dict(
      split=dict(name='splits.patches'),
      cut_width=5,
      top=dict(name='mlp.bn_mlp', widths=(10, 10, 10)),
      class_weights=(0.3, 1.0),
    ),
    dict(batch_size=32, epochs=10),
  ),
}
_FILES = {
  'cinic10': dict(name='cinic10', path='CINIC-10'),
  'tiny_imagenet': dict(name='tiny_imagenet', path='tiny-imagenet-200'),
  'criteo': dict(name='criteo', path='criteo'),
  'yahoo': dict(
    name='yahoo_answers',
    path='yahoo_answers_csv',
    per_class=5000,
    counts=True,
    buckets=4096,
  ),
  'histopathology': dict(
    name='breast_histopathology',
    path='breast-histopathology-images',
    background=0.3,
  ),
}
_PER_CLASS = dict(criteo=50, yahoo=10, histopathology=35)
_RATES = {  # where they are not CIFAR-10's
  'digits': dict(lr=0.05, decay=(25,)),
  'mnist': dict(lr=0.05, decay=(7,)),
  'criteo': dict(lr=0.05, momentum=0.5),
  'yahoo': dict(lr=0.05, decay=(15, 25)),
  'histopathology': dict(lr=0.05, decay=(4, 6)),
}


def get_config(arg=None):
  arg = common.parse_arg(
    arg, data='digits', table=2, small=False, bert=False, runlocal=False
  )
  data = arg['data']
  common.check_choice('data', data, tuple(_DATA))
  common.check_choice('table', arg['table'], (2, 3))
  config = common.completion('completion')
  rows, epochs, size, fields, schedule = _DATA[data]
  config.model = _RESNET
  for field, value in fields.items():
    config[field] = value
  config.optimizer.update(_RATES.get(data, {}))
  config.aux.per_class = _PER_CLASS.get(data, 4)
  if data in _FILES:
    config.dataset = dict(_FILES[data], split='train')
  elif data != 'digits':
    common.images(config, data)
  config.trials = 3
  if data in ('digits', 'mnist'):  # minutes on two cores
    schedule = dict(epochs=5, iterations=200, ema=0.99)
  if arg['bert']:
    common.check_choice('data', data, ('yahoo',))
  if arg['small']:
    common.check_choice('data', data, ('cifar10',))
    rows, epochs, size = 5000, 12, 32
    config.dataset.split, config.train.tested = 'train[:10%]', 'test[:20%]'
    config.dataset.size = 16
    config.optimizer.update(lr=0.02, decay=(9, 11))
    config.scored_rows = 1000
    schedule = dict(epochs=5, iterations=200, ema=0.99)
  if arg['runlocal']:
    rows, epochs, config.trials = 320, 2, 2  # of the rows that there are
    schedule = dict(epochs=2, iterations=20, ema=0.9)
  config.batch_size = config.train.batch_size = size
  config.train.steps = -(-rows // size) * epochs
  bound = dict(
    known=('party', 'pool', 'labels'), epochs=epochs, batch_size=size
  )
  passive = dict(name='completion.passive', **schedule)
  active = dict(name='completion.active', **schedule)
  untrained = dict(name='completion.semi_supervised', **schedule)
  config.attacks = (
    passive,
    active,
    dict(active, r_max=1.0),  # its gain without acceleration
    untrained,
    dict(name='completion.supervised', **bound),
  )
  if arg['bert']:
    _bert(config, schedule, arg['runlocal'])
  elif arg['small']:  # without the ablation and the bound
    config.attacks = passive, active, untrained
  elif arg['runlocal']:  # without the ablation
    config.attacks = (*config.attacks[:2], *config.attacks[3:])
  if arg['table'] == 3 and not arg['bert']:
    config.attacks = passive, untrained
    fewest = tuple(dict(a, batch_size=10) for a in config.attacks)
    points = [(1, fewest)]  # 10 labels are no batch of 16
    points += [(num, config.attacks) for num in (2, 4, 12, 32)]
    config.sweep = ((('aux.per_class', 'attacks'), tuple(points)),)
  return config


def _bert(config, schedule, tiny):
  """Yahoo's halves to BERT, its attacks by MixText."""
  config.dataset.counts = False
  config.dataset.vocab = placeholder(str)
  del config.dataset.buckets  # as many hashed words as there are word pieces
  config.model = dict(name='bert.base')
  config.optimizer.update(lr=5e-6, rates=dict(head=5e-4), decay=(15, 25))
  config.top_optimizer = dict(config.optimizer, lr=1e-3)
  del config.top_optimizer['rates']
  if tiny:
    size = dict(width=8, heads=2, depth=2)
    config.model = dict(name='bert.bert', vocab=64, **size)
    config.dataset.update(buckets=64, length=8)
    schedule = dict(epochs=2, iterations=2, mix_layers=(1, 2))
  names = (
    'completion.texts.passive',
    'completion.texts.active',
    'completion.texts.semi_supervised',
  )
  config.attacks = tuple(dict(name=name, **schedule) for name in names)
