"""Defenses against direct label inference: Table 6 of Fu et al.

"Label Inference Attacks Against Vertical Federated Learning" (USENIX Security
2022): CIFAR-10, ResNet-20 bottoms on image halves (left and right), logits
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
  split='vertical.columns',
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
    'Fu Table 6: defenses against direct inference, CIFAR-10, B=32',
    _cells(),
    ('scores.direct', 'scores.random'),
  ),
)
