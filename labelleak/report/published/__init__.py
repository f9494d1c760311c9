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
matched to no row (see `metrics.significance`).

fu.csv: Fu et al., "Label Inference Attacks Against Vertical Federated Learning"
(USENIX Security 2022), Tables 2 to 4 and 6 and the supplement's Figure 2. Which
epoch Tables 2 to 4 report is not stated; the released code keeps the one that
the true labels choose. PPDL and discretisation are those of the released code.

coae.csv: encoders of CoAE. The BLI paper ships weights, no training: `shipped`
measures them; `recipe` is what training by the loss read from them gives (full
batch, Adam at 1e-3), worked out in our reference before this code.
"""

from typing import Any, Optional

from labelleak.report import facts
from labelleak.report.facts import Row
from labelleak.report.published import cells
from labelleak.report.published.cells import Cell, Table

_ALL = cells.read()
# Those that rows can answer.
TABLES = tuple(
  t for t in _ALL.values() if all(cell.metric for cell in t.cells.values())
)


def table(name: str) -> Table:
  """Returns a table by its name in the CSV files, such as 'llbg Table 7'."""
  return _ALL[name]


def match(row: Row) -> Optional[dict[str, Any]]:
  """Returns a row's `paper` field: metric -> published cell, or None.

  `substitute` marks a cell that was published for other data than the row's.
  """
  papers = {}
  for table in TABLES:
    for cell in table.cells.values():
      if cell.metric not in papers and holds(cell, row):
        papers[cell.metric] = dict(
          mean=cell.mean,
          std=cell.std,
          source=cell.source,
          substitute=is_substitute(row),
        )
  return papers or None


def holds(cell: Cell, row: Row) -> bool:
  """Whether a row measures what a cell reports, up to substitute data.

  What is of the model, not of an attack, is asked of rows that measured it.
  """
  if cell.attack is None:
    return cell.metric in row['metrics'] and fits(cell, row)
  return row['attack'] == cell.attack and fits(cell, row)


def fits(cell: Cell, row: Row) -> bool:
  """Whether a row has the setting of a cell, whatever its attack."""
  setting = dict(top='sum') | facts.setting(row) | row['setting']['stands_for']
  return all(
    _as_spec(setting.get(k)) == _as_spec(v) for k, v in cell.setting.items()
  )


def _as_spec(value: Any) -> Any:
  """Returns a name alone as a spec without arguments."""
  return dict(name=value) if isinstance(value, str) else value


def is_substitute(row: Row) -> bool:
  """Whether other data or another model stand for the published ones."""
  setting = row['setting']
  other = setting | setting['stands_for']
  same_data = setting['data'].split()[0] == other['data'].split()[0]
  same_model = setting['model'] == _as_spec(other['model'])
  return not (same_data and same_model)
