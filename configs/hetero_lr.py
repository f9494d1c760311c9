"""FATE's hetero logistic regression: residues that an arbiter's answer holds.

A host has columns of a table, a guest the others and the labels. The arbiter
decrypts the host's gradient and returns what its optimizer makes of it. Batches
are the same in every epoch. `part=default` is FATE's own start and optimizer;
the sizes are those of its breast example, 20 columns at the host.
"""

from configs import common

HEAD = (
  dict(table='Hetero-LR, one batch'),
  dict(arg='part=columns', table='Hetero-LR, one batch'),
  dict(arg='part=epochs', table='Hetero-LR, whole trainings'),
  dict(arg='part=optimizers', table='Hetero-LR, whole trainings'),
  dict(arg='part=encrypted', table='Hetero-LR, encrypted'),
)
_PARTS = 'starts', 'columns', 'epochs', 'optimizers', 'encrypted'
_STARTS = (0.0, 0.0), (-0.05, 0.05), (-0.2, 0.2), (0.0, 1.0)
_BATCHES = 10, 20, 40, 60, 80, 120, 240
_ATTACKS = (
  dict(name='residues.expectation_propagation'),
  dict(name='residues.least_squares'),
  dict(name='scores.features'),
)
_LASTING = (
  dict(name='residues.epochs'),
  dict(name='residues.expectation_propagation', searches=0),
  dict(name='residues.least_squares'),
  dict(name='history.clusters', known=('pool',)),
)
_FRESH = 10  # attacks were made on draws of seeds 0 and 100
# The first five of those ten; a second host has the others.
_SECOND = dict(name='splits.features', sizes=(20, 5, 5), order=(1, 2, 0))
# What FATE's arbiter offers, at the rate of its examples.
_OPTIMIZERS = (
  dict(name='sgd', lr=0.15),
  dict(name='sgd', lr=0.15, momentum=0.9),
  dict(name='rmsprop', lr=0.15, eps_in_sqrt=False),
  dict(name='adam', lr=0.15),
)


def _hold(columns):
  """Returns a split whose host has the last columns, so many."""
  return dict(
    name='splits.features', sizes=(30 - columns, columns), order=(1, 0)
  )


def get_config(arg=None):
  arg = common.parse_arg(arg, part=_PARTS)
  config = common.vfl('hetero_lr')
  config.dataset = dict(name='breast_cancer', split='all')
  config.split = _hold(20)
  config.model = dict(name='mlp.linear', bias=False, start=(0.0, 0.0))
  config.loss = dict(name='taylor')
  config.arbiter = True
  config.optimizer = dict(name='sgd', lr=0.15, weight_decay=0.01)
  config.attacks = _ATTACKS
  config.batch_size, config.trials, config.seed = 240, 20, _FRESH
  if arg['part'] == 'starts':
    config.sweep = (('model.start', _STARTS), ('batch_size', _BATCHES))
  elif arg['part'] == 'columns':
    splits = _hold(10), _SECOND, _hold(5)
    config.sweep = (('split', splits), ('batch_size', _BATCHES))
  elif arg['part'] == 'encrypted':
    config.sweep = (
      (
        dict(aggregate=dict(name='ideal')),
        dict(aggregate=dict(name='paillier')),
        dict(aggregate=dict(name='ckks')),
      ),
    )
    config.batch_size, config.trials = 60, 2
  else:
    config.experiment = 'vfl.whole_training'
    config.dataset.split = 'train'
    config.model.start = (0.0, 1.0)
    config.attacks = _LASTING
    config.trials, config.after = 5, (1, 10, 12, 30)
    sizes = 20, 40, 60, 100, 240
    common.train(config, batch_size=60, epochs=30, shuffle=False)
    if arg['part'] == 'epochs':
      config.sweep = (('train.batch_size', sizes),)
    else:
      config.sweep = (('optimizer', _OPTIMIZERS),)
  if arg['runlocal']:
    config.trials = 2
    config.sweep = ()
    if 'after' in config:
      config.after = (1, 2)
      config.train.epochs = 2
  return config
