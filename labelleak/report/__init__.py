"""What a run leaves behind: rows, per-trial values, tables and plots.

A workdir holds `config.json`, `rows.jsonl` (one JSON object for each point and
attack), `trials.npz` (per-trial values), `table.md` and plots. Points are
written as they finish, and the trials of the point at hand every few seconds
(`unfinished.npz`), so a killed run that is started again goes on where it
stopped. `python -m labelleak.report results > RESULTS.md` compares the rows of
many workdirs with the published tables.
"""

import functools
import io
import json
import os
import pathlib
import subprocess
import textwrap

import flax
import jax
from ml_collections import ConfigDict
import numpy as np
import optax

from labelleak.base import InputError
from labelleak.report import (
  backdoors,
  pictures,
  plots,
  ranking,
  tables,
  tradeoff,
)

_UNFINISHED = 'unfinished.npz'
# Fields that differ between two runs of the same config.
VOLATILE = ('seconds', 'step_seconds', 'device', 'versions', 'commit')


def start(workdir: str, config: ConfigDict) -> list[dict]:
  """Opens a workdir and returns the rows of the points that it finished.

  A point is finished once its per-trial values are in `trials.npz`, which is
  replaced atomically after its rows were written. What a kill left of an
  unfinished point, a torn last line included, is removed.

  Raises:
    InputError: the workdir holds another config; names the first field.
  """
  environment()  # reads the commit now: a checkout may move during the run
  path = pathlib.Path(workdir)
  path.mkdir(parents=True, exist_ok=True)
  ours = json.loads(config.to_json_best_effort())
  stored = path / 'config.json'
  if stored.exists():
    theirs = json.loads(stored.read_text())
    if field := _first_difference(theirs, ours):
      raise InputError(
        f'{workdir} holds a run with another config: {field}; choose another'
        ' --workdir or remove this one.'
      )
  else:
    _replace(stored, (json.dumps(ours, indent=2) + '\n').encode())
  finished = {name.split('/')[0] for name in trials(workdir)}
  rows = [r for r in read(workdir) if tables.label(r['point']) in finished]
  _replace(path / 'rows.jsonl', b''.join(_line(row) for row in rows))
  return rows


def append(workdir: str, rows: list[dict], values: list[dict]) -> None:
  """Writes one point: its rows and, for each row, name -> array [n, ...]."""
  path = pathlib.Path(workdir)
  with open(path / 'rows.jsonl', 'ab') as f:
    f.write(b''.join(_line(row) for row in rows))
    f.flush()
    os.fsync(f.fileno())
  arrays = trials(workdir)
  for row, metrics in zip(rows, values):
    for metric, array in metrics.items():
      arrays[tables.entry(row, metric)] = np.asarray(array)
  _save(path / 'trials.npz', arrays)
  (path / _UNFINISHED).unlink(missing_ok=True)


def keep(
  workdir: str, point: dict, leaves: list[np.ndarray], seconds: float
) -> None:
  """Writes the trials [t, ...] that a point has finished so far."""
  facts = json.dumps([point, _code(), seconds])
  arrays = {f'{i}': leaf for i, leaf in enumerate(leaves)}
  _save(pathlib.Path(workdir) / _UNFINISHED, dict(arrays, facts=facts))


def unfinished(workdir: str, point: dict) -> tuple[list[np.ndarray], float]:
  """What `keep` wrote of this point, by the same code: leaves, seconds."""
  path = pathlib.Path(workdir) / _UNFINISHED
  if not path.exists():
    return [], 0.0
  with np.load(path, allow_pickle=False) as f:
    whose, code, seconds = json.loads(str(f['facts']))
    if [whose, code] != [point, _code()]:
      return [], 0.0
    return [f[f'{i}'] for i in range(len(f) - 1)], seconds


def finish(workdir: str, rows: list[dict]) -> None:
  """Writes `table.md` and the plots of a run.

  Where several defenses were run, `ranking.md` and `tradeoff.png`, too; where
  labels were replaced, `gamma.png` and `triggered.png`; where images were
  restored, `images.png`.
  """
  path = pathlib.Path(workdir)
  _replace(path / 'table.md', tables.points(rows, 'github').encode())
  plots.save(path, rows)
  if swept := backdoors.by_gamma(rows):
    swept.savefig(path / 'gamma.png', dpi=150)
  if shown := [row for row in rows if row.get('examples')]:
    backdoors.pictures(shown[0]).savefig(path / 'triggered.png', dpi=150)
  if restored := pictures.grid(rows, trials(workdir)):
    restored.savefig(path / 'images.png', dpi=150, bbox_inches='tight')
  if compared := ranking.comparisons(rows):
    _replace(path / 'ranking.md', ranking.markdown(compared).encode())
    tradeoff.draw(compared).savefig(path / 'tradeoff.png', dpi=150)


def read(workdir: str) -> list[dict]:
  """Rows of a workdir; a torn last line is no row."""
  path = pathlib.Path(workdir) / 'rows.jsonl'
  lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
  return [json.loads(line) for line in lines if line.endswith(b'\n')]


def trials(workdir: str) -> dict[str, np.ndarray]:
  """Per-trial values, 'point/attack/metric' -> [T, ...]."""
  path = pathlib.Path(workdir) / 'trials.npz'
  if not path.exists():
    return {}
  with np.load(path, allow_pickle=False) as f:
    return dict(f)


def summary(values: np.ndarray) -> dict[str, float]:
  """Mean, standard deviation and standard error of values [T], T >= 1."""
  values = np.asarray(values, np.float64)
  std = values.std(ddof=1) if len(values) > 1 else 0.0
  stderr = std / np.sqrt(len(values))
  return dict(mean=float(values.mean()), std=float(std), stderr=float(stderr))


def comparable(row: dict) -> dict:
  """A row without the fields that differ between two runs of a config."""
  return {k: v for k, v in row.items() if k not in VOLATILE}


@functools.cache
def environment() -> dict:
  """Device, versions and commit, as every row states them."""
  here = pathlib.Path(__file__).parent
  git = ['git', '-C', str(here), 'describe', '--always', '--dirty']
  try:
    commit = subprocess.run(git, capture_output=True, text=True, timeout=20)
    commit = commit.stdout.strip() or None
  except (OSError, subprocess.TimeoutExpired):
    commit = None  # no git, or not a checkout
  devices = jax.devices()
  return dict(
    device=f'{len(devices)} x {devices[0].device_kind}',
    versions={m.__name__: m.__version__ for m in (jax, flax, optax, np)},
    commit=commit,
  )


def _code():
  """Versions and commit: trials of other code are no part of a row."""
  found = environment()
  return [found['versions'], found['commit']]


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
  """The first field, in sorted order, that two JSON values disagree about."""
  if isinstance(theirs, dict) and isinstance(ours, dict):
    for key in sorted({*theirs, *ours}):
      if key not in ours or key not in theirs:
        where = 'that run' if key in theirs else 'this one'
        return f'{path}.{key} is only in {where}'
      if found := _first_difference(theirs[key], ours[key], f'{path}.{key}'):
        return found
    return None
  if theirs == ours:
    return None
  if isinstance(theirs, list) and isinstance(ours, list):
    for i, pair in enumerate(zip(theirs, ours)):
      if found := _first_difference(*pair, f'{path}[{i}]'):
        return found
    return f'{path} had {len(theirs)} entries and has {len(ours)}'
  was, now = (
    textwrap.shorten(json.dumps(value), 60) for value in (theirs, ours)
  )
  return f'{path} was {was} and is {now}'
