"""Vertical FL: what a whole training gives away, under each defense.

A passive party keeps its cut gradients of every step, or where links are sealed
what its own parameter gradients say, and names all rows of the data set after
some epochs; the baselines are beside it.
"""

from configs import common, datasets

HEAD = (
  dict(table='Whole trainings, digits', minutes=14),
  dict(arg='part=mnist', table='Whole trainings', needs='mnist'),
  dict(arg='part=binary', table='Whole trainings', needs='mnist'),
  dict(arg='part=sealed', table='Whole trainings, sealed, digits'),
  dict(arg='part=sealed_wide', table='Whole trainings, sealed, digits'),
  dict(arg='part=sealed_mnist', table='Whole trainings, sealed', needs='mnist'),
  dict(
    arg='part=sealed_grey', table='Whole trainings, sealed', needs='cifar10'
  ),
  dict(
    arg='part=sealed_colour', table='Whole trainings, sealed', needs='cifar10'
  ),
)
_CLIP = dict(before=(dict(name='clip_batch', max_norm=0.2),))
_DIGITS = (
  (),
  *common.strengths('gaussian', stddev=(0.01,)),
  *common.strengths('laplace', scale=(0.01,)),
  *common.strengths('sparsify', drop=(0.99,)),
  *common.strengths('grad_perturb', epsilon=(1.0,)),
  *common.strengths('ppdl', theta=(0.5,), early_exit=True),
  *common.strengths('discretize_first', bins=(12, 6)),
  *common.strengths('randomized_response', epsilon=(1.0,)),
  *common.strengths('coae', confusion=(0.0, 1.0)),
  (dict(name='coae', confusion=1.0), dict(name='permutation', seed=11)),
)
_ATTACKS = (
  dict(name='history.gaussian_process'),
  dict(name='scores.direct'),
  dict(name='history.clusters'),
  dict(name='history.true_labels', known=('pool', 'labels')),
)
_TOLD = dict(name='history.gaussian_process', known=('pool', 'defense'))
_LAWS = 'laplace', 'grad_perturb'  # noise whose form the process can use
_SEALED = (
  dict(name='history.gaussian_process'),
  dict(name='linear.least_squares'),
  dict(name='history.true_labels', known=('pool', 'labels')),
)
_NETWORK = (
  dict(name='history.classifier'),
  dict(name='linear.expectation_propagation'),
  dict(name='history.true_labels', learner='network', known=('pool', 'labels')),
)
_MNIST = (
  (),
  *common.strengths('laplace', scale=(1e-3,), **_CLIP),
  *common.strengths('gaussian', stddev=(1e-2,), **_CLIP),
  *common.strengths('sparsify', drop=(0.99,)),
  *common.strengths('grad_perturb', epsilon=(1.0,)),
  *common.strengths('coae', confusion=(0.5,)),
)
# MARVELL's are two, as published and as it fits a sum of logits.
_BINARY = (
  (),
  *common.strengths('marvell', s=(1.0, 4.0, 10.0)),
  *common.strengths('marvell', s=(1.0, 4.0, 10.0), isotropic=False),
)

_FRESH = 6  # seeds 0 to 5 of these parts were seen while attacks were made
_PARTS = (
  *('digits', 'mnist', 'binary', 'sealed', 'sealed_wide', 'sealed_mnist'),
  *('sealed_grey', 'sealed_colour'),
)
_RATES = (0.01, 0.001)  # at the larger, units of a bottom die


def _coarsen(attack):
  """Returns an attack of few anchors, if it has any."""
  is_kernel = attack['name'].startswith('history.')
  is_kernel &= attack['name'] != 'history.classifier'
  is_kernel &= attack.get('learner') != 'network'
  return dict(attack, anchors=200) if is_kernel else attack


def _points(defenses):
  """Returns points of defenses, and who is told the law of their noise."""
  told = lambda defense: any(d['name'] in _LAWS for d in defense[-1:])
  return tuple(
    dict(defense=d, attacks=(*_ATTACKS, _TOLD) if told(d) else _ATTACKS)
    for d in defenses
  )


def get_config(arg=None):
  arg = common.parse_arg(arg, part=_PARTS)
  config = common.vfl('whole_training')
  config.experiment = 'vfl.whole_training'
  config.aggregate = dict(name='plaintext')
  config.known = ('pool',)
  config.attacks = _ATTACKS
  config.trials = 3
  config.after = (1, 10)
  config.optimizer = dict(name='adam', lr=0.01)
  if arg['part'].startswith('sealed'):
    config.aggregate = dict(name='ideal')
    config.known = 'pool', 'bottom'
    config.attacks = _SEALED
  if arg['part'] == 'digits':
    common.train(config, batch_size=128, epochs=10)
    config.after = (1, 2, 3, 5, 10)
    config.sweep = (_points(_DIGITS),)
  elif arg['part'] == 'sealed':
    config.seed = _FRESH
    common.train(config, batch_size=128, epochs=10)
    config.after = (1, 2, 3, 5, 10)
    config.sweep = (('defense', _DIGITS[:2]),)
  elif arg['part'] == 'sealed_wide':
    config.seed = _FRESH
    common.train(config, batch_size=512, epochs=5)
    config.after = (1, 5)
    config.attacks = (dict(name='history.classifier'), *_SEALED)
    config.sweep = (('defense', _DIGITS[1:2]),)
  elif arg['part'] == 'sealed_mnist':
    datasets.use(config, 'mnist')
    common.train(config, batch_size=1024, epochs=5)
    config.attacks = _NETWORK
    config.after = (1, 5)
  elif arg['part'] == 'sealed_grey':
    datasets.use(config, 'cifar10', grey=True, crop=28)
    config.dataset.split = 'train[:10240]'
    common.train(config, batch_size=1024, epochs=1)
    config.attacks = _NETWORK
    config.after = (1,)
    config.sweep = (('optimizer.lr', _RATES),)
  elif arg['part'] == 'sealed_colour':
    datasets.use(config, 'cifar10')
    config.dataset.split = 'train[:2560]'
    config.model = dict(name='resnet.resnet20', shortcut='pad')
    common.train(config, batch_size=128, epochs=1)
    config.attacks = (_SEALED[0], *_NETWORK)
    config.after = (1,)
    config.trials = 1
    config.sweep = (('optimizer.lr', _RATES),)
  elif arg['part'] == 'binary':
    datasets.use(config, 'mnist')
    config.classes = 2
    config.optimizer = dict(name='adam', lr=0.001, decay='epoch')
    common.train(config, batch_size=1024, epochs=30, shuffle=False)
    config.after = (1, 30)
    config.sweep = (_points(_BINARY),)
  else:
    datasets.use(config, 'mnist')
    config.optimizer.decay = 'epoch'
    common.train(config, batch_size=1024, epochs=30, shuffle=False)
    config.after = (1, 5, 30)
    config.sweep = (_points(_MNIST),)
  if arg['runlocal']:
    config.attacks = tuple(map(_coarsen, config.attacks))
    common.shrink(
      config,
      training=dict(batch_size=128, epochs=2),
      model=dict(name='mlp.mlp2'),
      after=(1, 2),
      sweep=(('defense', _DIGITS[:2]),),
    )
  return config
