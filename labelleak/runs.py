"""The store of a run: its rows and per-trial values, kept as points finish.

A workdir holds `config.json`, `rows.jsonl` (one JSON object for each point and
attack) and `trials.npz` (`'<row>/<metric>'` -> values [T, ...], rows counted
from 0). The trials of the point at hand are written every few seconds
(`unfinished.npz`), so a killed run that is started again goes on where it
stopped. `report` turns rows into tables and figures.
"""

import functools
import io
import json
import os
import pathlib
import subprocess
import textwrap
from typing import Any, Optional

import flax
import jax
from ml_collections import ConfigDict
import numpy as np
import optax

from labelleak import spec
from labelleak.base import InputError

LAYOUT = 2  # of the files; what another one wrote is refused
_UNFINISHED = 'unfinished.npz'
# Fields that differ between two runs of the same config.
VOLATILE = ('seconds', 'step_seconds', 'device', 'versions', 'commit')


def open_workdir(workdir: str, config: ConfigDict) -> list[dict]:
  """Opens a workdir and returns the rows of the points that it finished.

  A point is finished once its per-trial values are in `trials.npz`, which is
  replaced atomically after its rows were written. What a kill left of an
  unfinished point, a torn last line included, is removed.

  Raises:
    InputError: the workdir holds another config (names the first field), or
      rows in the form of an earlier version.
  """
  environment()  # reads the commit now: a checkout may move during the run
  path = pathlib.Path(workdir)
  path.mkdir(parents=True, exist_ok=True)
  stored, ours = path / 'config.json', spec.plain(config)
  if stored.exists():
    contents = json.loads(stored.read_text())
    if contents.get('layout') != LAYOUT:
      raise InputError(
        f'{workdir} holds a run of an earlier labelleak, in another form;'
        ' choose another --workdir or remove this one.'
      )
    if field := _first_difference(contents['config'], ours):
      raise InputError(
        f'{workdir} holds a run with another config: {field}; choose another'
        ' --workdir or remove this one.'
      )
  else:
    contents = dict(layout=LAYOUT, config=ours)
    _replace(stored, (json.dumps(contents, indent=2) + '\n').encode())
  finished = {int(name.split('/')[0]) for name in read_arrays(workdir)}
  rows = [row for i, row in enumerate(read_rows(workdir)) if i in finished]
  _replace(path / 'rows.jsonl', b''.join(map(_line, rows)))
  return rows


def append_point(
  workdir: str, rows: list[dict], values: list[dict[str, np.ndarray]]
) -> None:
  """Writes one point: its rows and, for each row, name -> array [n, ...]."""
  path = pathlib.Path(workdir)
  first = len(read_rows(workdir))
  with open(path / 'rows.jsonl', 'ab') as f:
    f.write(b''.join(map(_line, rows)))
    f.flush()
    os.fsync(f.fileno())
  arrays = read_arrays(workdir)
  for index, metrics in enumerate(values, first):
    for metric, array in metrics.items():
      arrays[f'{index}/{metric}'] = np.asarray(array)
  _save(path / 'trials.npz', arrays)
  (path / _UNFINISHED).unlink(missing_ok=True)


def save_trials(
  workdir: str, point: dict, leaves: list[np.ndarray], seconds: float
) -> None:
  """Writes the trials [t, ...] that a point has finished so far."""
  facts = json.dumps([point, _code(), seconds])
  arrays = {f'{i}': leaf for i, leaf in enumerate(leaves)}
  _save(pathlib.Path(workdir) / _UNFINISHED, dict(arrays, facts=facts))


def load_trials(workdir: str, point: dict) -> tuple[list[np.ndarray], float]:
  """Returns what `save_trials` wrote of a point, by the same code."""
  path = pathlib.Path(workdir) / _UNFINISHED
  if not path.exists():
    return [], 0.0
  with np.load(path, allow_pickle=False) as f:
    whose, code, seconds = json.loads(str(f['facts']))
    if [whose, code] != [point, _code()]:
      return [], 0.0
    return [f[f'{i}'] for i in range(len(f) - 1)], seconds


def read_rows(workdir: str | pathlib.Path) -> list[dict]:
  """Returns the rows of a workdir; a torn last line is no row."""
  path = pathlib.Path(workdir) / 'rows.jsonl'
  lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
  return [json.loads(line) for line in lines if line.endswith(b'\n')]


def read_arrays(workdir: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Returns '<row>/<name>' -> per-trial values [T, ...] or arrays [n, ...]."""
  path = pathlib.Path(workdir) / 'trials.npz'
  if not path.exists():
    return {}
  with np.load(path, allow_pickle=False) as f:
    return dict(f)


def comparable(row: dict) -> dict:
  """Returns a row without the fields that differ between two runs."""
  return {k: v for k, v in row.items() if k not in VOLATILE}


@functools.cache
def environment() -> dict[str, Any]:
  """Returns device, versions and commit, as every row states them."""
  devices = jax.devices()
  return dict(
    device=f'{len(devices)} x {devices[0].device_kind}',
    versions={m.__name__: m.__version__ for m in (jax, flax, optax, np)},
    commit=_commit(),
  )


def _commit() -> Optional[str]:
  """Returns the checkout's commit; None without git, or outside a checkout."""
  here = pathlib.Path(__file__).parent
  git = ['git', '-C', str(here), 'describe', '--always', '--dirty']
  try:
    commit = subprocess.run(git, capture_output=True, text=True, timeout=20)
  except (OSError, subprocess.TimeoutExpired):
    return None
  return commit.stdout.strip() or None


def _code():
  """Returns versions and commit: trials of other code are no part of a row."""
  facts = environment()
  return [facts['versions'], facts['commit']]


def _line(row):
  return (json.dumps(row) + '\n').encode()


def _replace(path, data):
  """Writes a file such that a kill leaves the old one or the new one."""
  temporary = path.with_name(path.name + '.tmp')
  with open(temporary, 'wb') as f:
    f.write(data)
    f.flush()
    os.fsync(f.fileno())
  os.replace(temporary, path)


def _save(path, arrays):
  file = io.BytesIO()
  np.savez_compressed(file, **arrays)
  _replace(path, file.getvalue())


def _first_difference(theirs, ours, path='config'):
  """Returns the first field, in sorted order, where two JSON values differ."""
  if isinstance(theirs, dict) and isinstance(ours, dict):
    for key in sorted({*theirs, *ours}):
      if key not in ours or key not in theirs:
        where = 'that run' if key in theirs else 'this one'
        return f'{path}.{key} is only in {where}'
      if deeper := _first_difference(theirs[key], ours[key], f'{path}.{key}'):
        return deeper
    return None
  if theirs == ours:
    return None
  if isinstance(theirs, list) and isinstance(ours, list):
    for i, (their, our) in enumerate(zip(theirs, ours)):
      if deeper := _first_difference(their, our, f'{path}[{i}]'):
        return deeper
    return f'{path} had {len(theirs)} entries and has {len(ours)}'
  was, now = (
    textwrap.shorten(json.dumps(value), 60) for value in (theirs, ours)
  )
  return f'{path} was {was} and is {now}'
