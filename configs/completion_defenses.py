"""Model completion under defenses: Figure 5 of Fu et al., all points.

  python launch.py --config=configs/completion_defenses.py     # real digits
  python launch.py --config=configs/completion_defenses.py:data=mnist
  python launch.py --config=configs/completion_defenses.py:data=cifar10  # a GPU
  python launch.py --config=configs/completion_defenses.py:part=table3
  python launch.py --config=configs/completion_defenses.py:runlocal # seconds

Noise, compression, PPDL as released (with its early exit) and discretised
gradients against the active and the passive attack; defenses act on the active
party's own gradient, too. data=criteo and data=histopathology are the other two
sets of the figure. part=table3 has the defenses of the black-boxed paper's
Table 3 and its 4 or 1 known labels a class, with any of these data. Digits take
10 minutes on one core, Laplace noise of .1 no row: the bottoms overflow.

Published: CIFAR-10 under PPDL at .25 and under N = 6 attack about .25, model
.8139 to about .40 and .60; histopathology that keeps .1 loses about .30 of both
F1. Table 3: passive with 40 labels .698, under Laplace noise .306, compression
.370, PPDL .447, N = 12 .252, CoAE .642.
"""

from configs import common, completion

_STRENGTHS = (0.75, 0.5, 0.25, 0.1)
_DATA = ('digits', 'mnist', 'cifar10', 'criteo', 'histopathology')


def get_config(arg=None):
  arg = common.parse_arg(arg, data='digits', part='figure5', runlocal=False)
  common.check_choice('data', arg['data'], _DATA)
  common.check_choice('part', arg['part'], ('figure5', 'table3'))
  local = ',runlocal' if arg['runlocal'] else ''
  config = completion.get_config(f'data={arg["data"]}{local}')
  config.name = 'completion_defenses'
  config.attacks = config.attacks[: 1 if arg['runlocal'] else 2]
  config.defend_active = True
  bound = 1e-3 if arg['data'] == 'criteo' else 3e-2  # about 1 / B
  if arg['part'] == 'figure5':
    points = tuple(_figure5(bound))
    config.sweep = (('defense', points[-2:] if arg['runlocal'] else points),)
    return config
  points = tuple(_table3(bound))
  few = tuple(dict(spec, batch_size=10) for spec in config.attacks)
  config.sweep = (
    ('defense', points[-1:] if arg['runlocal'] else points),
    (('aux.per_class', 'attacks'), ((4, config.attacks), (1, few))),
  )
  return config


def _figure5(bound):
  """The undefended model, and four strengths of each defense."""
  yield ()
  for scale in (1e-4, 1e-3, 1e-2, 1e-1):
    yield (dict(name='laplace', scale=scale),)
  for keep in _STRENGTHS:
    yield (dict(name='keep_largest', keep=keep),)
  for theta in _STRENGTHS:
    yield (dict(name='ppdl', theta=theta, early_exit=True),)
  for bins in (24, 18, 12, 6):
    yield (dict(name='discretize_fixed', bins=bins, bound=bound),)


def _table3(bound):
  """The defenses of each column."""
  bins = dict(name='discretize_fixed', bins=12, bound=bound)
  coae = dict(name='coae', confusion=1.0)
  yield ()
  yield (dict(name='laplace', scale=1e-3),)
  yield (dict(name='keep_largest', keep=0.1),)
  yield (dict(name='ppdl', theta=0.5, early_exit=True),)
  yield (bins,)
  yield (coae,)
  yield coae, bins
