"""What a party keeps of a training: every step, and what it says of rows."""

from collections.abc import Callable
import tempfile
from typing import Any, NamedTuple, Optional, Union

import jax
import numpy as np

from labelleak.attacks.history import laws, sealed, signs, words
from labelleak.attacks.linear import directions
from labelleak.base import InputError
from labelleak.vfl import Known, View

_NAME = 'history.gaussian_process'
_LINKS = 'in the clear', 'sealed'
HELD = 2**30  # bytes of directions that stay in memory


class Step(NamedTuple):
  """One step in the clear."""

  index: np.ndarray  # [n] rows of the data set, padding left out
  cut: np.ndarray  # [n, K] B U, which is S - Y where nothing is defended


class Evidence(NamedTuple):
  """What one step says of its rows, in the clear."""

  index: np.ndarray  # [n] rows of the data set of which it says something
  evidence: np.ndarray  # [n, K] of Y - 1 / K, centred


class Trace(NamedTuple):
  """The steps so far, n (K + 1) numbers each; sealed ones, r n K.

  Directions of sealed steps beyond the first gigabyte are mapped from files,
  which last as long as the trace; `MemoryFolder` keeps it for longer.

  Attributes:
    known: what the attack was granted.
    steps: in their order; `read` makes evidence of those in the clear.
    read: what reads a sealed step.
    sealed: whether any was.
  """

  known: Known
  steps: tuple[Union[Step, Evidence, sealed.Step], ...] = ()
  read: Optional[Callable[[View], Optional[directions.Directions]]] = None
  sealed: bool = False


def init(known: Known) -> Trace:
  """Returns the trace before the first step.

  Raises:
    InputError: as `words.check_pool`.
  """
  words.check_pool(_NAME, known)
  return Trace(known, (), directions.make_read(_NAME, known))


def observe(trace: Trace, view: View) -> Trace:
  """Returns the trace with one more step.

  The loss is a mean over the rows of a batch, so that a row's cut gradient by
  their number is its own. Logits are added: D = K.

  Raises:
    InputError: as `words.select_rows`; sealed views and clear ones together;
      sealed batches, or classes, that are too many.
  """
  index, part = words.select_rows(_NAME, view, trace.known)
  is_sealed = view.cut_grads is None
  if trace.steps and is_sealed != trace.sealed:
    raise InputError(
      f'{_NAME} has seen steps whose link is {_LINKS[trace.sealed]}, and this'
      f' one is {_LINKS[is_sealed]}; keep a memory of each.'
    )
  if not len(index):
    return trace
  if is_sealed:
    if trace.known.num_classes > sealed.MOST:
      raise InputError(
        f'{_NAME} reads sealed steps of up to {sealed.MOST} classes, not'
        f' {trace.known.num_classes}; use history.classifier.'
      )
    sent = trace.read(view)
    if sent is None:  # it says nothing
      return trace
    gain = _measure_gain(part.h, sent.variance)
    vectors = _store(trace, np.ascontiguousarray(sent.vectors))
    step = sealed.Step(index, vectors, -sent.observed, sent.variance, gain)
  else:
    cut = np.asarray(part.cut_grads, np.float32)
    step = Step(index, cut * len(index))
  return trace._replace(steps=(*trace.steps, step), sealed=is_sealed)


def read(trace: Trace) -> Trace:
  """Returns a trace in the clear with what its steps say of Y - 1 / K.

  They are labels where signs show that nothing was added (`signs`), though
  perhaps a code before; else minus their entries, or what `laws` makes of them
  where the defense is granted.
  """
  labels = signs.read([step.cut for step in trace.steps])
  if labels is None:
    weigh = laws.make_read(trace.known)
    steps = [Evidence(index, weigh(cut)) for index, cut in trace.steps]
    return trace._replace(steps=tuple(steps))
  steps = []
  for step, label in zip(trace.steps, labels, strict=True):
    rows = label.any(1)
    evidence = label[rows] - 1 / label.shape[1]
    steps += [Evidence(step.index[rows], evidence)] if rows.any() else []
  return trace._replace(steps=tuple(steps))


def _store(trace, vectors):
  """Returns directions as they are, or where memory is full as they lie."""
  held = sum(
    step.vectors.nbytes
    for step in trace.steps
    if not isinstance(step.vectors, np.memmap)
  )
  if held + vectors.nbytes <= HELD:
    return vectors
  with tempfile.TemporaryFile() as file:
    mapped = np.memmap(file, vectors.dtype, 'w+', shape=vectors.shape)
  mapped[:] = vectors
  return mapped


def _measure_gain(h, variance):
  """Returns how much of Y - 1 / K a sealed step shows of rows [n], in (0, 1].

  As labels are learned, S - Y shrinks about as the doubt of own softmaxes does,
  and where its variance is less than theirs, by that: models that are surer
  than their half, or what was clipped.
  """
  classes = h.shape[1]
  doubt = 1 - np.square(np.asarray(jax.nn.softmax(h))).sum(1)
  small = min(variance / max(doubt.mean() / (classes - 1), 1e-12), 1.0)
  return np.maximum(doubt, 1e-6) / (1 - 1 / classes) * small**0.5


def ignore(memory: Any, view: View) -> Any:
  """Returns the memory of what needs no step of a training as it was."""
  del view
  return memory


def combine(trace: Trace, gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns each row's evidence [N, K] and its precision [N], 0 of none.

  Args:
    trace: of T steps.
    gains: [T] how strong a step's evidence is, by which the best linear
      estimate weighs it.
  """
  size, num_classes = trace.known.pool.size, trace.known.num_classes
  total, precision = np.zeros((size, num_classes)), np.zeros(size)
  for gain, step in zip(gains, trace.steps, strict=True):
    np.add.at(total, step.index, gain * step.evidence)
    np.add.at(precision, step.index, gain**2)
  return total / np.maximum(precision, 1e-12)[:, None], precision
