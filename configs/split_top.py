"""A split network with a trainable top, its cut gradients in the clear.

Two bottoms, of a width that is not the number of classes, below a top that is
trained: Flower's vertical example, FATE's hetero-NN, NVFlare's splitnn. A
passive party reads the directions of its cut gradients, after one epoch or over
a whole training, with one labelled row of each class or with none.
"""

from configs import common, datasets

HEAD = (
  dict(table='Trainable tops, digits'),
  dict(arg='part=mnist', table='Trainable tops', needs='mnist'),
  dict(arg='part=cifar10', table='Trainable tops', needs='cifar10'),
)
_LABELLED = 'pool', 'labelled'
_ATTACKS = (
  dict(name='history.directions', known=_LABELLED),
  dict(name='history.directions', visits=1, refine=False, known=_LABELLED),
  dict(name='history.direction_groups'),
  dict(name='history.direction_groups', visits=1),
  dict(name='history.clusters', known=('pool',)),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, part=('digits', 'mnist', 'cifar10'))
  config = common.vfl('split_top')
  config.experiment = 'vfl.whole_training'
  config.aggregate = dict(name='plaintext')
  config.cut_width = 32
  config.top = dict(name='mlp.mlp2')
  config.optimizer = dict(name='adam', lr=0.001)
  config.attacks, config.known = _ATTACKS, ()
  config.trials = 5
  common.train(config, batch_size=128, epochs=20)
  config.after = (1, 5, 20)
  if arg['part'] == 'digits':
    config.sweep = (('optimizer.lr', (0.001, 0.01)),)
  elif arg['part'] == 'mnist':
    datasets.use(config, 'mnist')
    config.dataset.split = 'train[:10240]'
    config.trials = 3
  else:
    datasets.use(config, 'cifar10')
    config.dataset.split = 'train[:10240]'
    config.trials = 3
  if arg['runlocal']:
    config.sweep = ()
    common.shrink(
      config,
      training=dict(batch_size=128, epochs=2),
      model=dict(name='mlp.mlp2'),
      after=(1, 2),
    )
  return config
