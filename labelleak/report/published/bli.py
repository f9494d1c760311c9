"""Published numbers on label inference without labels in vertical FL.

Table 2 of Liu, Zou et al., "Batch Label Inference and Replacement Attacks in
Black-Boxed Vertical Federated Learning": gradient inversion by batch size, two
parties, untrained ResNet20 bottoms. MNIST: the records that VFLAIR once held,
MLP2 bottoms, B=1024, five seeds, at the first batch.
"""

from labelleak.report.published.cells import Cell, Table

_BESIDE = 'linear.full', 'scores.random'
_BATCH = dict(
  top='sum', split='vertical.rows', num_classes=10, step=0, defense='none'
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
        model='resnet.resnet20(shortcut=pad)',
        batch_size=size,
      ),
      {},
      rate,
      None,
    )
    for size, rate in rates.items()
  ]


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
          data='mnist',
          model='mlp.mlp2',
          top='sum',
          split='vertical.rows',
          num_classes=10,
          step=900,
          aggregate='sealed',
          defense='none',
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
)
