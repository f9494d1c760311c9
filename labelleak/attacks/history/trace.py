"""What a party keeps of a training: the evidence of every step."""

from collections.abc import Callable
import tempfile
from typing import Any, NamedTuple, Optional, Union

import jax
import numpy as np

from labelleak.attacks.history import laws, sealed, words
from labelleak.attacks.linear import directions
from labelleak.base import InputError
from labelleak.vfl import Known, View

_NAME = 'history.gaussian_process'
_LINKS = 'in the clear', 'sealed'
HELD = 2**30  # bytes of directions that stay in memory
_ENOUGH = 20  # rows of a step whose signs are no chance
_ROUNDING = 1e-6  # of an entry of S - Y


class Step(NamedTuple):
  """One step's evidence of its rows, in the clear."""

  index: np.ndarray  # [n] rows of the data set that say something
  evidence: np.ndarray  # [n, K] of Y - 1 / K, centred


class Trace(NamedTuple):
  """The steps so far, n (K + 1) numbers each; sealed ones, r n K.

  Directions of sealed steps beyond the first gigabyte are mapped from files,
  which last as long as the trace; `MemoryFolder` keeps it for longer.

  Attributes:
    known: what the attack was granted.
    steps: in their order.
    read: what reads a sealed step.
    sealed: whether any was.
  """

  known: Known
  steps: tuple[Union[Step, sealed.Step], ...] = ()
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
  """Returns the trace with the evidence of one more step.

  The loss is a mean over the rows of a batch, so that the evidence of a row is
  minus its cut gradient by their number, or what `laws` makes of it where the
  defense is granted; where signs show that nothing was added, the label itself,
  or what a code made of it. Logits are added: D = K.

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
    cut = cut * len(index)
    step = _read_signs(index, cut)
    if step is None:
      step = Step(index, laws.make_read(trace.known)(cut))
  return trace._replace(steps=(*trace.steps, step), sealed=is_sealed)


def _read_signs(index, cut):
  """Returns Y - 1 / K of the rows that signs name, where all rows have those.

  Softmax less label sums to 0 and has one negative entry, its label's, unless
  that rounds to 0. Noise of a row has other sums; were it centred, as that of
  two classes is, it has other signs in half of the rows of three and more.
  """
  classes, negative = cut.shape[1], cut < 0
  named = negative.any(1)
  clean = ((cut > 0).sum(1) >= classes - 1) & (
    np.abs(cut.sum(1)) <= _ROUNDING * classes
  )
  if classes < 3 or named.sum() < _ENOUGH or not clean.all():
    return None
  return Step(index[named], np.float32(negative[named]) - 1 / classes)


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
