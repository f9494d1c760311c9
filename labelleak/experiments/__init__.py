"""Experiments: a config in, rows out. One file is one experiment.

`config.experiment` names a module with a function `experiment(*, config)`. It
validates everything that the config says, loads what is cheap, and returns
`measure(progress) -> list of dicts`, one for each attack, with

  attack, attack_args, known: what ran, and what it was granted;
  setting: facts that identify the point among published ones, JSON;
  data, defense, trials: as in a row;
  values: metric -> [T], the metric that papers report first.

All points of a sweep are validated before the first of them runs, so that bad
input never costs finished rows.
"""

from collections.abc import Callable
import json
import time
from typing import Optional

from ml_collections import ConfigDict
import tqdm

from labelleak import base, report, sweep
from labelleak.report import published


def run(config: ConfigDict, workdir: Optional[str] = None) -> list[dict]:
  """Runs every point of a config that the workdir has not finished.

  Args:
    config: see `configs/common.py`.
    workdir: where rows, per-trial values, tables and plots go; None keeps
      nothing. See `report`.

  Returns:
    rows of all points in the sweep's order, as in `rows.jsonl`.

  Raises:
    InputError: bad input, named before the first point runs.
  """
  if config.trials < 1:
    raise base.InputError(f'trials={config.trials} must be at least 1.')
  name = f'{config.experiment}.experiment'
  points = [
      (point, full, base.load('experiments', name, config=full))
      for point, full in sweep.grid(config)
  ]
  finished = report.start(workdir, config) if workdir else []
  rows = []
  with tqdm.tqdm(total=len(points), desc='points', unit='point') as bar:
    for point, full, measure in points:
      point = json.loads(json.dumps(point))  # as the rows hold it
      ready = [row for row in finished if row['point'] == point]
      rows += ready or _measure(point, full, measure, workdir)
      bar.update()
  if workdir:
    report.finish(workdir, rows)
  return rows


def _measure(point, config, measure: Callable, workdir):
  """Rows of one point, appended to the workdir."""
  started = time.perf_counter()
  with tqdm.tqdm(
      total=config.trials, desc='trials', unit='trial', leave=False
  ) as bar:
    results = measure(bar.update)
  seconds = time.perf_counter() - started
  values = [result.pop('values') for result in results]
  rows = []
  for result, metrics in zip(results, values):
    row = dict(
        config=config.name,
        point=point,
        **result,
        seed=config.seed,
        metrics={m: report.summary(v) for m, v in metrics.items()},
        paper=published.match(result),
        seconds=round(seconds, 2),
        **report.environment(),
    )
    rows.append(json.loads(json.dumps(row)))
  if workdir:
    report.append(workdir, rows, values)
  return rows
