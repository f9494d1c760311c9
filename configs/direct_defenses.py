"""Direct label inference under defenses: Table 6 of Fu et al., all points.

The attacker calls the first negative entry of a cut gradient the label, at
every step of the first epoch; beside it the smallest entry, which noise harms
less. Defenses act on the active party's own gradient too, as in the released
code.
"""

from configs import common, completion_defenses, datasets

HEAD = (
  dict(table='Fu Table 6, on digits', minutes=9),
  dict(arg='part=mnist', table='Fu Table 6, on MNIST', needs='mnist'),
  dict(arg='part=cifar10', table='Fu Table 6, a GPU', needs='cifar10'),
)
# Epochs, and the whole batches of the first one.
_PARTS = dict(
  digits=dict(epochs=20, observed=42),
  mnist=dict(epochs=3, observed=1875),
  cifar10=dict(epochs=100, observed=1562),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, part=tuple(_PARTS))
  part = arg['part']
  config = common.vfl('direct_defenses')
  config.experiment = 'vfl.privacy_utility'
  config.aggregate = dict(name='plaintext')
  config.attacks = (
    dict(name='scores.direct', rule='first_negative'),
    dict(name='scores.direct'),
  )
  config.defend_active = True
  config.split = dict(name='splits.columns')
  config.optimizer = common.completion('').optimizer
  datasets.use(config, part)
  if part == 'cifar10':
    config.model = dict(name='resnet.resnet20', shortcut='pad')
  common.train(config, batch_size=32, epochs=_PARTS[part]['epochs'])
  config.observed.steps = _PARTS[part]['observed']
  config.trials = 3
  points = completion_defenses.figure5(3e-2)
  # PPDL as the paper has it, not in its table.
  strict = common.strengths('ppdl', theta=completion_defenses.STRENGTHS)
  config.sweep = (('defense', (*points[:-4], *strict, *points[-4:])),)
  if arg['runlocal']:
    config.observed.steps = 10
    common.shrink(
      config,
      training=dict(batch_size=32, steps=20),
      model=dict(name='mlp.mlp2'),
      sweep=(('defense', ((), (dict(name='ppdl', theta=0.5),))),),
    )
  return config
