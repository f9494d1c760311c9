"""Vertical FL under defenses: labels recovered against accuracy kept.

  python launch.py --config=configs/vfl_defenses.py              # real digits
  python launch.py --config=configs/vfl_defenses.py:part=mnist   # 38 records
  python launch.py --config=configs/vfl_defenses.py:part=shipped # see below
  python launch.py --config=configs/vfl_defenses.py:part=binary  # MNIST 0 / 1
  python launch.py --config=configs/vfl_defenses.py:part=figure7 # MNIST
  python launch.py --config=configs/vfl_defenses.py:part=cifar10 # Table 3
  python launch.py --config=configs/vfl_defenses.py:runlocal     # seconds

Each trial is one training: its first batch is attacked at the initialisation
and its last model tested, as VFLAIR does. The passive party is shown its cut
gradients (`plaintext`), so that one run serves the attacks that read them
(direct inference: DLI) and those that read its own gradients alone (inversion:
BLI, `linear.full`). `complement` and `decoding.mixture` know of a code. All but
the first need mnist or cifar10 under ../shared/tfds. `shipped` trains on two
codes about as soft as the encoder that VFLAIR ships for a confusion of .1,
without rounding, with 12 and with six bins.

Published, undefended: MNIST main accuracy .9746, BLI .9965, DLI 1.0000.
"""

from configs import common

# What a sweep over defenses sets together.
_FIELDS = ('defense', 'top_optimizer')
_PARTS = ('digits', 'mnist', 'shipped', 'binary', 'figure7', 'cifar10')

_INVERSION = dict(name='inversion.batch')
_BLIND = (dict(name='linear.full'), _INVERSION)
_DIRECT = (
  dict(name='scores.direct', rule='first_or_any'),
  dict(name='scores.direct', rule='complement'),
)
_CODED = (dict(name='decoding.mixture'),)
_BINARY = (
  dict(name='scores.norm'),
  dict(name='scores.norm', across=True),
  dict(name='scores.cosine', known=('bottom', 'labelled')),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, part='digits', runlocal=False)
  part = arg['part']
  common.check_choice('part', part, _PARTS)
  config = common.vfl('vfl_defenses')
  config.experiment = 'vfl.privacy_utility'
  config.aggregate = dict(name='plaintext')
  config.attacks = (*_BLIND, *_DIRECT)
  config.optimizer = dict(name='adam', lr=0.01, decay='epoch')
  points = _records()
  if part == 'digits':
    _train(config, batch_size=128, rows=1347, epochs=30)
    config.train.shuffle = True
    config.attacks += _CODED
    points = _digits()
  elif part in ('mnist', 'shipped', 'figure7'):
    common.images(config, 'mnist')
    _train(config, batch_size=1024, rows=60000, epochs=30)
    points = dict(mnist=_records, shipped=_shipped, figure7=_figure7)[part]()
    if part == 'shipped':
      config.attacks = _DIRECT[:1]
  elif part == 'binary':
    common.images(config, 'mnist')
    config.classes = 2
    config.optimizer.lr = 0.001
    config.attacks = (*_DIRECT[:1], *_BINARY)
    _train(config, batch_size=1024, rows=12665, epochs=30)
    points = (*points, *_marvell())
  else:
    common.images(config, 'cifar10')
    config.model = dict(name='resnet.resnet20', shortcut='pad')
    config.optimizer = dict(name='adam', lr=0.001)
    _train(config, batch_size=2048, rows=50000, epochs=30)
    points = _table3()
  config.sweep = ((_FIELDS, tuple(points)),)
  return _runlocal(config) if arg['runlocal'] else config


