"""Model completion and defenses against direct inference: Fu et al.

"Label Inference Attacks Against Vertical Federated Learning" (USENIX Security
2022). Tables 2 to 4: labels of training rows and of test rows by a completed
bottom, and what the joint model itself has. The epoch that the tables report is
not stated; the released code keeps the one that the true labels choose.

Figure 2 of the supplement: layers moved between bottoms and top, active attack;
read from the vector plot. At the published depth its test rows on CIFAR-10 are
those that Table 2 has for the passive attack, and BHI differs from Table 2.

Table 6: CIFAR-10, ResNet-20 bottoms on image halves (left and right), logits
added, B=32, 100 epochs; labels by the first negative entry, in the first epoch.
What the table calls a compression rate is the share that is kept. PPDL is that
of the released code, which exits early; discretisation is its fixed bound.
"""

from labelleak.report.published import named
from labelleak.report.published.cells import Cell, Table

SETTING = dict(
  data='cifar10',
  model='resnet.resnet20(shortcut=pad)',
  num_classes=10,
  split='splits.columns',
  batch_size=32,
)
DIRECT = 'scores.direct', dict(rule='first_negative')
BOUND = 0.03  # of the discretisation, about 1 / B

# label, defense, accuracy of the model, of the attack
_LINES = (
  ('none', named.NONE, None, 1.0),
  ('noise 1e-4', named.sent('laplace(scale=0.0001)'), 0.8347, 0.8063),
  ('noise 1e-3', named.sent('laplace(scale=0.001)'), 0.8318, 0.4906),
  ('noise 1e-2', named.sent('laplace(scale=0.01)'), 0.7191, 0.2452),
  ('noise 1e-1', named.sent('laplace(scale=0.1)'), 0.1000, 0.1265),
  ('keep 75%', named.keep_largest(0.75), 0.8248, 0.9997),
  ('keep 50%', named.keep_largest(0.5), 0.8259, 0.9931),
  ('keep 25%', named.keep_largest(0.25), 0.8049, 0.9245),
  ('keep 10%', named.keep_largest(0.1), 0.1000, 0.0058),
  ('PPDL 0.75', named.ppdl(0.75), 0.8189, 0.3904),
  ('PPDL 0.50', named.ppdl(0.5), 0.8216, 0.3891),
  ('PPDL 0.25', named.ppdl(0.25), 0.1993, 0.0972),
  ('PPDL 0.10', named.ppdl(0.1), 0.1000, 0.0430),
  ('N=24', named.discretize_fixed(24, BOUND), 0.8145, 0.9763),
  ('N=18', named.discretize_fixed(18, BOUND), 0.7962, 0.9330),
  ('N=12', named.discretize_fixed(12, BOUND), 0.7471, 0.9399),
  ('N=6', named.discretize_fixed(6, BOUND), 0.6575, 0.9087),
)


_BHI = dict(batch_size=32, epochs=10)
_CRITEO = dict(batch_size=100, epochs=5, iterations=900)
_RESNET = 'resnet.resnet20(init=fan_in, shortcut=pad)'
# name: setting, arguments of the attacks, metric; passive and active on
# training rows, on test rows; the model under neither and under the active one
_COMPLETED = {
  'CIFAR-10': (
    (dict(data='cifar10', model=_RESNET, labelled=40), {}, 'accuracy'),
    (0.8024, 0.8484, 0.6299, 0.6342, 0.8280, 0.8139),
  ),
  'CIFAR-100': (
    (dict(data='cifar100', model=_RESNET, labelled=400), {}, 'top5_accuracy'),
    (0.6267, 0.6732, 0.4319, 0.4700, 0.7511, 0.7500),
  ),
  'CINIC-10': (
    (dict(data='cinic10', model=_RESNET, labelled=40), {}, 'accuracy'),
    (0.7206, 0.7818, 0.5440, 0.5995, 0.7369, 0.7400),
  ),
  'Yahoo Answers': (
    (
      dict(data='yahoo_answers', model='bert.base', labelled=100),
      dict(epochs=10, iterations=1000),
      'accuracy',
    ),
    (0.6335, 0.6424, 0.6370, 0.6419, 0.7167, 0.7120),
  ),
  'Criteo': (
    (dict(data='criteo', model='mlp.fcnn', labelled=100), _CRITEO, 'accuracy'),
    (0.6828, 0.6879, 0.6785, 0.6830, 0.7132, 0.7128),
  ),
  'BHI': (
    (
      dict(data='breast_histopathology x2', model=_RESNET, labelled=70),
      _BHI,
      'f1',
    ),
    (0.7614, 0.7824, 0.7519, 0.7673, 0.8340, 0.8504),
  ),
}
# known labels: passive and untrained bottom, on training and on test rows
_KNOWN = {
  10: (0.6554, 0.5235, 0.1157, 0.1138),
  20: (0.7080, 0.5542, 0.1187, 0.1166),
  40: (0.8024, 0.6299, 0.1698, 0.1683),
  120: (0.8406, 0.6305, 0.1866, 0.1846),
  320: (0.8544, 0.6392, 0.3286, 0.3218),
}
_LONGER = 'cut.chain(first={}, then=mlp.bn_mlp(widths=[{}]), width={})'
# data: setting but for the model, arguments, metric; model by depth
_CUT = {
  'CIFAR-10': (
    (dict(data='cifar10', labelled=40), {}, 'accuracy'),
    {20: _RESNET, 22: _LONGER.format(_RESNET, 10, 10)},
  ),
  'Criteo': (
    (dict(data='criteo', labelled=100), _CRITEO, 'accuracy'),
    {
      1: 'mlp.fcnn(widths=[])',
      2: 'mlp.fcnn(widths=[64])',
      3: 'mlp.fcnn',
      4: 'mlp.fcnn(widths=[64, 16, 4])',
      5: 'mlp.fcnn(widths=[64, 16, 4, 4])',
    },
  ),
  'BHI': (
    (dict(data='breast_histopathology x2', labelled=70), _BHI, 'f1'),
    {20: _RESNET, 22: _LONGER.format(_RESNET, 5, 5)},
  ),
}
_STAGES = {1: 0, 7: 1, 13: 2}  # of a ResNet20 in a bottom, by depth
# depth: attack on training rows, on test rows; the model
_DEPTHS = {
  'CIFAR-10': {
    1: (0.1668, 0.1512, 0.8704),
    7: (0.2538, 0.2399, 0.8530),
    13: (0.3107, 0.3037, 0.8449),
    20: (0.8484, 0.6299, 0.8139),
    22: (0.9356, 0.6732, 0.8137),
  },
  'Criteo': {
    1: (0.6324, 0.6378, 0.7024),
    2: (0.6534, 0.6578, 0.7186),
    3: (0.6879, 0.6830, 0.7128),
    4: (0.6901, 0.6879, 0.7139),
    5: (0.6879, 0.6897, 0.7128),
  },
  'BHI': {
    1: (0.7121, 0.7102, 0.8219),
    7: (0.7772, 0.7732, 0.8272),
    13: (0.7982, 0.7892, 0.8343),
    20: (0.7934, 0.7863, 0.8504),
    22: (0.7955, 0.7921, 0.8046),
  },
}


