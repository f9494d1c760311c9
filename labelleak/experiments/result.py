"""What an experiment returns: one `Result` for each attack at a point.

A missing field fails where it is written, before a run; what a row shows or
compares beyond that is `extra`, never required.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np

from labelleak import runs, spec
from labelleak.base import InputError
from labelleak.report import published
from labelleak.spec import Spec


class Setting(NamedTuple):
  """What identifies a point among published ones.

  Attributes:
    data: name of the data set.
    model: what was trained or attacked.
    num_classes: K.
    batch_size: B; None where there is no batch.
    trained: whether the model was trained before it was attacked.
    defense: all that defends, in the order of the config.
    stands_for: `data` and `model` as published, where those at hand stand for
      them.
    extra: shown and compared, never required.
  """

  data: str
  model: Spec
  num_classes: int
  batch_size: Optional[int]
  trained: bool
  defense: Sequence[Spec] = ()
  stands_for: Mapping[str, Any] = {}
  extra: Mapping[str, Any] = {}


class Result(NamedTuple):
  """One attack at one point.

  Attributes:
    attack: name and arguments; the name 'none' where nothing attacked.
    known: fields of `Known` that it was granted.
    setting: of the point.
    values: metric -> [T]; the first is the headline.
    arrays: name -> [n, ...], kept with the per-trial values.
    details: what tables and pictures of the point need beside, JSON.
    files: name -> text, to be written into the workdir.
  """

  attack: Spec
  known: tuple[str, ...]
  setting: Setting
  values: Mapping[str, np.ndarray]
  arrays: Mapping[str, np.ndarray] = {}
  details: Mapping[str, Any] = {}
  files: Mapping[str, str] = {}


NO_ATTACK: Spec = dict(name='none')


def row(
  result: Result,
  *,
  config_name: str,
  point: Mapping[str, Any],
  seed: int,
  seconds: float,
) -> dict:
  """Returns the row of a result, one JSON object.

  Args:
    result: of one attack at a point.
    config_name: of the config.
    point: path -> value, of what was swept.
    seed: of the first trial.
    seconds: that the point took.

  Raises:
    InputError: the result is no `Result`, or has no values.
  """
  if not isinstance(result, Result) or not result.values:
    raise InputError(
      f'an experiment of {config_name} returned {type(result).__name__}; it'
      ' must return Results with values, see labelleak.experiments.result.'
    )
  metrics = {name: summary(v) for name, v in result.values.items()}
  contents = dict(
    config=config_name,
    point=point,
    attack=result.attack,
    known=result.known,
    setting=result.setting._asdict(),
    trials=len(next(iter(result.values.values()))),
    seed=seed,
    metrics=metrics,
  )
  return spec.plain(
    dict(
      contents,
      **result.details,
      paper=published.match(spec.plain(contents)),
      seconds=round(seconds, 2),
      **runs.environment(),
      provenance=None,
    )
  )


def summary(values: np.ndarray) -> dict[str, float]:
  """Returns mean, deviation and standard error of values [T], T >= 1."""
  values = np.asarray(values, np.float64)
  std = values.std(ddof=1) if len(values) > 1 else 0.0
  stderr = std / np.sqrt(len(values))
  return dict(mean=float(values.mean()), std=float(std), stderr=float(stderr))
