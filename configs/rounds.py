"""Horizontal FL: what several rounds of one client give away of its labels.

It holds the same examples in every round, or others (`shifting`), which are
then counted together. Labels alone: 100 classes, 128 examples a round, S = 10
noisy steps, no network; and an untrained CNN on MNIST.
"""

from configs import common

HEAD = (
  dict(table='ours'),
  dict(arg='part=network', table='ours', needs='mnist'),
)
_PARTS = 'labels', 'network'
_ROUNDS = 1, 4, 16, 64
_TRIALS = 48
_EXAMPLES = 32_768  # in all trials: a posterior of 8192 takes a minute
_TOLD = 'client', 'clients', 'defense'
_PUBLISHED = 'counts.llbg', 'counts.ebi'


def get_config(arg=None):
  arg = common.parse_arg(arg, part=_PARTS)
  config = common.hfl('rounds')
  config.trials = _TRIALS
  rounds = _ROUNDS
  noises = common.strengths('gaussian', stddev=(0.1, 0.5), at='step')
  if arg['part'] == 'labels':
    config.dataset = dict(name='labels', num_classes=100, per_class=9000)
    config.model = dict(name='mlp.linear')
    config.batch_size = 128
    config.client = dict(lr=1e-3, batch_size=13)
    config.lr = config.local_steps = None
    config.known = _TOLD
  else:
    config.dataset = dict(name='mnist')
    config.model = dict(name='cnn.cnn', width=32)
    config.known = common.SERVER
    noises = (), *noises[:1]
    rounds = _ROUNDS[:3]
  if arg['runlocal']:
    common.shrink(config)
    rounds = rounds[:2]
  config.sweep = (
    tuple(
      dict(defense=noise, **_observe(config, number, shifting))
      for noise in noises
      for shifting in (False, True)
      for number in rounds
    ),
  )
  return config


def _observe(config, number, shifting):
  """Returns so many rounds, as many trials as they allow, and the attacks."""
  trials = config.trials
  if shifting:
    trials = min(trials, _EXAMPLES // (number * config.batch_size))
  return dict(rounds=number, trials=trials, **_attack(shifting))


def _attack(shifting):
  """Returns whether rounds shift, and the attacks on all of them."""
  names = *_PUBLISHED, 'counts.calibrated'
  over = lambda way, names: tuple(
    dict(name=f'over_time.{way}', attack=name) for name in names
  )
  attacks = over('mean_update', names)
  if shifting:
    attacks += over('sum_counts', _PUBLISHED)
  return dict(shifting=shifting, attacks=attacks)
