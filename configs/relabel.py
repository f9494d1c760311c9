"""Labels changed by a constant added to ciphertexts (Equations 13 and 14).

The attacker watches the first epoch of one training, infers the labels of its
poisoned rows from its own gradients alone, and in another adds to their sealed
gradients what makes of the inferred label the target. It knows no row of any
class. Points differ in the attack that infers; `scores.random` guesses.
"""

from configs import backdoor, common

HEAD = (
  dict(table='BLI Equations 13, 14, on digits', minutes=1),
  dict(arg='part=mnist', table='BLI Equations 13, 14', needs='mnist'),
)
_INFERENCE = (
  dict(name='linear.full'),
  dict(name='inversion.batch', steps=2000),
  dict(name='scores.random'),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, part=('digits', 'mnist'))
  config = common.backdoor('relabel')
  config.poison.form = 'alone'
  config.attacks = tuple(
    dict(name='backdoor.relabel', gamma=gamma) for gamma in (1.0, 10.0)
  )
  config.sweep = (('poison.inference', _INFERENCE),)
  if arg['runlocal']:
    return backdoor.shrink(
      config,
      attacks=config.attacks[:1],
      sweep=(('poison.inference', _INFERENCE[::2]),),
    )
  if arg['part'] == 'mnist':
    backdoor.mnist(config)
    config.trials = 3
    config.sweep = (('poison.inference', _INFERENCE[::2]),)
  return config
