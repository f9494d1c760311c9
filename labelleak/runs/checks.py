"""Whether a workdir holds what was written, and whose it is."""

from collections.abc import Mapping, Sequence
import hashlib
import json
import pathlib
import textwrap
from typing import Any, Optional

import numpy as np

from labelleak.base import InputError
from labelleak.runs.files import ANEW
from labelleak.runs.origin import comparable

Row = Mapping[str, Any]


def parse_rows(path: pathlib.Path) -> list[dict]:
  """Returns the rows of a file; a torn last line is no row.

  Raises:
    InputError: a line that is no row, named by its number.
  """
  lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
  rows = []
  for number, line in enumerate(lines, 1):
    if not line.endswith(b'\n'):
      break
    try:
      rows.append(json.loads(line))
    except ValueError:
      rows.append(None)
    if not isinstance(rows[-1], dict):
      raise InputError(f'{path}, line {number}, is no row; {ANEW}.')
  return rows


def digest(row: Row, i: int, arrays: Mapping[str, np.ndarray]) -> str:
  """Returns what tells row `i` and its values from any other."""
  facts = {k: v for k, v in comparable(row).items() if k != 'provenance'}
  total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  for name, array in sorted(arrays.items()):
    if name.startswith(f'{i}/'):
      total.update(f'{name} {array.dtype} {array.shape}'.encode())
      total.update(array.tobytes())
  return total.hexdigest()[:16]


def check_rows(
  path: pathlib.Path,
  rows: Sequence[Row],
  arrays: Mapping[str, np.ndarray],
  digests: Sequence[str],
) -> int:
  """Returns how many rows are finished: their values were written.

  Rows without values are those of a point that was killed while it was written;
  no kill leaves anything else that does not agree.

  Args:
    path: of the rows.
    rows: of the file.
    arrays: '<row>/<name>' -> values.
    digests: of the rows as they were written; of earlier versions there are
      none.

  Raises:
    InputError: a row that is cut, doubled, changed or without its values.
  """
  places = [name.split('/')[0] for name in arrays]
  if not all(place.isdecimal() for place in places):
    raise InputError(f'{path.parent}/trials.npz holds other arrays; {ANEW}.')
  finished = max(map(int, places), default=-1) + 1
  if len(rows) < finished:
    raise _damage(path, len(rows), 'is missing or cut')
  for i, row in enumerate(rows[:finished]):
    if digests and digests[i] != digest(row, i, arrays):
      raise _damage(path, i, _compare(row, i, arrays) or 'was changed')
  points = [row['point'] for row in rows[:finished]]
  for i, row in enumerate(rows[finished:], finished):
    if row.get('point') in points:
      raise _damage(path, i, 'doubles one of a finished point')
  if not digests:
    _check_unsigned(path, rows[:finished], arrays)
  return finished


def _check_unsigned(path, rows, arrays):
  """Refuses rows that are not of their values, and two of one attack."""
  seen = []
  for i, row in enumerate(rows):
    if difference := _compare(row, i, arrays):
      raise _damage(path, i, difference)
    facts = [row['point'], row['attack'], row.get('known')]
    if facts in seen:
      raise _damage(path, i, 'doubles another')
    seen.append(facts)


def _compare(row, i, arrays) -> Optional[str]:
  """Returns where a row and its values disagree, if they do."""
  for name, summary in row['metrics'].items():
    values = arrays.get(f'{i}/{name}')
    if values is None:
      return f'has no values of {name} in trials.npz'
    mean = np.mean(values, dtype=np.float64)
    if not np.isclose(mean, summary['mean'], rtol=1e-6, equal_nan=True):
      return f'has not the mean of its values of {name}'
  for name, values in arrays.items():
    place, metric = name.split('/', 1)
    if place == str(i) and values.ndim == 1 and metric not in row['metrics']:
      return f'lacks {metric}, whose values are in trials.npz'
  return None


def _damage(path, i, what) -> InputError:
  return InputError(f'{path}: row {i + 1} {what}; {ANEW}.')


def first_difference(
  theirs: Any, ours: Any, path: str = 'config'
) -> Optional[str]:
  """Returns the first field, in sorted order, where two JSON values differ."""
  if isinstance(theirs, dict) and isinstance(ours, dict):
    for key in sorted({*theirs, *ours}):
      if key not in ours or key not in theirs:
        where = 'that run' if key in theirs else 'this one'
        return f'{path}.{key} is only in {where}'
      if deeper := first_difference(theirs[key], ours[key], f'{path}.{key}'):
        return deeper
    return None
  if theirs == ours:
    return None
  if isinstance(theirs, list) and isinstance(ours, list):
    for i, (their, our) in enumerate(zip(theirs, ours)):
      if deeper := first_difference(their, our, f'{path}[{i}]'):
        return deeper
    return f'{path} had {len(theirs)} entries and has {len(ours)}'
  was, now = (
    textwrap.shorten(json.dumps(value), 60) for value in (theirs, ours)
  )
  return f'{path} was {was} and is {now}'
