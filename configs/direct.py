"""White-boxed vertical FL: labels from each example's own cut gradient.

Direct inference with 10 classes, by the smallest entry (argmin) and by the
published rule (the first negative entry); norm and direction scores between two
classes.
"""

from configs import common, datasets

HEAD = (
  dict(table="VFLAIR's record, on digits", minutes=1),
  dict(arg='part=mnist', table="VFLAIR's record", minutes=1, needs='mnist'),
)
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
  arg = common.parse_arg(arg, part=('digits', 'mnist'))
  config = common.vfl('direct')
  config.aggregate = dict(name='plaintext')
  if arg['part'] == 'mnist':
    datasets.use(config, 'mnist')
    config.batch_size = 1024
  config.trials = 30
  config.sweep = (
    (
      dict(classes=10, attacks=_DIRECT),
      dict(classes=2, attacks=_BINARY),
    ),
  )
  return common.shrink(config, batch_size=128) if arg['runlocal'] else config
