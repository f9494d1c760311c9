"""Clients as people run them, drawn at random; most attackers are told nothing.

Ten on each data set: optimizer, b, E, N and the labels' partition, the model
and for how long the server trained it. The published attacks and ours know K
and N alone; ours once more, how the client trains. Clients of seeds 0 and 1
were looked at while `calibrated` was made; those of 2 were not.
"""

import random

from configs import common

HEAD = (
  dict(table='clients at random, on digits'),
  dict(arg='data=mnist', table='clients at random, on MNIST', needs='mnist'),
  dict(
    arg='data=cifar10', table='clients at random, on CIFAR-10', needs='cifar10'
  ),
)
_PATCH = dict(digits=2, mnist=4, cifar10=4)  # of the ViT
# Each with the range of learning rates that people use it at.
_OPTIMIZERS = (
  (dict(name='sgd'), (1e-3, 3e-2)),
  (dict(name='sgd', momentum=0.9), (1e-3, 1e-2)),
  (dict(name='sgd', momentum=0.9, nesterov=True), (1e-3, 1e-2)),
  (dict(name='sgd', momentum=0.9, weight_decay=5e-4), (1e-3, 1e-2)),
  (dict(name='adam'), (1e-4, 1e-3)),
  (dict(name='adamw', weight_decay=1e-2), (1e-4, 1e-3)),
)
_TOLD = 'lr', 'steps', 'client', 'defense'
_ATTACKS = (
  *common.UNTRAINED,
  dict(name='counts.calibrated', known=_TOLD),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, data=tuple(_PATCH), seed=2)
  config = common.hfl('clients')
  config.dataset = dict(name=arg['data'])
  config.known = ()
  config.attacks = _ATTACKS
  config.lr = None
  config.local_steps = None
  config.trials = 10
  config.seed = arg['seed']
  rng = random.Random(f'{arg["data"]} {arg["seed"]}')
  models = _models(_PATCH[arg['data']])
  points = tuple(_draw(rng, models) for _ in range(10))
  if arg['runlocal']:
    common.shrink(config, files=True)
    small = dict(train=None, batch_size=9, model=dict(name='mlp.mlp', width=16))
    points = tuple(point | small for point in points[:2])
  config.sweep = (points,)
  return config


def _models(patch):
  return (
    dict(name='mlp.mlp', width=128),
    dict(name='cnn.cnn', width=32),
    dict(name='resnet.resnet20'),
    dict(name='vit.vit', width=64, heads=4, depth=4, patch=patch),
  )


def _draw(rng, models):
  """Draws a client, and the model that it is sent."""
  optimizer, (slow, fast) = rng.choice(_OPTIMIZERS)
  steps = rng.choice((0, 30, 100, 300))
  client = dict(
    lr=float(f'{slow * (fast / slow) ** rng.random():.1g}'),
    batch_size=rng.choice((8, 16, 32, 64)),
    epochs=rng.choice((1, 1, 2, 5)),
    shuffle=True,
    optimizer=optimizer,
    training_mode=True,
  )
  return dict(
    model=rng.choice(models),
    train=dict(steps=steps, batch_size=64, lr=1e-3) if steps else None,
    client=client,
    batch_size=rng.randint(20, 200),
    partition=rng.choice(('unbalanced', 'iid')),
  )
