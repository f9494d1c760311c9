"""Backdoors through gradients that the attacker cannot read (Algorithm 3).

Ten trials, each with its own target class and its own clean training beside the
attacked ones (`none`). Forms of a batch: paired, each poisoned row has a row of
the target class beside it; fallen, Algorithm 3 to the letter; appended, two
rows more a step, as in the released code. A `margin` is ours: it asks for more
of the trigger than the loss does.
"""

from configs import common, datasets

HEAD = (
  dict(table='BLI Figure 6, on digits', minutes=6),
  dict(arg='part=forms', table='BLI Figure 6, forms, on digits'),
  dict(arg='part=defenses', table='BLI Figure 8, on digits', minutes=13),
  dict(arg='part=parties', table='BLI Figure 6, four, on digits', minutes=3),
  dict(arg='part=mnist', table='BLI Figure 6', needs='mnist'),
  dict(arg='part=mnist_forms', table='BLI Figure 6', minutes=54, needs='mnist'),
  dict(arg='part=figure8', table='BLI Figure 8', needs='mnist'),
  dict(arg='part=mnist_parties', table='BLI Figure 6, four', needs='mnist'),
  dict(
    arg='part=cifar10,small', table='BLI Figure 6', minutes=45, needs='cifar10'
  ),
  dict(arg='part=cifar10', table='BLI Figure 6, a GPU', needs='cifar10'),
  dict(arg='part=cifar10_parties,small', table='BLI Figure 6', needs='cifar10'),
  dict(
    arg='part=cifar10_parties', table='BLI Figure 6, a GPU', needs='cifar10'
  ),
  dict(arg='part=nuswide', table='BLI Figure 6', needs='nus_wide'),
)
_PARTS = (
  *('digits', 'forms', 'defenses', 'parties', 'mnist', 'mnist_forms'),
  *('figure8', 'mnist_parties', 'cifar10', 'cifar10_parties', 'nuswide'),
)
_GREEN, _MAGENTA = (0.0, 1.0, 0.0), (1.0, 0.0, 1.0)
# The paper prints (x, y), which is (column, row).
_CIFAR = dict(
  name='triggers.pixels',
  at=((31, 29), (30, 30), (29, 31), (31, 31)),
  value=(_GREEN, _GREEN, _MAGENTA, _MAGENTA),
)
_BACKDOOR = dict(name='backdoor.backdoor')
_OURS = dict(_BACKDOOR, balanced=True, margin=30.0)
_RELEASED = dict(_BACKDOOR, stealth='identity')
_FORMS = (
  {
    'poison.form': 'paired',
    'attacks': (_BACKDOOR, dict(_BACKDOOR, balanced=True), _OURS, _RELEASED),
  },
  {'poison.form': 'fallen', 'attacks': (_BACKDOOR,)},
  {'poison.form': 'appended', 'attacks': (_BACKDOOR, _RELEASED)},
)
_CLIP = (dict(name='clip_batch', max_norm=0.2),)
# Noise and screening are in the scale of a gradient, about 1 / B. The paper's
# defenses at its strengths, then simpler ones.
_FIGURE8 = (
  (),
  *(
    (*_CLIP, noise)
    for scale in (1e-3, 1e-2, 1e-1)
    for noise in (
      dict(name='gaussian', stddev=scale),
      dict(name='laplace', scale=scale),
    )
  ),
  *common.strengths('sparsify', drop=(0.99, 0.995, 0.999)),
  *common.strengths('coae', confusion=(0.0, 0.1, 0.5, 1.0, 2.0)),
  *common.strengths('screen', drop=(0.01, 0.05, 0.2)),
  *common.strengths('clip_per_example', max_norm=(3e-4, 1e-4, 1e-5)),
)
# One or two strengths of every kind, at the scale of B = 128.
_DEFENSES = (
  (),
  *common.strengths('gaussian', stddev=(1e-3, 1e-2)),
  *common.strengths('sparsify', drop=(0.95,)),
  *common.strengths('coae', confusion=(0.0, 0.1, 0.5, 1.0)),
  *common.strengths('screen', drop=(0.02, 0.1)),
  *common.strengths('clip_per_example', max_norm=(2e-3, 2e-4)),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, part=_PARTS, small=False)
  part = arg['part']
  config = common.backdoor('backdoor')
  if arg['runlocal']:
    return shrink(config, sweep=(('poison.form', ('paired', 'appended')),))
  if part.startswith('mnist') or part == 'figure8':
    mnist(config)
  elif part.startswith('cifar10'):
    _cifar10(config, small=arg['small'])
  elif part == 'nuswide':
    _nuswide(config)
  if part in ('digits', 'mnist', 'cifar10', 'nuswide'):
    gammas = (0.1, 1.0, 10.0, 100.0, 1000.0)
    config.attacks = (*(dict(_BACKDOOR, gamma=g) for g in gammas), _OURS)
  elif part.endswith('forms'):
    config.sweep = (_FORMS,)
  elif part.endswith('parties'):
    config.attacks = (_BACKDOOR, _OURS)
    config.split = dict(name='splits.quarters')
    config.sweep = (tuple(_attackers(config.dataset.name)),)
  else:
    config.attacks = (_BACKDOOR, _OURS)
    defenses = _FIGURE8 if part == 'figure8' else _DEFENSES
    config.sweep = (('defense', defenses),)
  return config


def shrink(config, **fields):
  """Makes a config run in seconds: one chunk of steps, one compilation."""
  config.poison.count = 100
  training = dict(batch_size=128, steps=20)
  return common.shrink(config, training=training, **fields)


def mnist(config):
  """600 of 60,000 rows, at VFLAIR's rates."""
  datasets.use(config, 'mnist')
  config.trigger.at = ((27, 25), (25, 27), (26, 26), (27, 27))
  config.poison.count = 600
  common.train(config, batch_size=1024, epochs=30)


def _cifar10(config, small):
  """500 of 50,000 rows; small: 100 of 10,000, and MLPs for ResNets."""
  datasets.use(config, 'cifar10')
  config.trigger = _CIFAR
  config.poison.count = 500
  config.model = dict(name='resnet.resnet18')
  config.optimizer = dict(name='adam', lr=0.001)
  common.train(config, batch_size=1024, epochs=30)
  if small:
    config.dataset.split = 'train[:20%]'
    config.model = dict(name='mlp.mlp2', width=128)
    config.stands_for.model = 'resnet.resnet18'
    config.poison.count = 100
    common.train(config, batch_size=256, epochs=20, tested='test[:20%]')


def _nuswide(config):
  """The passive party's tags; those that bear the last one are the trigger."""
  datasets.use(config, 'nus_wide')
  config.split = dict(name='splits.features', sizes=(1000, 634))
  config.trigger = dict(name='triggers.natural', at=999)
  config.poison.count = None
  config.poison.target = 0
  config.optimizer = dict(name='adam', lr=0.003, decay='epoch')
  common.train(config, batch_size=1024, epochs=10)


def _attackers(data):
  """Quarters: three attackers with a pixel each, then each of them alone."""
  side = datasets.SIDES[data]
  half = side // 2 - 1
  at = ((half, half), (half, side - 1), (side - 1, half))
  colors = (_MAGENTA, _GREEN, _MAGENTA)
  for attackers in ((0, 1, 2), (0,), (1,), (2,)):
    trigger = dict(name='triggers.pixels', at=tuple(at[p] for p in attackers))
    if data == 'cifar10':
      trigger['value'] = tuple(colors[p] for p in attackers)
    yield {'trigger': trigger, 'poison.attackers': attackers}
