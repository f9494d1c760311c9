"""Label codes: what CoAE does to labels, and who reads them all the same.

  python launch.py --config=configs/coae.py                # statistics, minutes
  python launch.py --config=configs/coae.py:part=figure9   # grey CIFAR-10
  python launch.py --config=configs/coae.py:part=attacks   # MNIST, untrained
  python launch.py --config=configs/coae.py:part=trained   # in training
  python launch.py --config=configs/coae.py:part=accuracy  # of 30 epochs
  python launch.py --config=configs/coae.py:part=digits    # the same, small
  python launch.py --config=configs/coae.py:part=secrets   # MNIST, 10 renamings
  python launch.py --config=configs/coae.py:runlocal       # seconds

The first needs no data; the others take the real digits where mnist or cifar10
are not under ../shared/tfds. Their passive party is shown its cut gradients, so
that one run serves attacks that read them and attacks that read its own
gradients alone; each attack that knows of the code stands beside the published
one, which does not.

Published: every shipped encoder is decoded without an error; the true class's
mass, entropy and largest mass of its fake labels are in `report.published`.
"""

from configs import common

_SHIPPED = {
  2: (0.0, 0.1, 0.5, 1.0),
  5: (0.0, 0.05, 0.1, 0.5, 1.0, 2.0),
  10: (0.0, 0.1, 0.5, 1.0, 2.0),
}
_PARTS = (
  'statistics',
  'figure9',
  'attacks',
  'trained',
  'accuracy',
  'digits',
  'secrets',
)


def _coae(confusion):
  return dict(name='coae', confusion=confusion)


def _response(epsilon):
  return dict(name='randomized_response', epsilon=epsilon)


def _drawn(num):
  """Complementary labels: `num` classes that an example is not of."""
  return dict(name='complement'), dict(name='draw', num=num)


_COMPLEMENT = dict(name='complement')
_RENAMED = dict(name='permutation', seed=11)
_CODES = (
  (_coae(0.0),),
  (_coae(1.0),),
  (_coae(1.0), _RENAMED),
  _drawn(1),
  _drawn(5),
  (*_drawn(5), _RENAMED),
)
_TRAINED = ((_coae(1.0),), _drawn(5), (*_drawn(5), _RENAMED))
_ACCURACY = (
  (),
  *((_coae(confusion),) for confusion in (0.0, 0.1, 0.5, 1.0)),
  (_COMPLEMENT,),
  *(_drawn(num) for num in (1, 3, 5)),
  *((_response(epsilon),) for epsilon in (0.81, 2.2)),
)
_CLEAR = (
  dict(name='scores.direct'),
  dict(name='scores.direct', rule='complement'),
  dict(name='decoding.mixture'),
  dict(name='decoding.drawn', num=5),
)
_SEALED = (
  dict(name='linear.full'),
  dict(name='decoding.least_squares'),
  dict(name='linear.full', code=(_COMPLEMENT,)),
)
_OWN = (
  dict(name='decoding.logits'),
  dict(name='decoding.logits', code=(_COMPLEMENT,)),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, part='statistics', runlocal=False)
  part = arg['part']
  common.check_choice('part', part, _PARTS)
  config = common.vfl('coae')
  config.aggregate = dict(name='plaintext')
  config.attacks = (*_CLEAR, *_SEALED)
  if part == 'statistics':
    config.experiment = 'vfl.label_codes'
    config.attacks = ()
    points = [(k, (_coae(c),)) for k, cs in _SHIPPED.items() for c in cs]
    config.sweep = ((('classes', 'defense'), tuple(points)),)
  elif part == 'figure9':
    common.images(config, 'cifar10', grey=True, crop=28)
    config.attacks = (
      dict(name='inversion.batch'),
      dict(name='linear.full'),
      dict(name='linear.full', code=(_COMPLEMENT,)),
    )
    config.sweep = (('defense', ((_coae(0.0),), (_coae(1.0),))),)
  elif part == 'attacks':
    common.images(config, 'mnist')
    points = [(code, size) for size in (128, 1024) for code in _CODES]
    points += [((_coae(0.5),), 1024)]
    config.sweep = ((('defense', 'batch_size'), tuple(points)),)
  elif part in ('trained', 'accuracy', 'digits'):
    _train(config, batch_size=128, rows=1347)
    if part != 'digits':
      common.images(config, 'mnist')
      _train(config, batch_size=1024, rows=60000)
    config.attacks = (*_CLEAR, *_SEALED, *_OWN)
    epoch = config.train.steps // 30
    config.sweep = (('defense', _TRAINED), ('train.steps', (epoch, 30 * epoch)))
    if part != 'trained':
      config.experiment = 'vfl.training'
      config.attacks = ()
      config.trials = 3
      config.sweep = (('defense', _ACCURACY),)
  else:
    common.images(config, 'mnist')
    granted = dict(names='granted', known=('bottom', 'labelled'))
    config.attacks = (*_CLEAR, dict(name='decoding.mixture', **granted))
    codes = [
      (_coae(1.0), dict(name='permutation', seed=seed)) for seed in range(10)
    ]
    config.sweep = (('defense', tuple(codes)),)
  return _runlocal(config) if arg['runlocal'] else config


def _train(config, batch_size, rows):
  """30 epochs in the order of the data, at the rates of VFLAIR's record."""
  config.batch_size = config.train.batch_size = batch_size
  config.train.steps = -(-rows // batch_size) * 30
  config.train.shuffle = False
  config.optimizer = dict(name='adam', lr=0.01, decay='epoch')


def _runlocal(config):
  """Hardly trained codes, seconds, no files."""
  config.dataset = dict(name='digits', split='train', normalise=False)
  quick = dict(_coae(1.0), steps=200)
  config.trials = 2
  if config.experiment == 'vfl.label_codes':
    points = ((2, (quick,)), (5, (quick, _RENAMED)))
    config.sweep = ((('classes', 'defense'), points),)
    return config
  config.batch_size = config.train.batch_size = 32
  config.train.steps = min(config.train.steps, 5)
  config.attacks = tuple(
    dict(spec, steps=50) if spec['name'] == 'inversion.batch' else spec
    for spec in config.attacks
  )
  config.sweep = (('defense', ((quick,),)),)
  return config
