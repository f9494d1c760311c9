"""Experiments: a config in, rows out. One file is one experiment.

`config.experiment` names a module with a function `experiment(*, config)`. It
validates everything that the config says, loads what is cheap, and returns a
`Measure`, which runs the point and returns a `Result` for each attack.

All points of a sweep are validated before the first of them runs, so that bad
input never costs finished rows.
"""

from collections.abc import Mapping, Sequence
import re
import sys
import time
from typing import Any, NamedTuple, Optional, Protocol

from absl import flags
import chex
import jax
from ml_collections import ConfigDict, config_flags
import numpy as np
import tqdm

from labelleak import (
  annotation,
  base,
  registry,
  runs,
  spec,
  sweep,
  validate,
)
from labelleak.experiments import fields, result, sources
from labelleak.experiments.result import Result

_KEEP_EVERY = 10.0  # seconds between two writes of a point's trials


class Job(NamedTuple):
  """A point of a sweep, ready to run.

  Attributes:
    point: path -> value, of what was swept.
    config: of the point, in full.
    measure: runs it.
  """

  point: Mapping[str, Any]
  config: ConfigDict
  measure: 'Measure'


def run(config: ConfigDict, workdir: Optional[str] = None) -> list[dict]:
  """Runs every point of a config that the workdir has not finished.

  Args:
    config: see `configs/common.py`.
    workdir: where rows, per-trial values, tables and plots go; None keeps
      nothing. See `runs`.

  Returns:
    rows of all points in the sweep's order.

  Raises:
    InputError: bad input, named before the first point runs. What only a run
      can find, such as a loss that is not finite, ends its point alone: the
      others run, and the error comes after them.
  """
  points = prepare(config)
  finished = runs.open_workdir(workdir, config) if workdir else []
  _announce([job.config for job in points if 'dataset' in job.config])
  rows, failed = [], []
  with _bar(len(points), 'point') as bar:
    for point in points:
      ready = [row for row in finished if row['point'] == point.point]
      try:
        rows += ready or _measure(point, workdir)
      except base.InputError as e:
        failed.append(f'{spec.describe_point(point.point)}: {e}')
      bar.update()
  if workdir and rows:
    from labelleak import report  # plots only where there is something to plot

    report.finish(workdir, rows)
  if failed:
    kept = (
      f' What the others found is in {workdir}.' if workdir and rows else ''
    )
    raise base.InputError(
      f'{len(failed)} of {len(points)} points stopped. {" ".join(failed)}{kept}'
    )
  return rows


def prepare(config: ConfigDict) -> list[Job]:
  """Returns the points of a config, validated and ready to run.

  Raises:
    InputError: bad input.
  """
  annotation.check('config', config, fields.Run)
  if not re.fullmatch(r'\w[\w.-]*', config.name):
    raise base.InputError(
      f'name={config.name!r} must be the name of a folder; change it.'
    )
  validate.whole('trials', config.trials, 1)
  validate.whole('seed', config.seed, 0)
  return [
    Job(point, full, _prepare(full)) for point, full in sweep.grid(config)
  ]


def parse(
  values: flags.FlagValues, argv: Sequence[str]
) -> tuple[ConfigDict, list[str]]:
  """Returns the config that a command line names, and what to say of it.

  A field that the command line sets wins over the config's own sweep of it.

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
  fields = config_flags.get_override_values(values['config'])
  return config, sweep.override(config, fields)


def _announce(configs):
  """Says which data the points read, and which stand for others."""
  lines = [
    sources.describe(
      full.dataset,
      full.get('data_dir'),
      stands_for=full.get('stands_for', {}).get('data'),
    )
    for full in configs
  ]
  for line in dict.fromkeys(lines):
    print(line, file=sys.stderr)


def _prepare(config):
  """Returns the `Measure` of the config's experiment, found by name."""
  path = f'{config.experiment}.experiment'
  try:
    experiment = registry.find('experiments', path)
    registry.check_arguments(path, experiment, dict(config=config))
  except base.InputError as e:
    raise base.InputError(str(e).replace('.experiment', '')) from None
  return experiment(config=config)


def _measure(point: Job, workdir: Optional[str]) -> list[dict]:
  """Returns the rows of one point, appended to the workdir.

  Raises:
    InputError: what only a run can find: a loss that is not finite, or what an
      aggregator's callback refused.
  """
  with _bar(point.config.trials, 'trial', leave=False) as bar:
    progress = Progress(bar, workdir, point.point)
    try:
      results = point.measure(progress)
    except FloatingPointError as e:
      raise base.InputError(str(e)) from e
    except jax.errors.JaxRuntimeError as e:
      _, marker, refusal = str(e).rpartition('InputError: ')
      if not marker:
        raise
      raise base.InputError(refusal.strip()) from e
  rows = [
    result.row(
      each,
      config_name=point.config.name,
      point=point.point,
      seed=point.config.seed,
      seconds=progress.seconds(),
    )
    for each in results
  ]
  if workdir:
    runs.append_point(
      workdir, rows, [{**r.values, **r.arrays} for r in results]
    )
  return rows


class Progress:
  """Moves a point's bar, and keeps its trials in the workdir as they finish.

  Attributes:
    finished: what a killed run had kept, leaves [t, ...] of the first t trials.
  """

  def __init__(self, bar: tqdm.tqdm, workdir: Optional[str], point: dict):
    self.finished, self._before = [], 0.0
    if workdir:
      self.finished, self._before = runs.load_trials(workdir, point)
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
      runs.save_trials(self._workdir, self._point, leaves, self.seconds())
      self._kept = time.perf_counter()

  def seconds(self) -> float:
    """Spent on the point so far, by the runs that were killed as well."""
    return self._before + time.perf_counter() - self._started


class Measure(Protocol):
  """Runs a point: tells its progress, returns a result for each attack."""

  def __call__(self, progress: Progress) -> list[Result]: ...


KINDS = (Measure,)


def _bar(total, unit, leave=True):
  """A progress bar with ETA; a log file gets a line every half minute."""
  quiet = 0.1 if sys.stderr.isatty() else 30
  return tqdm.tqdm(
    total=total, desc=f'{unit}s', unit=unit, leave=leave, mininterval=quiet
  )
