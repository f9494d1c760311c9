"""Rows for tests, as `experiments.result.row` writes them."""

from labelleak import spec
from labelleak.experiments.result import Setting
from labelleak.report import published

HORIZONTAL = Setting(
  data='cifar100',
  model=dict(name='vgg.vgg19'),
  num_classes=100,
  batch_size=128,
  trained=False,
  extra=dict(local_steps=10, clients=1, partition='unbalanced'),
)
VERTICAL = Setting(
  data='mnist',
  model=dict(name='mlp.mlp2'),
  num_classes=10,
  batch_size=1024,
  trained=False,
  extra=dict(
    top='sum',
    split=dict(name='splits.rows'),
    attacker=0,
    draw='first',
    step=0,
    aggregate=dict(name='plaintext'),
  ),
)
BACKDOOR = Setting(
  data='digits',
  model=dict(name='mlp.mlp2'),
  num_classes=10,
  batch_size=64,
  trained=True,
  extra=dict(
    top='sum', split=dict(name='splits.rows'), aggregate=dict(name='ideal')
  ),
)


def summary(mean, std=0.0, stderr=0.0):
  return dict(mean=mean, std=std, stderr=stderr)


def gaussian(stddev):
  return dict(name='gaussian', stddev=stddev)


def row(
  attack,
  metrics,
  base,
  *,
  setting=None,
  args=None,
  point=None,
  known=(),
  config='c',
  trials=100,
  seed=0,
  **figures,
):
  """A row of a `Setting` of which `setting` changes facts, or adds them."""
  changes = setting or {}
  required = {k: v for k, v in changes.items() if k in Setting._fields}
  more = {k: v for k, v in changes.items() if k not in Setting._fields}
  base = base._replace(extra={**base.extra, **more}, **required)
  contents = spec.plain(
    dict(
      config=config,
      point=point or {},
      attack=dict(name=attack, **(args or {})),
      known=known,
      setting=base._asdict(),
      trials=trials,
      seed=seed,
      metrics=metrics,
      **figures,
    )
  )
  return contents | dict(
    paper=published.match(contents),
    seconds=1.0,
    device='d',
    versions={},
    commit='x',
    provenance=None,
  )


def horizontal(attack='counts.llbg', mean=0.9, **fields):
  """A row of horizontal FL in a published setting."""
  spread = summary(mean, 0.01, 0.001)
  metrics = dict(count_accuracy=spread, count_error=spread)
  fields.setdefault('known', ['lr', 'steps', 'clients', 'defense', 'model'])
  return row(attack, fields.pop('metrics', metrics), HORIZONTAL, **fields)


def reconstruction(labels='counts.llbg', **args):
  """A row of restored images in the setting of LLBG Table 10."""
  return row(
    'reconstruction.inverting_gradients',
    dict(mse=summary(0.0144, 0.0055, 0.001)),
    HORIZONTAL,
    args=dict(labels=labels, **args),
    known=['model'],
    setting=dict(
      model=dict(name='mlp.mlp', activation='tanh'), batch_size=4, local_steps=1
    ),
  )


def vertical(attack, accuracy, main=None, defense=(), **fields):
  """A row of vertical FL in a published setting; `main` of its model."""
  metrics = dict(
    label_accuracy=summary(accuracy),
    permuted_label_accuracy=summary(max(accuracy, 0.2)),
  )
  metrics |= fields.pop('metrics', {})
  if main is not None:
    metrics['main_accuracy'] = summary(main, 0.001)
  facts = dict(defense=defense) | fields.pop('setting', {})
  fields = dict(config='v', trials=5, known=['bottom']) | fields
  fields.setdefault('point', dict(defense=defense))
  return row(attack, metrics, VERTICAL, setting=facts, **fields)


def backdoor(name='backdoor.backdoor', rate=0.7, main=0.9, **fields):
  """A row of a replacement attack on a model of its own."""
  gamma = fields.pop('gamma', None)
  metrics = dict(
    backdoor_rate=summary(rate, 0.05, 0.02),
    backdoor_count=summary(rate, 0.05, 0.02),
    main_accuracy=summary(main, 0.05, 0.02),
    norm_shift=summary(1.234, 0.05, 0.02),
  )
  args = {} if gamma is None else dict(gamma=gamma)
  fields = dict(config='backdoor', trials=10) | fields
  return row(name, metrics, BACKDOOR, args=args, **fields)


def examples(plain, triggered, label, target, taken_for):
  return dict(
    label=label,
    target=target,
    plain=plain.tolist(),
    triggered=triggered.tolist(),
    taken_for=taken_for,
  )