def _depths():
  """The supplement's Figure 2: the active attack by layers of the bottom."""
  cells = {}
  for name, points in _DEPTHS.items():
    (setting, args, metric), models = _CUT[name]
    plain = 'label_accuracy' if metric == 'accuracy' else metric
    metrics = plain, f'test_{metric}', f'main_{metric}'
    for depth, rates in points.items():
      model = models.get(depth) or (
        f'cut.bottom(model={_RESNET}, stages={_STAGES[depth]})'
      )
      for where, asked, rate in zip(
        ('training rows', 'test rows', 'model'), metrics, rates
      ):
        cells[f'{name}, {depth} layers', where] = Cell(
          'fu supplement Figure 2',
          dict(setting, model=model, depth=depth),
          *('completion.active', args, asked),
          rate,
          None,
        )
  return cells


def _completed():
  """Tables 2 and 4: two attacks, on training rows, test rows, the model."""
  cells = {}
  for name, ((setting, args, metric), rates) in _COMPLETED.items():
    plain = 'label_accuracy' if metric == 'accuracy' else metric
    module = 'texts' if setting['model'].startswith('bert') else 'completion'
    rates = iter(rates)
    for where, found in (
      ('training rows', plain),
      ('test rows', f'test_{metric}'),
      ('model', f'main_{metric}'),
    ):
      table = 'fu Table 4' if where == 'model' else 'fu Table 2'
      for attack in ('passive', 'active'):
        asked = f'{module}.{attack}', args, found
        cell = Cell(table, setting, *asked, next(rates), None)
        cells[name, f'{attack}, {where}'] = cell
  return cells


def _known():
  """Table 3: the number of known labels, CIFAR-10."""
  cells = {}
  for labelled, rates in _KNOWN.items():
    setting = dict(data='cifar10', model=_RESNET, labelled=labelled)
    args = dict(batch_size=10) if labelled == 10 else {}
    rates = iter(rates)
    for attack in ('passive', 'semi_supervised'):
      for where, metric in (
        ('training rows', 'label_accuracy'),
        ('test rows', 'test_accuracy'),
      ):
        asked = f'completion.{attack}', args, metric
        cell = Cell('fu Table 3', setting, *asked, next(rates), None)
        cells[f'{labelled} labels', f'{attack}, {where}'] = cell
  return cells


def _cells():
  cells = {}
  for label, defense, main, attack in _LINES:
    where = 'fu Table 6', SETTING | defense
    if main is not None:
      cell = Cell(*where, None, {}, 'main_accuracy', main, None)
      cells[label, 'main'] = cell
    cell = Cell(*where, *DIRECT, 'label_accuracy', attack, None)
    cells[label, 'direct'] = cell
  return cells


TABLES = (
  Table(
    'Fu Tables 2 and 4: model completion, F1 on BHI, top 5 on CIFAR-100',
    _completed(),
    ('completion.semi_supervised', 'scores.random'),
  ),
  Table(
    'Fu Table 3: model completion by known labels, CIFAR-10',
    _known(),
    ('scores.random',),
  ),
  Table(
    'Fu supplement Figure 2: the active attack by depth of the bottom',
    _depths(),
    ('completion.passive', 'scores.random'),
  ),
  Table(
    'Fu Table 6: defenses against direct inference, CIFAR-10, B=32',
    _cells(),
    ('scores.direct', 'scores.random'),
  ),
)
