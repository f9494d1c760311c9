"""Published numbers, served as rates, and the rows that answer them."""

import re
from typing import Any, Optional

from labelleak.report.published import bli, coae, fu, llbg, named, vflair
from labelleak.report.published.cells import Cell

TABLES = (
  *llbg.TABLES,
  *bli.TABLES,
  *vflair.TABLES,
  *fu.TABLES,
  *coae.TABLES,
)
_NUMBER = re.compile(r'=(\d+(?:\.\d*)?(?:e[+-]?\d+)?)(?![\w.])')


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
  """Whether a row measures what a cell reports, up to substitute data.

  What is of the model, not of an attack, is asked of rows that measured it.
  """
  if cell.attack is None:
    return cell.metric in row.get('metrics', ()) and fits(cell, row)
  same = row['attack'] == cell.attack
  return same and row['attack_args'] == cell.attack_args and fits(cell, row)


def fits(cell: Cell, row: dict) -> bool:
  """Whether a row has the setting of a cell, whatever its attack."""
  setting = named.NONE | row.get('setting', {})
  return all(_same(setting.get(k), v) for k, v in cell.setting.items())


def _same(ours: Any, theirs: Any) -> bool:
  """Equality; numbers within a text may be written as 1 or 1.0."""
  if not (isinstance(ours, str) and isinstance(theirs, str)):
    return ours == theirs
  plain = lambda match: f'={float(match[1])!r}'
  return re.sub(_NUMBER, plain, ours) == re.sub(_NUMBER, plain, theirs)


def substitute(row: dict) -> bool:
  """Whether other data or another model stand for the published ones."""
  setting = row['setting']
  data, model = (setting.get(k, row[k]) for k in ('data', 'model'))
  same_data = row['data'].split()[0] == data.split()[0]
  return not (same_data and row['model'] == model)
