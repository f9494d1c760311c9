"""Published numbers, served as rates, and the rows that answer them."""

from typing import Optional

from labelleak.report.published import bli, llbg
from labelleak.report.published.cells import Cell

TABLES = (*llbg.TABLES, *bli.TABLES)


def match(row: dict) -> Optional[dict]:
  """A row's `paper` field: metric -> published cell of its setting, or None.

  `substitute` marks a cell that was published for other data than the row's.
  """
  found = {}
  for table in TABLES:
    for cell in table.cells.values():
      if cell.metric not in found and holds(cell, row):
        found[cell.metric] = dict(
          mean=cell.mean,
          std=cell.std,
          source=cell.source,
          substitute=substitute(row),
        )
  return found or None


def holds(cell: Cell, row: dict) -> bool:
  """Whether a row measures what a cell reports, up to substitute data."""
  named = row['attack'] == cell.attack
  return named and row['attack_args'] == cell.attack_args and fits(cell, row)


def fits(cell: Cell, row: dict) -> bool:
  """Whether a row has the setting of a cell, whatever its attack."""
  setting = row.get('setting', {})
  return all(setting.get(k) == v for k, v in cell.setting.items())


def substitute(row: dict) -> bool:
  """Whether other data or another model stand for the published ones."""
  setting = row['setting']
  same_data = row['data'].split()[0] == setting['data'].split()[0]
  return not (same_data and row['model'] == setting['model'])
