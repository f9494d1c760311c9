"""Experiments: a config in, rows out. One file is one experiment.

`config.experiment` names a module with a function `experiment(*, config)`. It
validates everything that the config says, loads what is cheap, and returns a
`Measure`, which runs the point and returns a `Result` for each attack.

All points of a sweep are validated before the first of them runs, so that bad
input never costs finished rows.
"""

import collections
from collections.abc import Mapping, Sequence
import gc
import pathlib
import re
import traceback
from typing import Any, NamedTuple, Optional, Protocol

from absl import flags
import jax
from ml_collections import ConfigDict, config_flags

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
from labelleak.experiments.progress import Progress, say, show
from labelleak.experiments.result import Result

_MANY_MAPS = 10_000


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
      nothing. See `runs`. One process at a time can have it. That of a finished
      run may be read-only.

  Returns:
    rows of all points in the sweep's order.

  Raises:
    InputError: bad input, named before the first point runs. What only a run
      can find, such as a loss that is not finite or memory that is short, ends
      its point alone: the others run, and the error comes after them.
  """
  points = prepare(config)
  configs = [job.config for job in points if 'dataset' in job.config]
  if not workdir:
    _announce(configs)
    return _run(points, [], None)
  with runs.hold(workdir) as writable:
    finished = runs.open_workdir(workdir, config)
    ready = [job for job in points if _rows(job, finished)]
    if not writable and len(ready) < len(points):
      raise base.InputError(
        f'{workdir} cannot be written, and {len(ready)} of {len(points)} points'
        ' are finished; choose another --workdir.'
      )
    _announce(configs)
    if ready:
      say(f'{workdir}: {len(ready)} of {len(points)} points were finished.')
    return _run(points, finished, workdir, writable)


def _run(points, finished, workdir, writable=True) -> list[dict]:
  """Returns the rows of all points; those `finished` are not run again."""
  rows, failed, notes = [], [], []
  points, total = collections.deque(points), len(points)
  with show(total, 'point') as bar:
    while points:
      job = points.popleft()  # nothing of a point outlives it
      try:
        rows += _rows(job, finished) or _measure(job, workdir)
      except Exception as e:
        failed.append(f'{spec.describe_point(job.point)}: {_explain(e)}')
        notes += [] if _is_refusal(e) else [traceback.format_exc()]
      del job
      _drop_programs(followed=bool(points))
      bar.update()
  if rows and writable and workdir:
    from labelleak import report  # plots only where there is something to plot

    try:
      report.finish(workdir, rows)
    except OSError as e:
      say(f'{workdir}: its tables and plots were not written: {e}.')
  if failed:
    kept = (
      f' What the others found is in {workdir}.' if workdir and rows else ''
    )
    error = base.InputError(
      f'{len(failed)} of {total} points stopped. {" ".join(failed)}{kept}'
    )
    for note in notes:  # text: a traceback would keep what the point held
      error.add_note(note)
    raise error
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
  jobs = []
  for point, full in sweep.grid(config):
    path = f'{full.experiment}.experiment'
    try:
      experiment = registry.find('experiments', path)
      registry.check_arguments(path, experiment, dict(config=full))
    except base.InputError as e:
      raise base.InputError(str(e).replace('.experiment', '')) from None
    with jax.enable_x64(full.get('arbiter', False)):  # as arbiters compute
      jobs.append(Job(point, full, experiment(config=full)))
  return jobs


def _drop_programs(followed: bool) -> None:
  """Drops what was compiled for a point that others follow.

  Each program maps memory, of which Linux allows 65530 pieces to a process.
  After a last point it stays, for callers that run it again, up to a number.
  """
  gc.collect()
  if followed or _count_maps() > _MANY_MAPS:
    jax.clear_caches()
    gc.collect()


def _count_maps() -> int:
  """Returns pieces of memory that this process maps; 0 where none can tell."""
  try:
    return pathlib.Path('/proc/self/maps').read_bytes().count(b'\n')
  except OSError:
    return 0


def _rows(job, finished):
  """Returns the rows of a point among those that were finished."""
  return [row for row in finished if row['point'] == job.point]


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
  except base.InputError:
    raise
  except (flags.Error, AttributeError, KeyError, OSError, ValueError) as e:
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
    say(line)


def _measure(job: Job, workdir: Optional[str]) -> list[dict]:
  """Returns the rows of one point, appended to the workdir."""
  with show(job.config.trials, 'trial', leave=False) as bar:
    progress = Progress(bar, workdir, job.point)
    with jax.enable_x64(job.config.get('arbiter', False)):
      results = job.measure(progress)
  rows = [
    result.row(
      each,
      config_name=job.config.name,
      point=job.point,
      seed=job.config.seed,
      seconds=progress.seconds(),
    )
    for each in results
  ]
  if workdir:
    for each in results:
      for path in runs.write_texts(workdir, job.point, each.files):
        say(f'{path} is written.')
    runs.append_point(
      workdir, rows, [{**r.values, **r.arrays} for r in results]
    )
  return rows


def _explain(error: Exception) -> str:
  """Returns in one line what ended a point.

  Raises:
    KeyboardInterrupt: it was a person, in the middle of a callback.
  """
  text = str(error).strip()
  if 'KeyboardInterrupt' in text:
    raise KeyboardInterrupt from None
  if isinstance(error, jax.errors.JaxRuntimeError):
    # What a callback refused is the end of a long report.
    text = text.rpartition('InputError: ')[-1].strip()
  line = text.splitlines()[0] if text else 'no more is known'
  if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in line:
    line += '; memory is short, lower per_device or batch_size.'
  return line if _is_refusal(error) else f'{type(error).__name__}: {line}'


def _is_refusal(error: Exception) -> bool:
  """Whether an error says all that there is to say, in our words."""
  return isinstance(error, base.InputError | FloatingPointError) or (
    isinstance(error, jax.errors.JaxRuntimeError)
    and 'InputError: ' in str(error)
  )


class Measure(Protocol):
  """Runs a point: tells its progress, returns a result for each attack."""

  def __call__(self, progress: Progress) -> list[Result]: ...


KINDS = (Measure,)
