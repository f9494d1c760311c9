"""Experiments: a config in, rows out. One file is one experiment.

`config.experiment` names a module with a function `experiment(*, config)`. It
validates everything that the config says, loads what is cheap, and returns
`measure(progress) -> list of dicts` (see `Progress`), one for each attack, with

  attack, attack_args, known: what ran, and what it was granted;
  setting: facts that identify the point among published ones, JSON: `data` and
    `model` are those that it stands for;
  data, model, defense, trials: as in a row;
  values: metric -> [T], the metric that papers report first;
  arrays, where there are any: name -> [n, ...] that goes to `trials.npz`, too.

All points of a sweep are validated before the first of them runs, so that bad
input never costs finished rows.
"""

from collections.abc import Callable, Sequence
import json
import sys
import time
from typing import Optional

from absl import flags
import chex
import jax
from ml_collections import ConfigDict
import numpy as np
import tqdm

from labelleak import base, registry, report, sweep
from labelleak.report import published

_KEEP_EVERY = 10.0  # seconds between two writes of a point's trials


def run(config: ConfigDict, workdir: Optional[str] = None) -> list[dict]:
  """Runs every point of a config that the workdir has not finished.

  Args:
    config: see `configs/common.py`.
    workdir: where rows, per-trial values, tables and plots go; None keeps
      nothing. See `report`.

  Returns:
    rows of all points in the sweep's order.

  Raises:
    InputError: bad input, named before the first point runs. What only a run
      can find, such as a loss that is not finite, ends its point alone: the
      others run, and the error comes after them.
  """
  if config.trials < 1:
    raise base.InputError(f'trials={config.trials} must be at least 1.')
  points = [
    (point, full, _validated(full)) for point, full in sweep.grid(config)
  ]
  finished = report.start(workdir, config) if workdir else []
  rows, failed = [], []
  with _bar(len(points), 'point') as bar:
    for point, full, measure in points:
      point = json.loads(json.dumps(point))  # as the rows hold it
      ready = [row for row in finished if row['point'] == point]
      try:
        rows += ready or _measure(point, full, measure, workdir)
      except base.InputError as e:
        failed.append(f'{report.tables.label(point)}: {e}')
      bar.update()
  if workdir and rows:
    report.finish(workdir, rows)
  if failed:
    kept = (
      f' What the others found is in {workdir}.' if workdir and rows else ''
    )
    raise base.InputError(
      f'{len(failed)} of {len(points)} points stopped. {" ".join(failed)}{kept}'
    )
  return rows


def parse(values: flags.FlagValues, argv: Sequence[str]) -> ConfigDict:
  """The config that a command line names; what is wrong with it, in one line.

  Raises:
    InputError: an unknown flag or config field, a value of another type, or a
      config file that is missing or fails.
  """
  try:
    rest = values(argv)[1:]
    config = values.config
    config.keys()  # an absent config file fails here, not above
  except (flags.Error, AttributeError, KeyError, OSError) as e:
    cause = e
    while cause.args and isinstance(cause.args[0], Exception):
      cause = cause.args[0]  # ml_collections nests them
    # A failing config file arrives as a traceback: its last line says why.
    line = str(cause.args[0] if cause.args else cause).strip().split('\n')[-1]
    line = line.removeprefix('labelleak.base.InputError: ')
    field = isinstance(e, AttributeError | KeyError)
    prefix = 'the config has no such field: ' if field else ''
    raise base.InputError(prefix + line.strip()) from e
  if rest:
    raise base.InputError(
      f'{rest[0]!r} is no flag; write --config=FILE.py, --config.field=value or'
      ' --workdir=DIR.'
    )
  return config


def _validated(config):
  """`measure` of the config's experiment, found by name."""
  path = f'{config.experiment}.experiment'
  try:
    registry.find('experiments', path)
  except base.InputError as e:
    raise base.InputError(str(e).replace('.experiment', '')) from None
  return registry.load('experiments', path, config=config)


def _measure(point, config, measure: Callable, workdir):
  """Rows of one point, appended to the workdir.

  Raises:
    InputError: what only a run can find: a loss that is not finite, or what an
      aggregator's callback refused.
  """
  with _bar(config.trials, 'trial', leave=False) as bar:
    progress = Progress(bar, workdir, point)
    try:
      results = measure(progress)
    except FloatingPointError as e:
      raise base.InputError(str(e)) from e
    except jax.errors.JaxRuntimeError as e:
      _, marker, refusal = str(e).rpartition('InputError: ')
      if not marker:
        raise
      raise base.InputError(refusal.strip()) from e
  seconds = progress.seconds()
  values = [result.pop('values') for result in results]
  arrays = [result.pop('arrays', {}) for result in results]
  rows = []
  for result, each in zip(results, values):
    metrics = {name: report.summary(v) for name, v in each.items()}
    row = dict(
      config=config.name,
      point=point,
      **result,
      seed=config.seed,
      metrics=metrics,
      paper=published.match(dict(result, metrics=metrics)),
      seconds=round(seconds, 2),
      **report.environment(),
    )
    rows.append(json.loads(json.dumps(row)))
  if workdir:
    kept = [each | more for each, more in zip(values, arrays)]
    report.append(workdir, rows, kept)
  return rows


class Progress:
  """Moves a point's bar, and keeps its trials in the workdir as they finish.

  Attributes:
    finished: what a killed run had kept, leaves [t, ...] of the first t trials.
  """

  def __init__(self, bar: tqdm.tqdm, workdir: Optional[str], point: dict):
    self.finished, self._before = [], 0.0
    if workdir:
      self.finished, self._before = report.unfinished(workdir, point)
    self._bar, self._workdir, self._point = bar, workdir, point
    self._chunks = [self.finished] if self.finished else []
    self._started = self._kept = time.perf_counter()
    done = len(self.finished[0]) if self.finished else 0
    bar.n = bar.last_print_n = bar.initial = done  # and no part of its speed
    bar.refresh()

  def __call__(self, num: int, values: Optional[chex.ArrayTree] = None):
    """`num` more trials are done; values [num, ...] can be gone on from."""
    self._bar.update(num)
    if not self._workdir or values is None:
      return
    self._chunks.append(jax.tree.leaves(values))
    if time.perf_counter() - self._kept >= _KEEP_EVERY:
      leaves = [np.concatenate(parts) for parts in zip(*self._chunks)]
      self._chunks = [leaves]
      report.keep(self._workdir, self._point, leaves, self.seconds())
      self._kept = time.perf_counter()

  def seconds(self) -> float:
    """Spent on the point so far, by the runs that were killed as well."""
    return self._before + time.perf_counter() - self._started


def _bar(total, unit, leave=True):
  """A progress bar with ETA; a log file gets a line every half minute."""
  quiet = 0.1 if sys.stderr.isatty() else 30
  return tqdm.tqdm(
    total=total, desc=f'{unit}s', unit=unit, leave=leave, mininterval=quiet
  )
