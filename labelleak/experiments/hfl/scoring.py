"""What experiments make of a trial: metrics, where answers meet the truth."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex

from labelleak import base, hfl
from labelleak.base import Batch


class Attacked(NamedTuple):
  """A trial as an attack saw it, and what it said.

  Attributes:
    name: of the attack.
    memory: the last view, of an attack of an instant.
    known: what it was granted.
    answer: what it returned.
  """

  name: str
  memory: base.Memory
  known: hfl.Known
  answer: base.Answer


# (attacked, batches [C, B, ...], shared) -> values by their names
Score = Callable[[Attacked, Batch, Any], dict[str, Any]]


class Scoring(NamedTuple):
  """What an experiment is after; attacks run on the same views for each.

  Attributes:
    score: of one attack; it may lack some metrics, and have arrays beside.
    metrics: names of the metrics [], that of papers first.
    shared: arrays that `score` reads.
  """

  score: Score
  metrics: Sequence[str]
  shared: chex.ArrayTree = ()