def _train(config, batch_size, rows, epochs):
  """Whole epochs in the order of the data."""
  config.batch_size = config.train.batch_size = batch_size
  config.train.steps = -(-rows // batch_size) * epochs
  config.train.shuffle = False


def _point(*defense, top_optimizer=None):
  return defense, top_optimizer


def _noise(name, **scale):
  """Noise after VFLAIR's clip, which at 0.2 never acts."""
  return dict(name='clip_batch', max_norm=0.2), dict(name=name, **scale)


def _coae(confusion):
  return dict(name='coae', confusion=confusion)


def _records():
  """VFLAIR's records of June 2023, in their order."""
  scales = (1e-4, 1e-3, 1e-2, 1e-1)
  bins = dict(name='discretize_first', bins=12)
  yield _point()
  for scale in scales:
    yield _point(*_noise('laplace', scale=scale))
  for scale in scales:
    yield _point(*_noise('gaussian', stddev=scale))
  for drop in (0.95, 0.97, 0.99, 0.995):
    yield _point(dict(name='sparsify', drop=drop))
  for epsilon in (0.01, 0.1, 1.0, 10.0):
    yield _point(dict(name='grad_perturb', epsilon=epsilon))
  for weight in (1e-4, 1e-2, 0.1, 0.3):
    yield _point(dict(name='distance_correlation', weight=weight))
  for confusion in (0.0, 0.1, 0.5, 1.0):
    yield _point(_coae(confusion))
  for confusion in (0.0, 0.1, 0.5, 1.0):
    yield _point(_coae(confusion), bins)
  for weight in (0.0, 1e-8, 1e-6, 1e-4, 1e-2, 0.1, 1.0, 100.0, 10000.0):
    yield _mid(weight)


def _shipped():
  """CoAE and DCoAE on codes about as soft as the shipped one of .1."""
  for seed in (3, 4):
    code = dict(name='derangement', soft=0.13, seed=seed)
    yield _point(code)
    for bins in (12, 6):
      yield _point(code, dict(name='discretize_first', bins=bins))


def _mid(weight, lr=1e-4):
  top_optimizer = dict(name='adam', lr=lr)
  return _point(dict(name='mid', weight=weight), top_optimizer=top_optimizer)


def _figure7():
  """Strengths of Figure 7, left; MARVELL, which tells two classes, aside."""
  yield _point()
  for stddev in (1e-3, 1e-2, 1e-1):
    yield _point(*_noise('gaussian', stddev=stddev))
  for drop in (0.99, 0.995, 0.997, 0.999):
    yield _point(dict(name='sparsify', drop=drop))
  for confusion in (0.05, 0.1, 0.5, 1.0, 2.0):
    yield _point(_coae(confusion))


def _marvell():
  """Strengths of Figure 7, right: power of the noise by the gradient's."""
  for s in (0.1, 1.0, 4.0, 10.0):
    yield _point(dict(name='marvell', s=s))
    yield _point(dict(name='marvell', s=s, isotropic=False))


def _table3():
  """Columns of Table 3, BLI rows; the noise is Laplace's, as in Figure 7."""
  bins = dict(name='discretize_fixed', bins=12, bound=1e-3)
  yield _point()
  yield _point(*_noise('laplace', scale=1e-3))
  yield _point(dict(name='keep_largest', keep=0.1))
  yield _point(dict(name='ppdl', theta=0.5, early_exit=True))
  yield _point(bins)
  for confusion in (1.0, 0.5, 0.0):
    yield _point(_coae(confusion))
    yield _point(_coae(confusion), bins)


def _digits():
  """One or two strengths of every kind, at the scale of B = 128."""
  yield _point()
  for stddev in (1e-3, 1e-2):
    yield _point(dict(name='gaussian', stddev=stddev))
  yield _point(dict(name='sparsify', drop=0.95))
  yield _point(dict(name='discretize_first', bins=12))
  yield _point(dict(name='randomized_response', epsilon=1.0))
  for confusion in (0.0, 1.0):
    yield _point(_coae(confusion))
  yield _point(_coae(1.0), dict(name='permutation', seed=11))
  yield _mid(0.01, lr=0.01)


def _runlocal(config):
  """Two defenses, seconds, no files."""
  config.dataset = dict(name='digits', split='train', normalise=False)
  config.classes = None
  config.attacks = (dict(name='linear.full'), *_DIRECT)
  config.model = dict(name='mlp.mlp2')
  _train(config, batch_size=64, rows=1347, epochs=2)
  config.trials = 2
  smooth = dict(name='smoothing', alpha=0.5)
  points = (_point(), _point(smooth, dict(name='gaussian', stddev=0.01)))
  config.sweep = ((_FIELDS, points),)
  return config
