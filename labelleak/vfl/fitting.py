"""Fitting: a joint model trained step by step, and asked about rows."""

from collections.abc import Callable
import functools
from typing import Any, Optional, Protocol

import chex
import jax
import numpy as np

from labelleak import train
from labelleak.base import Batch
from labelleak.vfl.protocol import Protocol as Joint
from labelleak.vfl.protocol import State

_EVALUATED = 2048  # rows of a batch when rows are scored


class Rows(Protocol):
  """A data set on the host, such as `data.Source`."""

  y: np.ndarray  # [N] labels

  def take(self, index: np.ndarray) -> np.ndarray:
    """Returns examples [n, ...] of rows index [n]."""


# x [n, ...] -> what is asked of it, such as P parts [n, ...]
Split = Callable[[np.ndarray], chex.ArrayTree]
# numbers [n] of steps, from 1 -> their batches, leaves [n, B, ...]
Batches = Callable[[np.ndarray], Batch]


def fit(
  protocol: Joint,
  state: State,
  batches: Batches,
  *,
  steps: int,
  workdir: Optional[str] = None,
  made_by: str = '',
  every: float = 0.0,
  callback: Optional[train.Callback] = None,
  progress: Optional[bool] = None,
) -> State:
  """Trains a joint model and returns its last state; no view is kept.

  Args:
    protocol: of the joint model.
    state, steps, workdir, made_by, every, callback, progress: see `train.fit`.
    batches: of the steps, such as `epochs` with all else given.

  Raises:
    FloatingPointError: a loss is not finite; names the step.
    InputError: a sealed batch of one row.
  """

  def check_batches(numbers):
    batch = batches(numbers)
    protocol.check(batch)
    return batch

  return train.fit(
    train_step(protocol),
    state,
    check_batches,
    steps=steps,
    workdir=workdir,
    made_by=made_by,
    every=every,
    callback=callback,
    progress=progress,
  )


@functools.lru_cache(maxsize=16)  # one function, one compilation
def train_step(
  protocol: Joint,
) -> Callable[[State, Batch], tuple[State, Any]]:
  """Returns (state, batch) -> (state, metrics), a step that drops its views."""

  def step(state, batch):
    state, (_, metrics) = protocol.step(state, batch)
    return state, metrics

  return step


def score_rows(
  function: Callable[[tuple[chex.Array, ...]], chex.Array],
  source: Rows,
  split: Split,
  rows: Optional[np.ndarray] = None,
) -> np.ndarray:
  """Returns what a function says of rows of the data, [n, ...].

  Args:
    function: xs of a batch -> [B, ...].
    source: the data.
    split: which features each party holds.
    rows: [n]; None: all.
  """
  rows = np.arange(len(source.y)) if rows is None else rows
  scores, size = [], len(rows)
  for start in range(0, size, _EVALUATED):
    # The last batch wraps around, so that all of them have one shape.
    index = rows[np.arange(start, start + min(_EVALUATED, size)) % size]
    scores.append(np.asarray(function(split(source.take(index)))))
  return np.concatenate(scores)[:size]


def accuracy(
  protocol: Joint, state: State, source: Rows, split: Split
) -> float:
  """Returns the share of `source` that the joint model classifies right."""
  predict = functools.partial(jax.jit(protocol.predict), state)
  p = score_rows(predict, source, split)
  return int((p.argmax(-1) == source.y).sum()) / len(source.y)
