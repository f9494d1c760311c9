"""Rows and per-trial values of the points that a run finished."""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from labelleak import spec
from labelleak.base import InputError
from labelleak.runs import checks, files, unfinished
from labelleak.runs.origin import environment

LAYOUT = 2  # of the files; what another one wrote is refused
_ROWS, _VALUES, _CONFIG = 'rows.jsonl', 'trials.npz', 'config.json'
_DIGESTS = 'digests'  # of the rows, beside their values
_LONGEST = 100  # characters of a point in the name of a file


def open_workdir(workdir: str, config: ConfigDict) -> list[dict]:
  """Opens a workdir and returns the rows of the points that it finished.

  A point is finished once its per-trial values are in `trials.npz`, which is
  replaced atomically after its rows were written. What a kill left of an
  unfinished point, a torn last line included, is removed. A finished run can
  lie on a read-only disk.

  Raises:
    InputError: the workdir holds another config (names the first field), rows
      in the form of an earlier version, or what was changed or damaged since
      it was written; it cannot be read or written.
  """
  environment()  # reads the commit now: a checkout may move during the run
  path = pathlib.Path(workdir)
  try:
    path.mkdir(parents=True, exist_ok=True)
    _check_config(path, spec.plain(config))
    rows, (arrays, digests) = read_rows(path), _read_values(path)
    finished = checks.check_rows(path / _ROWS, rows, arrays, digests)
    _cut(path / _ROWS, finished)
    for row in rows[:finished]:  # a kill may fall before `append_point` does
      unfinished.forget(workdir, row['point'])
  except (KeyError, TypeError, AttributeError, IndexError) as e:
    raise InputError(
      f'{workdir} holds no rows as they were written ({e!r}); {files.ANEW}.'
    ) from e
  except OSError as e:
    raise InputError(
      f'{workdir} cannot be opened: {e}; choose another --workdir.'
    ) from e
  return rows[:finished]


def append_point(
  workdir: str,
  rows: Sequence[Mapping],
  values: Sequence[Mapping[str, np.ndarray]],
) -> None:
  """Writes one point: its rows and, for each row, name -> array [n, ...]."""
  path = pathlib.Path(workdir)
  before = read_rows(workdir)
  _cut(path / _ROWS, len(before))
  try:
    with open(path / _ROWS, 'ab') as f:
      f.write(b''.join(map(_line, rows)))
      f.flush()
      os.fsync(f.fileno())
    arrays = read_arrays(workdir)
    for index, metrics in enumerate(values, len(before)):
      for metric, array in metrics.items():
        arrays[f'{index}/{metric}'] = np.asarray(array)
    digests = [
      checks.digest(row, i, arrays) for i, row in enumerate(read_rows(workdir))
    ]
    files.save_arrays(path / _VALUES, {**arrays, _DIGESTS: np.array(digests)})
  except BaseException:  # a full disk: other points may yet be written
    _cut(path / _ROWS, len(before))
    raise
  if rows:
    unfinished.forget(workdir, rows[0]['point'])


def write_texts(
  workdir: str, point: Mapping[str, Any], texts: Mapping[str, str]
) -> list[str]:
  """Writes files of a point and returns their paths.

  Args:
    workdir: where they go.
    point: path -> value, of what was swept; it becomes part of their names.
    texts: name -> contents.
  """
  words = re.sub(r'[^\w.=-]+', '_', spec.describe_point(point)) if point else ''
  paths = []
  for name, text in texts.items():
    path = pathlib.Path(workdir, name)
    if words:
      path = path.with_stem(f'{path.stem}-{words[:_LONGEST]}')
    files.replace(path, text.encode())
    paths.append(str(path))
  return paths


def read_rows(workdir: str | pathlib.Path) -> list[dict]:
  """Returns the rows of a workdir; a torn last line is no row.

  Raises:
    InputError: another line is no row.
  """
  return checks.parse_rows(pathlib.Path(workdir, _ROWS))


def read_arrays(workdir: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Returns '<row>/<name>' -> per-trial values [T, ...] or arrays [n, ...].

  Raises:
    InputError: the file is damaged.
  """
  return _read_values(pathlib.Path(workdir))[0]


def _read_values(path):
  """Returns the arrays, and the digests of their rows."""
  arrays = files.load_arrays(path / _VALUES)
  digests = arrays.pop(_DIGESTS, np.array([], str)).tolist()
  return arrays, digests


def _check_config(path, ours):
  """Writes the config, or refuses another one that is there."""
  stored = path / _CONFIG
  if not stored.exists():
    contents = dict(layout=LAYOUT, config=ours)
    files.replace(stored, (json.dumps(contents, indent=2) + '\n').encode())
    return
  try:
    contents = json.loads(stored.read_bytes())
  except ValueError as e:
    raise InputError(f'{stored} is no JSON; {files.ANEW}.') from e
  if not isinstance(contents, dict) or contents.get('layout') != LAYOUT:
    raise InputError(
      f'{path} holds a run of an earlier labelleak, in another form; choose'
      ' another --workdir or remove this one.'
    )
  if field := checks.first_difference(contents.get('config'), ours):
    raise InputError(
      f'{path} holds a run with another config: {field}; choose another'
      ' --workdir or remove this one.'
    )


def _cut(path, finished):
  """Cuts a file of rows after so many lines, if it is longer."""
  contents = path.read_bytes() if path.exists() else b''
  whole = b''.join(contents.splitlines(keepends=True)[:finished])
  if whole != contents:
    files.replace(path, whole)


def _line(row):
  return (json.dumps(row) + '\n').encode()
