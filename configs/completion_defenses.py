"""Model completion under defenses: Figure 5 of Fu et al., all points.

The active and the passive attack; defenses act on the active party's own
gradient, too. part=table3 has the defenses of the black-boxed paper's Table 3
and its 4 or 1 known labels a class, with any of these data.
"""

from configs import common, completion

_FIGURE5 = 'Fu Figure 5'
HEAD = (
  dict(table=f'{_FIGURE5}, on digits', minutes=10),
  dict(arg='part=table3', table='BLI Table 3, on digits', minutes=8),
  dict(arg='data=mnist', table=f'{_FIGURE5}, on MNIST', needs='mnist'),
  dict(arg='data=cifar10', table=f'{_FIGURE5}, a GPU', needs='cifar10'),
  dict(arg='data=criteo', table=_FIGURE5, needs='criteo'),
  dict(arg='data=histopathology', table=_FIGURE5, needs=completion.BHI),
)
STRENGTHS = (0.75, 0.5, 0.25, 0.1)
_DATA = ('digits', 'mnist', 'cifar10', 'criteo', 'histopathology')


def get_config(arg=None):
  arg = common.parse_arg(arg, data=_DATA, part=('figure5', 'table3'))
  config = completion.derive('completion_defenses', arg)
  config.defend_active = True
  bound = 1e-3 if arg['data'] == 'criteo' else 3e-2  # about 1 / B
  points = figure5(bound) if arg['part'] == 'figure5' else table3(bound)
  config.sweep = (('defense', points[-2:] if arg['runlocal'] else points),)
  if arg['part'] == 'table3':
    config.sweep += (completion.few_labels(config.attacks, 4, 1),)
  return config


def figure5(bound):
  """Returns the undefended model, and four strengths of each defense."""
  bins = (24, 18, 12, 6)
  return (
    (),
    *common.strengths('laplace', scale=(1e-4, 1e-3, 1e-2, 1e-1)),
    *common.strengths('keep_largest', keep=STRENGTHS),
    *common.strengths('ppdl', theta=STRENGTHS, early_exit=True),
    *common.strengths('discretize_fixed', bins=bins, bound=bound),
  )


def table3(bound, confusions=(1.0,)):
  """Returns the defenses of each column."""
  bins = dict(name='discretize_fixed', bins=12, bound=bound)
  codes = [dict(name='coae', confusion=confusion) for confusion in confusions]
  return (
    (),
    (dict(name='laplace', scale=1e-3),),
    (dict(name='keep_largest', keep=0.1),),
    (dict(name='ppdl', theta=0.5, early_exit=True),),
    (bins,),
    *(point for code in codes for point in ((code,), (code, bins))),
  )
