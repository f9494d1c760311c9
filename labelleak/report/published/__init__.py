"""Published numbers, served as rates, and the rows that answer them.

They stand in CSV files of one header (see `cells`), copied as printed:

llbg.csv: Gat and Sharif, "Harmful Bias" (AISec 2024), Tables 1 to 14. The last
metric of Table 10 goes by the name of what its code computes: CW-SSIM, not
SSIM.

bli.csv: Liu, Zou et al., "Batch Label Inference and Replacement Attacks in
Black-Boxed Vertical Federated Learning", Tables 2 and 3, and two records of
VFLAIR. In Table 3, which sub-rows of CoAE belong to which attack and lambda2 is
inferred from their order, and the setting of direct inference from Table 6 of
Fu et al.

vflair.csv: VFLAIR's records of defenses on MNIST (June 2023, later deleted from
it): MLP2 bottoms, 30 epochs of Adam at .01 (two classes: .001) over the root of
the epoch, no shuffling, means over five seeds. The last table, mean DCS, is
matched to no row (see `judging`).

fu.csv: Fu et al., "Label Inference Attacks Against Vertical Federated Learning"
(USENIX Security 2022), Tables 2 to 4 and 6 and the supplement's Figure 2. Which
epoch Tables 2 to 4 report is not stated; the released code keeps the one that
the true labels choose. PPDL and discretisation are those of the released code.

coae.csv: encoders of CoAE. The BLI paper ships weights, no training: `shipped`
measures them; `recipe` is what training by the loss read from them gives (full
batch, Adam at 1e-3), worked out in our reference before this code.
"""

import re
from typing import Any, Optional

from labelleak.report.published import cells
from labelleak.report.published.cells import Cell, Table

_ALL = cells.read()
# Those that rows can answer.
TABLES = tuple(
  t for t in _ALL.values() if all(cell.metric for cell in t.cells.values())
)
# What an absent fact of a row counts as.
_NONE = dict(top='sum', code='none', penalty='none', defense='none')
_NUMBER = re.compile(r'=(\d+(?:\.\d*)?(?:e[+-]?\d+)?)(?![\w.])')


def table(name: str) -> Table:
  """Returns a table by its name in the CSV files, such as 'llbg Table 7'."""
  return _ALL[name]


def match(row: dict) -> Optional[dict]:
  """Returns a row's `paper` field: metric -> published cell, or None.

  `substitute` marks a cell that was published for other data than the row's.
  """
  paper = {}
  for cell in (c for t in TABLES for c in t.cells.values()):
    if cell.metric not in paper and holds(cell, row):
      paper[cell.metric] = dict(
        mean=cell.mean,
        std=cell.std,
        source=cell.source,
        substitute=substitute(row),
      )
  return paper or None


def holds(cell: Cell, row: dict) -> bool:
  """Tells whether a row measures what a cell reports, up to substitute data.

  What is of the model, not of an attack, is asked of rows that measured it.
  """
  if cell.attack is None:
    return cell.metric in row.get('metrics', ()) and fits(cell, row)
  same = row['attack'] == cell.attack
  return same and row['attack_args'] == cell.attack_args and fits(cell, row)


def fits(cell: Cell, row: dict) -> bool:
  """Tells whether a row has the setting of a cell, whatever its attack."""
  setting = _NONE | row.get('setting', {})
  return all(_same(setting.get(k), v) for k, v in cell.setting.items())


def _same(ours: Any, theirs: Any) -> bool:
  """Equality; numbers within a text may be written as 1 or 1.0."""
  if not (isinstance(ours, str) and isinstance(theirs, str)):
    return ours == theirs
  plain = lambda match: f'={float(match[1])!r}'
  return re.sub(_NUMBER, plain, ours) == re.sub(_NUMBER, plain, theirs)


def substitute(row: dict) -> bool:
  """Tells whether other data or another model stand for the published ones."""
  setting = row['setting']
  data, model = (setting.get(k, row[k]) for k in ('data', 'model'))
  same_data = row['data'].split()[0] == data.split()[0]
  return not (same_data and row['model'] == model)
