"""Labels changed by a constant added to ciphertexts (Equations 13 and 14).

  python launch.py --config=configs/relabel.py             # digits, minutes
  python launch.py --config=configs/relabel.py:part=mnist  # needs MNIST
  python launch.py --config=configs/relabel.py:runlocal    # seconds

The attacker watches the first epoch of one training, infers the labels of its
poisoned rows from its own gradients alone, and in another adds to their sealed
gradients what makes of the inferred label the target. It knows no row of any
class. Points differ in the attack that infers; `scores.random` guesses.

Published (BLI paper, Section 5): the equations, without a number.
"""

from configs import common

_INFERENCE = (
  dict(name='linear.full'),
  dict(name='inversion.batch', steps=2000),
  dict(name='scores.random'),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, part='digits', runlocal=False)
  part = arg['part']
  common.check_choice('part', part, ('digits', 'mnist'))
  config = common.poisoned('relabel')
  config.poison.form = 'alone'
  config.attacks = tuple(
    dict(name='backdoor.relabel', gamma=gamma) for gamma in (1.0, 10.0)
  )
  config.sweep = (('poison.inference', _INFERENCE),)
  if part == 'mnist':
    common.images(config, 'mnist')
    config.trigger.at = ((27, 25), (25, 27), (26, 26), (27, 27))
    config.poison.count = 600
    common.epochs(config, batch_size=1024, rows=60000, num=30)
    config.trials = 3
    config.sweep = (('poison.inference', _INFERENCE[::2]),)
  return _runlocal(config) if arg['runlocal'] else config


def _runlocal(config):
  """Two epochs on digits, seconds, no files."""
  small = common.poisoned('relabel')
  small.attacks, small.poison.form = config.attacks[:1], 'alone'
  small.poison.count = 100
  small.train.steps = 20  # one chunk, one compilation
  small.trials = 2
  small.sweep = (('poison.inference', _INFERENCE[::2]),)
  return small
