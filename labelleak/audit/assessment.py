"""What an audit says, as plain data; JSON and back."""

import dataclasses
import json
import typing
from typing import Any, Optional, Union

from labelleak.base import InputError

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Source:
  """What was read.

  Attributes:
    files: paths, as they were given.
    names: of each of the head's leaves, 'kernel' and 'bias', in the file.
    shapes: of each of them, [H, K] and [K].
    tensors: how many the whole update has.
    norm: Euclidean norm of the whole update, not divided by a learning rate.
    notes: remarks on how it was read, of one sentence each.
  """

  files: tuple[str, ...]
  names: dict[str, str]
  shapes: dict[str, tuple[int, ...]]
  tensors: int
  norm: float
  notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Assumption:
  """One field of the description of the client, or of the round.

  Attributes:
    field: its name.
    value: its value; None: not told, and not assumed either.
    told: whether the user said so; otherwise it is what is usual.
  """

  field: str
  value: Any
  told: bool


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What is believed of one class.

  Attributes:
    count: the attack's.
    low, high: ends of the interval of `Assessment.level`, both included.
    present: probability that the class is there at all.
    truth: its true count, where it was told.
  """

  count: float
  low: int
  high: int
  present: float
  truth: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class Score:
  """One attack, or one way to guess.

  Attributes:
    name: of it.
    counts: [K] what it says; shares where it splits evenly.
    expected: share of the labels that it names, in expectation under the
      posterior.
    agreement: share of the labels that it names as `calibrated` does.
    accuracy: share of the labels that it names in truth, where that was told.
  """

  name: str
  counts: tuple[float, ...]
  expected: float
  agreement: float
  accuracy: Optional[float] = None


@dataclasses.dataclass(frozen=True)
class Remedy:
  """What a defense would leave, in simulated rounds of this client.

  Attributes:
    name: of the defense, in words.
    accuracy: share of one client's labels that are named, mean of the rounds.
    guessing: the same of guessing that all classes are alike.
  """

  name: str
  accuracy: float
  guessing: float


@dataclasses.dataclass(frozen=True)
class Assessment:
  """All that the summary, the page and the JSON file show.

  Attributes:
    version: of labelleak.
    source: what was read.
    assumed: what was told and assumed of clients and round.
    num_classes: K.
    num_examples: labels behind the update, C * N.
    leaked: share of the labels that the best attack names, in expectation.
    level: of the intervals.
    classes: [K] what is believed of each.
    scores: of each attack, guessing first.
    learning_rates: `calibrated` at each learning rate of a range, if one was
      told; `agreement` is with the middle one.
    remedies: first without any; empty where they were not simulated.
    warnings: of a wrong description, one sentence each.
    limits: what all of this does not show, one sentence each.
    kind: of FL.
    schema_version: of this form.
  """

  version: str
  source: Source
  assumed: tuple[Assumption, ...]
  num_classes: int
  num_examples: int
  leaked: float
  level: float
  classes: tuple[Estimate, ...]
  scores: tuple[Score, ...]
  learning_rates: tuple[Score, ...]
  remedies: tuple[Remedy, ...]
  warnings: tuple[str, ...]
  limits: tuple[str, ...]
  kind: str = 'horizontal'
  schema_version: int = SCHEMA_VERSION

  @property
  def guessing(self) -> float:
    """Returns the share of the labels that guessing names."""
    return self.scores[0].expected


@dataclasses.dataclass(frozen=True)
class LogSource:
  """What was read of a log.

  Attributes:
    files: paths, as they were given.
    shapes: of each array in the log.
    steps: S, that were attacked.
    lines: rows of all those steps, counted each time.
    notes: remarks on how it was read, of one sentence each.
  """

  files: tuple[str, ...]
  shapes: dict[str, tuple[int, ...]]
  steps: int
  lines: int
  notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Attempt:
  """One attack on the rows of a log, or one way to guess.

  Attributes:
    name: of it.
    granted: what it knows beside the log, in words.
    counts: [K] how many rows it gives each class; sizes of groups.
    named: whether its classes have names; groups have none.
    guess: whether it reads nothing of the log.
    confidence: probability that a label it names is right, mean of the rows;
      None where nothing supports one.
    accuracy: share of the rows that it names in truth, where that was told.
    renamed: the same after the best renaming of classes, which only the truth
      can choose: how well classes are told apart.
  """

  name: str
  granted: tuple[str, ...]
  counts: tuple[int, ...]
  named: bool
  guess: bool = False
  confidence: Optional[float] = None
  accuracy: Optional[float] = None
  renamed: Optional[float] = None


@dataclasses.dataclass(frozen=True)
class VerticalAssessment:
  """All that is shown of a passive party's log.

  Attributes:
    version: of labelleak.
    source: what was read.
    assumed: what was told and assumed of the training.
    num_classes: K.
    num_rows: rows of the data set that were attacked.
    guessing: share of the labels that guessing names, 1 / K.
    leaked: share of the labels that the best attack names: in truth where that
      was told, else by its confidence; None: nothing is claimed.
    attempts: of each attack, guessing first.
    truth: [K] rows of each class, where labels were told.
    warnings: of a wrong description, one sentence each.
    limits: what all of this does not show, one sentence each.
    kind: of FL.
    schema_version: of this form.
  """

  version: str
  source: LogSource
  assumed: tuple[Assumption, ...]
  num_classes: int
  num_rows: int
  guessing: float
  leaked: Optional[float]
  attempts: tuple[Attempt, ...]
  truth: Optional[tuple[int, ...]]
  warnings: tuple[str, ...]
  limits: tuple[str, ...]
  kind: str = 'vertical'
  schema_version: int = SCHEMA_VERSION


AnyAssessment = Union[Assessment, VerticalAssessment]
_KINDS = {'horizontal': Assessment, 'vertical': VerticalAssessment}


def to_json(assessment: AnyAssessment) -> str:
  """Returns an assessment as JSON, whose fields are those of the classes."""
  data = dataclasses.asdict(assessment)
  return json.dumps(data, indent=2, allow_nan=False) + '\n'


def from_json(text: str) -> AnyAssessment:
  """Returns the assessment that `to_json` wrote.

  Raises:
    InputError: another schema.
  """
  data = json.loads(text)
  version = data.get('schema_version')
  if version != SCHEMA_VERSION:
    raise InputError(
      f'schema_version={version!r} is not {SCHEMA_VERSION}, which this version'
      ' reads; audit again.'
    )
  return _build(_KINDS[data.get('kind', 'horizontal')], data)


def _build(kind: Any, value: Any) -> Any:
  """Makes a value of JSON what an annotation says."""
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin is Union:  # Optional
    return None if value is None else _build(args[0], value)
  if dataclasses.is_dataclass(kind):
    hints = typing.get_type_hints(kind)
    return kind(**{name: _build(hints[name], v) for name, v in value.items()})
  if origin is tuple:
    return tuple(_build(args[0], v) for v in value)
  if origin is dict:
    return {name: _build(args[1], v) for name, v in value.items()}
  return value
