"""The fields that experiments read, and what each must be.

An experiment is annotated with those of its config, which is checked before the
call: `def experiment(*, config: fields.Vertical)`. Configs may have more fields
than these; a dict inside has no others.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NotRequired, Optional, TypedDict

from ml_collections import ConfigDict

from labelleak.spec import Spec

Specs = Sequence[Any]  # what loads them says best what is wrong with them


class _Run(TypedDict):
  """What `experiments.run` itself reads of every config."""

  name: str
  experiment: str
  trials: int
  seed: int
  sweep: Sequence[Any]


class StandsFor(TypedDict):
  """What was published, where the data or the model only stand for it."""

  data: Optional[str]
  model: Optional[str]


class Encryption(TypedDict):
  """What homomorphic encryption may take."""

  max_hours: float


class _Classifier(TypedDict):
  """Arguments of `train.classifier`, and what it is trained on."""

  steps: int
  batch_size: int
  lr: float
  optimizer: NotRequired[str]
  weight_decay: NotRequired[float]
  seed: NotRequired[int]
  workdir: NotRequired[Optional[str]]
  split: NotRequired[str]
  defended: NotRequired[bool]


class _MainTask(_Classifier):
  seeds: NotRequired[int]
  dataset: NotRequired[Spec]
  model: NotRequired[Spec]


Classifier = Annotated[Mapping[str, Any], _Classifier]
MainTask = Annotated[Mapping[str, Any], _MainTask]


class _Common(TypedDict):
  """What both kinds of FL have."""

  dataset: Spec
  data_dir: Optional[str]
  model: Spec
  attacks: Specs
  known: Sequence[str]
  stands_for: StandsFor
  defense: Specs
  aggregate: Spec
  he: Encryption
  batch_size: int
  trials: int
  seed: int
  per_device: Optional[int]


class Auxiliary(TypedDict):
  """Examples of the attacker's own."""

  per_class: int
  split: Optional[str]
  overlap: bool


class _Horizontal(_Common):
  weights: Optional[str]
  train: Optional[Classifier]
  main_task: NotRequired[Optional[MainTask]]
  aux: Auxiliary
  clients: int
  local_steps: Optional[int]
  lr: Optional[float]
  client: NotRequired[Optional[Mapping[str, Any]]]
  queries: int
  rounds: int
  shifting: NotRequired[bool]
  partition: str
  per_class_cap: Optional[int]


class Audit(TypedDict):
  """The page of a simulated audit."""

  remedies: bool


class _LabelCounts(_Horizontal):
  audit: NotRequired[Optional[Audit]]


class _Reconstruction(_Horizontal):
  lpips: Optional[str]
  shown: int


class Rows(TypedDict):
  """Rows whose labels may be granted."""

  per_class: int


class Observed(TypedDict):
  """The steps of a training that are attacked."""

  steps: int
  epochs: int


class Training(TypedDict):
  """The joint training."""

  epochs: int
  steps: int
  batch_size: int
  shuffle: bool
  tested: str
  workdir: Optional[str]


class _Vertical(_Common):
  classes: Optional[int]
  split: Spec
  loss: NotRequired[Optional[Spec]]
  cut_width: Optional[int]
  top: Optional[Spec]
  top_optimizer: Optional[Spec]
  attacker: int
  defend_active: bool
  arbiter: NotRequired[bool]
  aux: Rows
  draw: str
  observed: Observed
  optimizer: Spec
  train: Training


class Poison(TypedDict):
  """Rows that bear a trigger; see `data.poison`."""

  count: Optional[int]
  targets: int
  target: Optional[int]
  form: str
  attackers: Sequence[int]
  inference: Optional[Spec]


class _WholeTraining(_Vertical):
  after: Sequence[int]


class _Backdoor(_Vertical):
  trigger: Spec
  poison: Poison


class _Completion(_Vertical):
  class_weights: Sequence[float]
  weights: Optional[str]
  scored_rows: Optional[int]


class Figures(TypedDict):
  """What is drawn of a joint model."""

  rows: int
  points: int
  images: int
  layer: str


class _Attribution(_Completion):
  figures: Figures


class Exploit(TypedDict):
  """A property, and the network that learns it."""

  column: int
  per_class: int
  lr: float
  momentum: float
  epochs: int
  batch_size: int


class _Property(_Completion):
  exploit: Exploit


class _Codes(TypedDict):
  """What statistics of label codes read."""

  classes: int
  defense: Specs
  trials: int
  seed: int


Run = Annotated[ConfigDict, _Run]
LabelCounts = Annotated[ConfigDict, _LabelCounts]
Reconstruction = Annotated[ConfigDict, _Reconstruction]
Vertical = Annotated[ConfigDict, _Vertical]
WholeTraining = Annotated[ConfigDict, _WholeTraining]
Backdoor = Annotated[ConfigDict, _Backdoor]
Completion = Annotated[ConfigDict, _Completion]
Attribution = Annotated[ConfigDict, _Attribution]
Property = Annotated[ConfigDict, _Property]
Codes = Annotated[ConfigDict, _Codes]
