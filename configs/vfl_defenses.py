"""Vertical FL under defenses: labels recovered against accuracy kept.

Each trial is one training: its first batch is attacked at the initialisation
and its last model tested, as VFLAIR does. The passive party is shown its cut
gradients, so that one run serves the attacks that read them (direct inference)
and those that read its own gradients alone. `shipped` trains on two codes about
as soft as the encoder that VFLAIR ships for a confusion of .1.
"""

from configs import common, completion_defenses, datasets

_RECORD = "VFLAIR's records"
HEAD = (
  dict(table=f'{_RECORD}, on digits', minutes=25),
  dict(arg='part=mnist', table=_RECORD, minutes=132, needs='mnist'),
  dict(arg='part=shipped', table=_RECORD, minutes=12, needs='mnist'),
  dict(arg='part=binary', table='BLI Figure 7, right', needs='mnist'),
  dict(arg='part=figure7', table='BLI Figure 7, left', needs='mnist'),
  dict(arg='part=cifar10', table='BLI Table 3', needs='cifar10'),
)
_PARTS = ('digits', 'mnist', 'shipped', 'binary', 'figure7', 'cifar10')
_BLIND = (dict(name='linear.full'), dict(name='inversion.batch'))
_DIRECT = (
  dict(name='scores.direct', rule='first_or_any'),
  dict(name='scores.direct', rule='complement'),
)
_BINARY = (
  dict(name='scores.norm'),
  dict(name='scores.norm', across=True),
  dict(name='scores.cosine', known=('bottom', 'labelled')),
)
# What VFLAIR does before noise; at 0.2 it never acts.
_CLIP = dict(before=(dict(name='clip_batch', max_norm=0.2),))
_BINS = dict(name='discretize_first', bins=12)


def _mid(weights, lr):
  """Points of a bottleneck, whose rate is its own."""
  return tuple(
    dict(defense=point, top_optimizer=dict(name='adam', lr=lr))
    for point in common.strengths('mid', weight=weights)
  )


def _points(*defenses):
  return tuple(dict(defense=defense) for defense in defenses)


_CONFUSIONS = (0.0, 0.1, 0.5, 1.0)
_SCALES = (1e-4, 1e-3, 1e-2, 1e-1)
# VFLAIR's records of June 2023, in their order.
_RECORDS = (
  *_points(
    (),
    *common.strengths('laplace', scale=_SCALES, **_CLIP),
    *common.strengths('gaussian', stddev=_SCALES, **_CLIP),
    *common.strengths('sparsify', drop=(0.95, 0.97, 0.99, 0.995)),
    *common.strengths('grad_perturb', epsilon=(0.01, 0.1, 1.0, 10.0)),
    *common.strengths('distance_correlation', weight=(1e-4, 1e-2, 0.1, 0.3)),
    *common.strengths('coae', confusion=_CONFUSIONS),
    *common.strengths('coae', confusion=_CONFUSIONS, after=(_BINS,)),
  ),
  *_mid((0.0, 1e-8, 1e-6, 1e-4, 1e-2, 0.1, 1.0, 100.0, 10000.0), lr=1e-4),
)
# CoAE and DCoAE on codes about as soft as the shipped one of .1.
_CODES = tuple(
  dict(name='derangement', soft=0.13, seed=seed) for seed in (3, 4)
)
_SHIPPED = _points(
  *(
    (code, *rounding)
    for code in _CODES
    for rounding in ((), (_BINS,), (dict(_BINS, bins=6),))
  )
)
# Strengths of Figure 7, left; MARVELL, which tells two classes, aside.
_FIGURE7 = _points(
  (),
  *common.strengths('gaussian', stddev=(1e-3, 1e-2, 1e-1), **_CLIP),
  *common.strengths('sparsify', drop=(0.99, 0.995, 0.997, 0.999)),
  *common.strengths('coae', confusion=(0.05, 0.1, 0.5, 1.0, 2.0)),
)
# Strengths of Figure 7, right: power of the noise by the gradient's.
_MARVELL = _points(
  *(
    (dict(name='marvell', s=s, **options),)
    for s in (0.1, 1.0, 4.0, 10.0)
    for options in ({}, dict(isotropic=False))
  )
)
# One or two strengths of every kind, at the scale of B = 128.
_DIGITS = (
  *_points(
    (),
    *common.strengths('gaussian', stddev=(1e-3, 1e-2)),
    (dict(name='sparsify', drop=0.95),),
    (_BINS,),
    (dict(name='randomized_response', epsilon=1.0),),
    *common.strengths('coae', confusion=(0.0, 1.0)),
    (
      dict(name='coae', confusion=1.0),
      dict(name='permutation', seed=11),
    ),
  ),
  *_mid((0.01,), lr=0.01),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, part=_PARTS)
  part = arg['part']
  config = common.vfl('vfl_defenses')
  config.experiment = 'vfl.privacy_utility'
  config.aggregate = dict(name='plaintext')
  config.attacks = (*_BLIND, *_DIRECT)
  config.optimizer = dict(name='adam', lr=0.01, decay='epoch')
  if part == 'digits':
    common.train(config, batch_size=128, epochs=30)
    config.attacks += (dict(name='decoding.mixture'),)
    points = _DIGITS
  elif part == 'cifar10':
    datasets.use(config, 'cifar10')
    config.model = dict(name='resnet.resnet20', shortcut='pad')
    config.optimizer = dict(name='adam', lr=0.001)
    common.train(config, batch_size=2048, epochs=30, shuffle=False)
    points = _points(*_table3())
  else:
    datasets.use(config, 'mnist')
    common.train(config, batch_size=1024, epochs=30, shuffle=False)
    points = dict(
      mnist=_RECORDS,
      shipped=_SHIPPED,
      figure7=_FIGURE7,
      binary=(*_RECORDS, *_MARVELL),
    )[part]
  if part == 'shipped':
    config.attacks = _DIRECT[:1]
  elif part == 'binary':
    config.classes = 2
    config.optimizer.lr = 0.001
    config.attacks = (*_DIRECT[:1], *_BINARY)
  config.sweep = (points,)
  if arg['runlocal']:
    smoothed = (
      dict(name='smoothing', alpha=0.5),
      dict(name='gaussian', stddev=0.01),
    )
    common.shrink(
      config,
      training=dict(batch_size=64, epochs=2, shuffle=False),
      classes=None,
      attacks=(_BLIND[0], *_DIRECT),
      model=dict(name='mlp.mlp2'),
      sweep=(('defense', ((), smoothed)),),
    )
  return config


def _table3():
  """Columns of Table 3, BLI rows; the noise is Laplace's, as in Figure 7."""
  none, noise, *others = completion_defenses.table3(1e-3, (1.0, 0.5, 0.0))
  return none, (*_CLIP['before'], *noise), *others
