"""Label codes: what CoAE does to labels, and who reads them all the same.

The passive party is shown its cut gradients, so that one run serves attacks
that read them and attacks that read its own gradients alone; each attack that
knows of the code stands beside the published one, which does not.
"""

from configs import common, datasets

HEAD = (
  dict(table='VFLAIR, shipped encoders', minutes=2),
  dict(arg='part=figure9', table='BLI Figure 9', minutes=3, needs='cifar10'),
  dict(arg='part=attacks', table='ours', needs='mnist'),
  dict(arg='part=trained', table='ours', needs='mnist'),
  dict(arg='part=accuracy', table='ours', needs='mnist'),
  dict(arg='part=digits', table='ours'),
  dict(arg='part=secrets', table='ours', minutes=3, needs='mnist'),
)
_SHIPPED = {
  2: (0.0, 0.1, 0.5, 1.0),
  5: (0.0, 0.05, 0.1, 0.5, 1.0, 2.0),
  10: (0.0, 0.1, 0.5, 1.0, 2.0),
}
_PARTS = (
  *('statistics', 'figure9', 'attacks', 'trained', 'accuracy', 'digits'),
  'secrets',
)
_SOFT = dict(name='coae', confusion=1.0)
_COMPLEMENT = dict(name='complement')
_RENAMED = dict(name='permutation', seed=11)


def _draw_classes(num):
  """Complementary labels: `num` classes that an example is not of."""
  return _COMPLEMENT, dict(name='draw', num=num)


_TRAINED = ((_SOFT,), _draw_classes(5), (*_draw_classes(5), _RENAMED))
_CODES = (
  *common.strengths('coae', confusion=(0.0, 1.0)),
  (_SOFT, _RENAMED),
  _draw_classes(1),
  *_TRAINED[1:],
)
_ACCURACY = (
  (),
  *common.strengths('coae', confusion=(0.0, 0.1, 0.5, 1.0)),
  (_COMPLEMENT,),
  *(_draw_classes(num) for num in (1, 3, 5)),
  *common.strengths('randomized_response', epsilon=(0.81, 2.2)),
)
_CLEAR = (
  dict(name='scores.direct'),
  dict(name='scores.direct', rule='complement'),
  dict(name='decoding.mixture'),
  dict(name='decoding.drawn', num=5),
)
_FULL = (
  dict(name='linear.full'),
  dict(name='linear.full', code=(_COMPLEMENT,)),
)
_SEALED = (_FULL[0], dict(name='decoding.least_squares'), _FULL[1])
_OWN = (
  dict(name='decoding.logits'),
  dict(name='decoding.logits', code=(_COMPLEMENT,)),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, part=_PARTS)
  part = arg['part']
  config = common.vfl('coae')
  config.aggregate = dict(name='plaintext')
  config.attacks = (*_CLEAR, *_SEALED)
  if part in ('attacks', 'trained', 'accuracy', 'secrets'):
    datasets.use(config, 'mnist')
  if part in ('trained', 'accuracy', 'digits'):
    # At the rates of VFLAIR's record.
    size = 128 if part == 'digits' else 1024
    common.train(config, batch_size=size, epochs=30, shuffle=False)
    config.optimizer = dict(name='adam', lr=0.01, decay='epoch')
  if part == 'statistics':
    config.experiment = 'vfl.label_codes'
    config.attacks = ()
    config.sweep = (
      tuple(
        dict(classes=classes, defense=code)
        for classes, strengths in _SHIPPED.items()
        for code in common.strengths('coae', confusion=strengths)
      ),
    )
  elif part == 'figure9':
    datasets.use(config, 'cifar10', grey=True, crop=28)
    config.attacks = (dict(name='inversion.batch'), *_FULL)
    config.sweep = (
      ('defense', common.strengths('coae', confusion=(0.0, 1.0))),
    )
  elif part == 'attacks':
    points = [
      dict(defense=code, batch_size=size)
      for size in (128, 1024)
      for code in _CODES
    ]
    half = dict(defense=(dict(_SOFT, confusion=0.5),), batch_size=1024)
    config.sweep = ((*points, half),)
  elif part == 'trained':
    config.attacks += _OWN
    config.sweep = (('defense', _TRAINED), ('train.epochs', (1, 30)))
  elif part in ('accuracy', 'digits'):
    config.experiment = 'vfl.training'
    config.attacks = ()
    config.trials = 3
    config.sweep = (('defense', _ACCURACY),)
  else:
    granted = dict(names='granted', known=('bottom', 'labelled'))
    config.attacks = (*_CLEAR, dict(name='decoding.mixture', **granted))
    renamings = [dict(name='permutation', seed=seed) for seed in range(10)]
    config.sweep = (
      ('defense', tuple((_SOFT, renaming) for renaming in renamings)),
    )
  return _runlocal(config) if arg['runlocal'] else config


def _runlocal(config):
  """Hardly trained codes, seconds, no files."""
  quick = dict(_SOFT, steps=200)
  if config.experiment == 'vfl.label_codes':
    points = (
      dict(classes=2, defense=(quick,)),
      dict(classes=5, defense=(quick, _RENAMED)),
    )
    return common.shrink(config, sweep=(points,))
  return common.shrink(
    config,
    training=dict(batch_size=32, steps=5 if config.train.epochs else 0),
    sweep=(('defense', ((quick,),)),),
  )
