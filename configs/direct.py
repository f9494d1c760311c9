"""White-boxed vertical FL: labels from each example's own cut gradient.

  python launch.py --config=configs/direct.py             # real digits
  python launch.py --config=configs/direct.py:part=mnist  # ../shared/tfds
  python launch.py --config=configs/direct.py:runlocal    # seconds

Direct inference with 10 classes, by the smallest entry (argmin) and by the
published rule (the first negative entry); norm and direction scores between two
classes. The direction's attacker holds one labelled row of each class.

Published, undefended: direct 1.000 everywhere; MNIST 0 against 1, norm .8080
(after flipping accuracies below a half; .4807 as they came), direction 1.0000.
"""

from configs import common

_DIRECT = (
  dict(name='scores.direct'),
  dict(name='scores.direct', rule='first_negative'),
)
_BINARY = (
  *_DIRECT,
  dict(name='scores.norm'),
  dict(name='scores.cosine', known=('bottom', 'labelled')),
)


def get_config(arg=None):
  arg = common.parse_arg(arg, part='digits', runlocal=False)
  common.check_choice('part', arg['part'], ('digits', 'mnist'))
  config = common.vfl('direct')
  config.aggregate = dict(name='plaintext')
  config.batch_size = 128
  if arg['part'] == 'mnist':
    common.images(config, 'mnist')
    config.batch_size = 1024
  config.trials = 2 if arg['runlocal'] else 30
  config.sweep = ((('classes', 'attacks'), ((10, _DIRECT), (2, _BINARY))),)
  return config
