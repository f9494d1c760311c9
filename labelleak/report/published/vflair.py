"""VFLAIR's records of defenses on MNIST (June 2023, later deleted from it).

MLP2 bottoms on image halves, logits added, B=1024, 30 epochs of Adam at .01
(two classes: .001) over the root of the epoch, no shuffling; the first batch is
attacked before the first step. Means over five seeds. MP is the accuracy of the
joint model on test rows, with 10 classes and with 2; BLI and DLI are attack
accuracies with 10 classes; NS and DS are those of the norm and the direction
score between digits 0 and 1, NS folded to max(acc, 1 - acc) for each seed,
which is `permuted_label_accuracy`. T_DCS is the mean DCS of these four, each
against the MP of its own number of classes (see `judging`).
"""

from typing import NamedTuple, Optional

from labelleak.report.published import named
from labelleak.report.published.cells import Cell, Table


class Record(NamedTuple):
  """One line of the records."""

  defense: str
  strength: Optional[float]
  mp10: float
  bli: float
  bli_sd: float
  dli: float
  mp2: float
  ns: float
  ds: float
  t_dcs: float


_LINES = """
None,None,0.9746,0.9965,0.0013,1.0000,0.9995,0.8080,1.0000,0.5987
LaplaceDP,0.0001,0.9736,0.9691,0.0108,0.4754,0.9994,0.6699,0.9990,0.6516
LaplaceDP,0.001,0.9564,0.4143,0.0358,0.1711,0.9991,0.5305,0.6213,0.7717
LaplaceDP,0.01,0.9100,0.1156,0.0108,0.1078,0.9990,0.5332,0.4951,0.8252
LaplaceDP,0.1,0.8671,0.1012,0.0126,0.0990,0.9990,0.5338,0.4949,0.8217
GaussianDP,0.0001,0.9740,0.9908,0.0027,0.5307,0.9994,0.7299,0.9998,0.6401
GaussianDP,0.001,0.9621,0.4955,0.0245,0.1797,0.9992,0.5211,0.5533,0.7692
GaussianDP,0.01,0.9234,0.1430,0.0204,0.1070,0.9991,0.5279,0.4955,0.8236
GaussianDP,0.1,0.8734,0.1129,0.0056,0.0988,0.9990,0.5281,0.4971,0.8196
GS,95.0,0.9747,0.3391,0.0388,0.5525,0.9995,0.5551,0.4629,0.7493
GS,97.0,0.9730,0.2803,0.0327,0.3730,0.9995,0.5432,0.4629,0.7754
GS,99.0,0.9471,0.1869,0.0179,0.1977,0.9994,0.5396,0.4629,0.8089
GS,99.5,0.9030,0.1572,0.0031,0.1439,0.9994,0.5383,0.4629,0.8167
GradPerturb,0.01,0.8679,0.1012,0.0053,0.1039,0.9989,0.5389,0.5059,0.8178
GradPerturb,0.1,0.8934,0.1172,0.0116,0.1070,0.9990,0.5391,0.5086,0.8203
GradPerturb,1.0,0.9391,0.2912,0.0383,0.1400,0.9991,0.5387,0.5213,0.7976
GradPerturb,10.0,0.9699,0.8658,0.0116,0.3045,0.9992,0.5666,0.9822,0.6868
dCor,0.0001,0.9730,0.9963,0.0017,1.0000,0.9993,0.8078,1.0000,0.5987
dCor,0.01,0.9256,0.9973,0.0014,1.0000,0.9990,0.7953,1.0000,0.5994
dCor,0.1,0.9082,0.7834,0.0568,0.4047,0.9990,0.5701,0.9045,0.6851
dCor,0.3,0.8730,0.3459,0.0432,0.2055,0.9989,0.5473,0.7785,0.7558
CAE,0.0,0.9740,0.0891,0.0186,0.0000,0.9995,0.8080,1.0000,0.7906
CAE,0.1,0.9674,0.1229,0.0460,0.0000,0.9995,0.8080,1.0000,0.7843
CAE,0.5,0.9300,0.1043,0.0206,0.0000,0.9995,0.8080,1.0000,0.7793
CAE,1.0,0.9280,0.1135,0.0281,0.0000,0.9995,0.8006,1.0000,0.7782
DCAE,0.0,0.9489,0.0891,0.0153,0.0529,0.9994,0.5766,1.0000,0.7987
DCAE,0.1,0.9374,0.1033,0.0448,0.0477,0.9994,0.6037,1.0000,0.7934
DCAE,0.5,0.9283,0.0941,0.0251,0.0000,0.9995,0.5762,1.0000,0.7989
DCAE,1.0,0.9277,0.1012,0.0151,0.0000,0.9985,0.6176,1.0000,0.7942
MID_Active,0.0,0.9589,0.1246,0.0064,0.1035,0.9991,0.5488,0.4506,0.8321
MID_Active,1e-08,0.9590,0.1246,0.0064,0.1035,0.9991,0.5488,0.4535,0.8318
MID_Active,1e-06,0.9595,0.1246,0.0064,0.1035,0.9991,0.5488,0.4535,0.8318
MID_Active,0.0001,0.9572,0.1244,0.0066,0.1033,0.9991,0.5490,0.4535,0.8317
MID_Active,0.01,0.9125,0.1254,0.0067,0.1016,0.9991,0.5480,0.4701,0.8259
MID_Active,0.1,0.8889,0.0994,0.0063,0.1197,0.9991,0.5520,0.5529,0.8147
MID_Active,1.0,0.8896,0.1098,0.0061,0.0930,0.9991,0.5711,0.5252,0.8176
MID_Active,100,0.8894,0.1160,0.0147,0.0902,0.9991,0.5373,0.5223,0.8205
MID_Active,10000,0.8892,0.1150,0.0082,0.0902,0.9991,0.5375,0.5223,0.8205
"""

