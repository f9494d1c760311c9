"""What a party keeps of a training: the evidence of every step."""

from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import jax
import numpy as np

from labelleak.attacks.history import words
from labelleak.attacks.linear import ridge
from labelleak.base import InputError
from labelleak.vfl import Known, View

_NAME = 'history.gaussian_process'
_LINKS = 'in the clear', 'sealed'
_SOLVE = 2**32 - 6  # sets the key apart from those of the pass


class Step(NamedTuple):
  """One step's evidence of its rows."""

  index: np.ndarray  # [n] rows of the data set, padding left out
  evidence: np.ndarray  # [n, K] centred, Y - S where nothing is defended
  precision: float = 1.0  # beside that of other steps
  gain: float = 1.0  # how much of Y - 1 / K it shows, as far as is seen


class Trace(NamedTuple):
  """The steps so far, n (K + 1) numbers each.

  Attributes:
    known: what the attack was granted.
    steps: in their order.
    solve: what solves a sealed step.
    sealed: whether any was.
  """

  known: Known
  steps: tuple[Step, ...] = ()
  solve: Optional[Callable[[View], ridge.LeastSquares]] = None
  sealed: bool = False


def init(known: Known) -> Trace:
  """Returns the trace before the first step.

  Raises:
    InputError: as `words.check_pool`.
  """
  words.check_pool(_NAME, known)

  @jax.jit
  def solve(view):
    key = jax.random.fold_in(view.key, _SOLVE)
    return ridge.solve(key, view, known)

  return Trace(known, (), solve)


def observe(trace: Trace, view: View) -> Trace:
  """Returns the trace with the evidence of one more step.

  The loss is a mean over the rows of a batch, so that the evidence of a row is
  minus its cut gradient by their number. Logits are added: D = K. Where the
  link is sealed, cut gradients are those of least squares; in directions of
  which the equations say nothing they are 0.

  Raises:
    InputError: as `words.select_rows`; sealed views and clear ones together.
  """
  index, view = words.select_rows(_NAME, view, trace.known)
  sealed = view.cut_grads is None
  if trace.steps and sealed != trace.sealed:
    raise InputError(
      f'{_NAME} has seen steps whose link is {_LINKS[trace.sealed]}, and this'
      f' one is {_LINKS[sealed]}; keep a memory of each.'
    )
  if not len(index):
    return trace
  if sealed:
    found = trace.solve(view)
    variance = float(found.variance)
    if not variance > 0:  # it says nothing
      return trace
    gain = _measure_gain(view.h, variance)
    step = Step(index, -_center(np.asarray(found.u)), 1 / variance, gain)
  else:
    cut = np.asarray(view.cut_grads, np.float32)
    step = Step(index, -_center(cut * len(index)))
  return trace._replace(steps=(*trace.steps, step), sealed=sealed)


def _measure_gain(h, variance):
  """Returns how much of Y - 1 / K a sealed step shows, in (0, 1].

  As labels are learned, S - Y shrinks about as the doubt of own softmaxes does,
  and where its variance is less than theirs, by that: models that are surer
  than their half, or what was clipped.
  """
  classes = h.shape[1]
  doubt = float(1 - np.square(np.asarray(jax.nn.softmax(h))).sum(1).mean())
  small = min(variance / max(doubt / classes, 1e-12), 1.0)
  return doubt / (1 - 1 / classes) * small**0.5


def _center(a):
  return a - a.mean(-1, keepdims=True)


def ignore(memory: Any, view: View) -> Any:
  """Returns the memory of what needs no step of a training as it was."""
  del view
  return memory


def combine(trace: Trace, gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns each row's evidence [N, K] and its precision [N], 0 of none.

  Args:
    trace: of T steps.
    gains: [T] how strong a step's evidence is; the best linear estimate weighs
      steps by it and by their precision.
  """
  size, num_classes = trace.known.pool.size, trace.known.num_classes
  total, precision = np.zeros((size, num_classes)), np.zeros(size)
  for gain, step in zip(gains, trace.steps, strict=True):
    np.add.at(total, step.index, gain * step.precision * step.evidence)
    np.add.at(precision, step.index, gain**2 * step.precision)
  return total / np.maximum(precision, 1e-12)[:, None], precision
