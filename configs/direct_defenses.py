"""Direct label inference under defenses: Table 6 of Fu et al., all points.

  python launch.py --config=configs/direct_defenses.py            # real digits
  python launch.py --config=configs/direct_defenses.py:part=mnist # ../shared
  python launch.py --config=configs/direct_defenses.py:part=cifar10  # a GPU
  python launch.py --config=configs/direct_defenses.py:runlocal   # seconds

The attacker calls the first negative entry of a cut gradient the label, at
every step of the first epoch; beside it the smallest entry, which noise harms
less. Defenses act on the active party's own gradient too, as in the released
code. `part=cifar10` has the published setting: ResNet20 bottoms on the halves
of the columns, sums, SGD, 100 epochs of B = 32.

Published (model / attack): undefended attack 1.0000; noise of scale 1e-3 .8318
/ .4906; compression to a quarter .8049 / .9245; PPDL at .5 .8216 / .3891;
discretised to N = 12 .7471 / .9399.
"""

from configs import common

_ATTACKS = (
  dict(name='scores.direct', rule='first_negative'),
  dict(name='scores.direct'),
)
_STRENGTHS = (0.75, 0.5, 0.25, 0.1)


def get_config(arg=None):
  arg = common.parse_arg(arg, part='digits', runlocal=False)
  part = arg['part']
  common.check_choice('part', part, ('digits', 'mnist', 'cifar10'))
  config = common.vfl('direct_defenses')
  config.experiment = 'vfl.privacy_utility'
  config.aggregate = dict(name='plaintext')
  config.attacks = _ATTACKS
  config.defend_active = True
  config.split = dict(name='splits.columns')
  config.optimizer = dict(
    name='sgd', lr=0.1, momentum=0.9, weight_decay=5e-4, decay=(50, 85)
  )
  rows, epochs = 1347, 20
  if part == 'mnist':
    common.images(config, 'mnist')
    rows, epochs = 60000, 3
  elif part == 'cifar10':
    common.images(config, 'cifar10')
    config.model = dict(name='resnet.resnet20', shortcut='pad')
    rows, epochs = 50000, 100
  config.trials = 3
  config.sweep = (('defense', tuple(_table6())),)
  if arg['runlocal']:
    rows, epochs = 320, 2  # of the rows that there are
    config.dataset = dict(name='digits', split='train', normalise=False)
    config.model = dict(name='mlp.mlp2')
    config.trials = 2
    config.sweep = (('defense', ((), (dict(name='ppdl', theta=0.5),))),)
  config.batch_size = config.train.batch_size = 32
  config.observed.steps = rows // 32
  config.train.steps = -(-rows // 32) * epochs
  return config


def _table6():
  """The undefended model, and four strengths of each defense; PPDL twice."""
  yield ()
  for scale in (1e-4, 1e-3, 1e-2, 1e-1):
    yield (dict(name='laplace', scale=scale),)
  for keep in _STRENGTHS:
    yield (dict(name='keep_largest', keep=keep),)
  for theta in _STRENGTHS:
    yield (dict(name='ppdl', theta=theta, early_exit=True),)
  for theta in _STRENGTHS:  # as the paper has it, not in its table
    yield (dict(name='ppdl', theta=theta),)
  for bins in (24, 18, 12, 6):
    yield (dict(name='discretize_fixed', bins=bins, bound=3e-2),)
