"""Published numbers on label inference without labels in vertical FL.

Table 2 of Liu, Zou et al., "Batch Label Inference and Replacement Attacks in
Black-Boxed Vertical Federated Learning": gradient inversion by batch size, two
parties, untrained ResNet20 bottoms. MNIST: the records that VFLAIR once held,
MLP2 bottoms, B=1024, five seeds, at the first batch.

Table 3: DLI and BLI under defenses, CIFAR-10. Which of the sub-rows of CoAE
belongs to which attack and lambda2 is inferred, from their order. Batch
inversion ran at B=2048. No batch size is given for direct inference; its
undefended and plain columns equal Table 6 of Fu et al. to three digits (but for
one model accuracy), so its cells stand at that paper's setting, inferred, too.
"""

from labelleak.report.published import fu, named
from labelleak.report.published.cells import Cell, Table

_BESIDE = 'linear.full', 'scores.random'
_RESNET = 'resnet.resnet20(shortcut=pad)'
_BATCH = dict(
  named.NONE, split='splits.rows', num_classes=10, step=0, observed=None
)


def _inversion(number, name, rows):
  """A table of gradient inversion's accuracy, one line a setting."""
  cells = {
    (label, 'inversion'): Cell(
      f'bli {number}',
      dict(_BATCH, **setting),
      'inversion.batch',
      args,
      'label_accuracy',
      mean,
      std,
    )
    for label, setting, args, mean, std in rows
  }
  return Table(f'BLI {number}: {name}', cells, _BESIDE)


def _cifar(data, num_classes, rates):
  return [
    (
      f'{data}, B={size}',
      dict(
        data=data,
        num_classes=num_classes,
        model=_RESNET,
        batch_size=size,
      ),
      {},
      rate,
      None,
    )
    for size, rate in rates.items()
  ]


# label, (attack, main) of DLI, of BLI: as printed
_DEFENDED = (
  ('none', (1.000, 0.831), (0.893, 0.815)),
  ('NG 0.001', (0.491, 0.832), (0.144, 0.469)),
  ('GC 0.1', (0.006, 0.100), (0.874, 0.182)),
  ('PPDL 0.5', (0.389, 0.826), (0.177, 0.592)),
  ('D-SGD 12', (0.940, 0.747), (0.890, 0.711)),
  ('CoAE 1.0', (0.000, 0.805), (0.247, 0.803)),
  ('CoAE 0.5', (0.001, 0.818), (0.263, 0.806)),
  ('CoAE 0.0', (0.001, 0.828), (0.297, 0.804)),
  ('CoAE 1.0 + D-SGD', (0.000, 0.795), (0.060, 0.725)),
  ('CoAE 0.5 + D-SGD', (0.000, 0.810), (0.060, 0.743)),
  ('CoAE 0.0 + D-SGD', (0.000, 0.826), (0.061, 0.791)),
)


def _written(label, bound, noise):
  """A defense of Table 3; `bound` of D-SGD depends on the batch size."""
  grid = f'discretize_fixed(bins=12, bound={bound})'
  plain = {
    'none': named.NONE,
    'NG 0.001': noise,
    'GC 0.1': named.keep_largest(0.1),
    'PPDL 0.5': named.ppdl(0.5),
    'D-SGD 12': named.sent(grid),
  }
  if label in plain:
    return plain[label]
  _, confusion, *more = label.split()
  return named.coded(float(confusion), *([grid] if more else []))


def _table_3():
  batch = dict(_BATCH, data='cifar10', model=_RESNET, batch_size=2048)
  cells = {}
  for label, direct, inversion in _DEFENDED:
    noise = named.sent('laplace(scale=0.001)')
    known = fu.SETTING | _written(label, fu.BOUND, noise)
    cells |= _pair(label, 'DLI', known, fu.DIRECT, direct)
    known = batch | _written(label, 0.001, named.laplace(0.001))
    cells |= _pair(label, 'BLI', known, ('inversion.batch', {}), inversion)
  title = 'BLI Table 3: DLI and BLI under defenses, CIFAR-10 (rows inferred)'
  return Table(title, cells, _BESIDE)


def _pair(label, name, setting, attack, rates):
  """Accuracy of an attack and of the model that it was run against."""
  metrics = 'label_accuracy', 'main_accuracy'
  return {
    (label, column): Cell('bli Table 3', setting, *attack, metric, rate, None)
    for column, metric, rate in zip((name, f'{name} main'), metrics, rates)
  }


TABLES = (
  _inversion(
    'Table 2',
    'gradient inversion, ResNet20 bottoms, by batch size',
    [
      *_cifar('cifar10', 10, {128: 0.977, 512: 0.934, 2048: 0.893}),
      *_cifar('cifar100', 100, {128: 0.999, 512: 0.969, 2048: 0.922}),
    ],
  ),
  _inversion(
    'MNIST record',
    'gradient inversion, MLP2 bottoms, B=1024',
    [
      (
        'mnist, B=1024',
        dict(data='mnist', model='mlp.mlp2', batch_size=1024, draw='first'),
        {},
        0.9965,
        0.0013,
      )
    ],
  ),
  Table(
    'VFLAIR record: accuracy of the joint model on MNIST',
    {
      ('mnist, 30 epochs', 'joint model'): Cell(
        'bli record',
        dict(
          _BATCH,
          data='mnist',
          model='mlp.mlp2',
          step=900,
          aggregate='ideal',
        ),
        'none',
        {},
        'main_accuracy',
        0.9746,
        None,
      )
    },
    (),
  ),
  _table_3(),
)