_WRITTEN = {
  'None': lambda _: named.NONE,
  'LaplaceDP': named.laplace,
  'GaussianDP': named.gaussian,
  'GS': named.sparsify,
  'GradPerturb': named.grad_perturb,
  'dCor': named.distance_correlation,
  'CAE': named.coded,
  'DCAE': lambda confusion: named.coded(confusion, named.DISCRETE),
  'MID_Active': named.mid,
}
_FIRST_BATCH = dict(
  data='mnist',
  model='mlp.mlp2',
  split='splits.rows',
  batch_size=1024,
  step=0,
  draw='first',
  observed=None,  # one step, one epoch
)
_DIRECT = 'scores.direct', dict(rule='first_or_any')


def _record(line):
  defense, strength, *numbers = line.split(',')
  strength = None if strength == 'None' else float(strength)
  return Record(defense, strength, *map(float, numbers))


def _table(title, num_classes, columns, beside):
  """`columns`: name -> (attack, arguments, metric, field, field of the sd)."""
  cells = {}
  for record in RECORDS:
    label = record.defense
    if record.strength is not None:
      label += f' {record.strength:g}'
    setting = dict(_FIRST_BATCH, num_classes=num_classes)
    setting |= _WRITTEN[record.defense](record.strength)
    for name, (attack, args, metric, field, sd) in columns.items():
      mean, std = getattr(record, field), getattr(record, sd) if sd else None
      cells[label, name] = Cell(
        'bli record', setting, attack, args, metric, mean, std
      )
  return Table(f'VFLAIR records: MNIST, {title}, B=1024', cells, beside)


RECORDS = tuple(map(_record, _LINES.split()))

TABLES = (
  _table(
    '10 classes',
    10,
    {
      'main': (None, {}, 'main_accuracy', 'mp10', None),
      'BLI': ('inversion.batch', {}, 'label_accuracy', 'bli', 'bli_sd'),
      'DLI': (*_DIRECT, 'label_accuracy', 'dli', None),
    },
    ('linear.full', 'scores.random'),
  ),
  _table(
    'digits 0 and 1',
    2,
    {
      'main': (None, {}, 'main_accuracy', 'mp2', None),
      'NS, folded': ('scores.norm', {}, 'permuted_label_accuracy', 'ns', None),
      'DS': ('scores.cosine', {}, 'label_accuracy', 'ds', None),
    },
    ('scores.random',),
  ),
)
