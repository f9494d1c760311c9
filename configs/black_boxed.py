"""Algorithm 1 of the BLI paper for real: training under encryption.

Breast cancer and digits, split between two parties, a linear and a small MLP
bottom each, trained with the passive party's gradients sealed for free, under
Paillier (phe, 2048-bit keys) and under CKKS (TenSEAL), from the extra `he`:
same accuracy, measured bytes and seconds a step. `he.max_hours` refuses what
would take longer. The part `mnist` is sealed for free.
"""

from configs import common, datasets

HEAD = (
  dict(table='BLI Algorithm 1', minutes=13),
  dict(arg='part=mnist', table="VFLAIR's record", minutes=2, needs='mnist'),
)
_AGGREGATES = (
  dict(name='ideal'),
  dict(name='paillier'),
  # Entries of the cut gradient stay within one over the rows of a batch, 42 at
  # least here. Adam makes full steps of an error where a gradient is tiny, so
  # that it must be small against its eps, 1e-8.
  dict(name='ckks', bound=1 / 32),
)
_CANCER = {
  'dataset': dict(name='breast_cancer', split='train'),
  'split': dict(name='splits.features'),
  'train.steps': 20,
}
_DIGITS = {
  'dataset': dict(name='digits', split='train'),
  'split': dict(name='splits.rows'),
  'train.steps': 15,
}
_MODELS = dict(name='mlp.linear'), dict(name='mlp.mlp2', width=4)


def get_config(arg=None):
  arg = common.parse_arg(arg, part=('small', 'mnist'))
  config = common.vfl('black_boxed')
  config.experiment = 'vfl.training'
  config.attacks = ()
  config.trials = 1
  if arg['part'] == 'mnist' and not arg['runlocal']:
    # VFLAIR's setting, in the order of the data.
    datasets.use(config, 'mnist')
    config.optimizer = dict(name='adam', lr=0.01, decay='epoch')
    config.train.update(epochs=30, batch_size=2048, shuffle=False)
    config.trials = 5
    return config
  config.optimizer.lr = 0.05
  config.train.batch_size = 32 if arg['runlocal'] else 64
  tasks, models = (_CANCER, _DIGITS), _MODELS
  if arg['runlocal']:
    tasks, models = (_CANCER | {'train.steps': 2},), _MODELS[:1]
  config.sweep = (tasks, ('model', models), ('aggregate', _AGGREGATES))
  return config
