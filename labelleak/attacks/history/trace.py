"""What a party keeps of a training: the evidence of every step."""

from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import jax
import numpy as np

from labelleak.attacks.history import words
from labelleak.attacks.linear import ridge
from labelleak.vfl import Known, View

_NAME = 'history.gaussian_process'
_SOLVE = 2**32 - 6  # sets the key apart from those of the pass


class Step(NamedTuple):
  """One step's evidence of its rows."""

  index: np.ndarray  # [n] rows of the data set, padding left out
  evidence: np.ndarray  # [n, K] centred, Y - S where nothing is defended
  precision: float = 1.0  # beside that of other steps
  doubt: float = 1.0  # of the own softmax, 1 where it says nothing


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
  """Returns the trace before the first step."""

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
    InputError: as `words.select_rows`.
  """
  index, view = words.select_rows(_NAME, view, trace.known)
  sealed = view.cut_grads is None
  if sealed:
    found = trace.solve(view)
    precision = 1 / max(float(found.variance), 1e-12)
    squared = np.square(np.asarray(jax.nn.softmax(view.h))).sum(1).mean()
    doubt = float(1 - squared) / (1 - 1 / trace.known.num_classes)
    step = Step(index, -_center(np.asarray(found.u)), precision, doubt)
  else:
    cut = np.asarray(view.cut_grads, np.float32)
    step = Step(index, -_center(cut * max(len(index), 1)))
  return trace._replace(
    steps=(*trace.steps, step), sealed=trace.sealed or sealed
  )


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
