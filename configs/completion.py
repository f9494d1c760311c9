"""Model completion: the labels of all rows from a bottom and a few labels.

The passive attack, the active one, its gain without acceleration, the same
learning on a bottom that never was trained, and the bound by all labels.
`table=3` varies the number of known labels. `small` is a tenth of CIFAR-10 at
16 pixels, for two cores, with neither ablation nor bound.

Files that one fetches by hand into --config.data_dir are laid out as
`labelleak/data` says. Yahoo's texts are bags of hashed words; with `bert` they
meet the paper's BERT and MixText, which need word pieces and weights, in the
names of the released bert-base-uncased:
  --config.dataset.vocab=vocab.txt --config.weights=model.safetensors
"""

from ml_collections.config_dict import placeholder

from configs import common, datasets

_FU = 'Fu Tables 2, 4'
BHI = 'breast_histopathology'
HEAD = (
  dict(table=f'{_FU}, on digits', minutes=1),
  dict(arg='data=mnist', table=f'{_FU}, on MNIST', minutes=5, needs='mnist'),
  dict(arg='data=cifar10,small', table=_FU, minutes=13, needs='cifar10'),
  dict(arg='data=cifar10', table=f'{_FU}, a GPU', needs='cifar10'),
  dict(arg='data=cifar10,table=3', table='Fu Table 3', needs='cifar10'),
  *(
    dict(arg=f'data={data}', table=_FU, needs=data)
    for data in ('cifar100', 'cinic10', 'tiny_imagenet', 'criteo')
  ),
  dict(arg='data=yahoo', table=_FU, needs='yahoo_answers'),
  dict(arg='data=yahoo,bert', table=f'{_FU}, a GPU', needs='yahoo_answers'),
  dict(arg='data=histopathology', table=_FU, needs=BHI),
)
QUICK = dict(epochs=2, iterations=20, ema=0.9)  # a schedule of seconds
_MINUTES = dict(epochs=5, iterations=200, ema=0.99)  # on two cores
_RESNET = dict(name='resnet.resnet20', shortcut='pad', init='fan_in')
_HALVES = dict(name='splits.features')
_CIFAR10 = dict(
  training=dict(epochs=100, batch_size=32), optimizer={}, schedule={}
)
# The joint training, its optimizer and the schedule of the completion, then
# fields of the config; where they are not CIFAR-10's.
_DATA = {
  'digits': dict(
    training=dict(epochs=40, batch_size=32),
    optimizer=dict(lr=0.05, decay=(25,)),
    schedule=_MINUTES,
    model=dict(name='mlp.mlp2', width=64),
  ),
  'mnist': dict(
    training=dict(epochs=10, batch_size=128),
    optimizer=dict(lr=0.05, decay=(7,)),
    schedule=_MINUTES,
    model=dict(name='mlp.mlp2', width=128),
  ),
  'cifar10': {},
  'cifar100': dict(
    training=dict(epochs=150, batch_size=32),
    top=dict(name='mlp.bn_mlp', widths=(200, 100, 100)),
  ),
  'cinic10': {},
  'tiny_imagenet': dict(
    training=dict(epochs=110, batch_size=128),
    model=dict(_RESNET, name='resnet.resnet56'),
    top=dict(name='mlp.bn_mlp', widths=(400, 200)),
  ),
  'criteo': dict(
    training=dict(epochs=7, batch_size=1000),
    optimizer=dict(lr=0.05, momentum=0.5),
    schedule=dict(batch_size=100, epochs=5, iterations=900),
    aux=dict(per_class=50),
    split=_HALVES,
    model=dict(name='mlp.fcnn'),
    cut_width=4,
    top=dict(name='mlp.bn_mlp', widths=(8, 4), batch_norm=False),
  ),
  'yahoo': dict(
    training=dict(epochs=25, batch_size=16),
    optimizer=dict(lr=0.05, decay=(15, 25)),
    schedule=dict(epochs=10, iterations=1000),
    aux=dict(per_class=10),
    split=_HALVES,
    model=dict(name='mlp.fcnn', widths=(128,)),
  ),
  'histopathology': dict(
    training=dict(epochs=5, batch_size=64),
    optimizer=dict(lr=0.05, decay=(4, 6)),
    schedule=dict(batch_size=32, epochs=10),
    aux=dict(per_class=35),
    split=dict(name='splits.patches'),
    cut_width=5,
    top=dict(name='mlp.bn_mlp', widths=(10, 10, 10)),
    class_weights=(0.3, 1.0),
  ),
}


def get_config(arg=None):
  arg = common.parse_arg(
    arg, data=tuple(_DATA), table=(2, 3), small=False, bert=False
  )
  data = arg['data']
  for flag, only in dict(bert='yahoo', small='cifar10').items():
    if arg[flag]:
      common.check_choice('data', data, (only,))
  config = common.completion('completion')
  datasets.use(config, data)
  config.model = _RESNET
  config.trials = 3
  fields = _CIFAR10 | _DATA[data]
  common.train(config, **fields.pop('training'))
  config.optimizer.update(fields.pop('optimizer'))
  schedule = fields.pop('schedule')
  for field, value in fields.items():
    config[field] = value
  if arg['small']:
    schedule = _small(config)
  epochs = config.train.epochs
  if arg['runlocal']:
    epochs, schedule = 2, QUICK
    training = dict(batch_size=config.batch_size, steps=20)
    common.shrink(config, files=True, training=training)
  if arg['bert']:
    _bert(config, schedule, arg['runlocal'])
    return config
  passive, active, untrained = common.completions('completion', **schedule)
  bound = dict(
    name='completion.supervised',
    known=('party', 'pool', 'labels'),
    epochs=epochs,
    batch_size=config.batch_size,
  )
  ablation = dict(active, r_max=1.0)  # its gain without acceleration
  config.attacks = (passive, active, ablation, untrained, bound)
  if arg['table'] == 3:
    config.attacks = passive, untrained
    config.sweep = (few_labels(config.attacks, 1, 2, 4, 12, 32),)
  elif arg['small']:
    config.attacks = passive, active, untrained
  elif arg['runlocal']:
    config.attacks = passive, active, untrained, bound
  return config


def derive(name, arg, *, bound=False):
  """Returns the config of another question about the same completions.

  Args:
    name: of the config.
    arg: its parsed arguments; `data`, `small` and `runlocal` are passed on.
    bound: whether the bound by all labels stands beside the two attacks.
  """
  flags = [flag for flag in ('small', 'runlocal') if arg.get(flag)]
  config = get_config(','.join((f'data={arg["data"]}', *flags)))
  config.name = name
  passive, active, *_, last = config.attacks
  full = (passive, active, last) if bound else (passive, active)
  config.attacks = (passive,) if arg['runlocal'] else full
  return config


def few_labels(attacks, *labels):
  """Points with so many known labels a class; 10 in all are no batch of 16."""
  fewest = tuple(dict(attack, batch_size=10) for attack in attacks)
  return tuple(
    {'aux.per_class': num, 'attacks': fewest if num == 1 else attacks}
    for num in labels
  )


def _small(config):
  """A tenth of CIFAR-10, small; returns the schedule of the completion."""
  config.dataset.update(split='train[:10%]', size=16)
  common.train(config, batch_size=32, epochs=12, tested='test[:20%]')
  config.optimizer.update(lr=0.02, decay=(9, 11))
  config.scored_rows = 1000
  return _MINUTES


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
  config.attacks = common.completions('completion.texts', **schedule)
