"""What a party keeps of a training: the evidence of every step."""

from typing import Any, NamedTuple

import numpy as np

from labelleak.attacks.scores import readout
from labelleak.base import InputError
from labelleak.vfl import Known, View

_NAME = 'history.gaussian_process'


class Step(NamedTuple):
  """One step's evidence of its rows; a sealed link would leave equations."""

  index: np.ndarray  # [n] rows of the data set, padding left out
  evidence: np.ndarray  # [n, K] centred, Y - S where nothing is defended


class Trace(NamedTuple):
  """The steps so far, n (K + 1) numbers each.

  Attributes:
    known: what the attack was granted.
    steps: in their order.
  """

  known: Known
  steps: tuple[Step, ...] = ()


def observe(trace: Trace, view: View) -> Trace:
  """Returns the trace with the evidence of one more step.

  The loss is a mean over the rows of a batch, so that the evidence of a row is
  minus its cut gradient by their number. Logits are added: D = K.

  Raises:
    InputError: a sealed view, one without rows' names, D != K, entries that are
      not finite, rows that are none of the pool.
  """
  known = trace.known
  view, _ = view.check(_NAME, known)
  cut = np.asarray(readout.cut_gradient(_NAME, view))
  if cut.shape[-1] != known.num_classes:
    raise InputError(
      f'cut gradients of width {cut.shape[-1]} for {known.num_classes} classes:'
      f' {_NAME} needs one entry a class; use a joint model without a top.'
    )
  if view.index is None:
    raise InputError(
      f'{_NAME} keeps rows over a training, and this view names none; give it'
      ' index.'
    )
  index = np.asarray(view.index)
  real = index >= 0
  if index.max(initial=-1) >= known.pool.size:
    raise InputError(
      f'row {index.max()} of a view is none of the {known.pool.size} rows of'
      ' the pool; grant the pool that the batches are of.'
    )
  evidence = -cut[real] * max(real.sum(), 1)
  evidence = evidence - evidence.mean(-1, keepdims=True)
  step = Step(index[real], evidence.astype(np.float32))
  return trace._replace(steps=(*trace.steps, step))


def ignore(memory: Any, view: View) -> Any:
  """Returns the memory of what needs no step of a training as it was."""
  del view
  return memory


def combine(trace: Trace, gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns each row's evidence [N, K] and its precision [N], 0 of none.

  Args:
    trace: of T steps.
    gains: [T] how strong a step's evidence is; the best linear estimate of
      equally noisy steps weighs them by it.
  """
  size, num_classes = trace.known.pool.size, trace.known.num_classes
  total, precision = np.zeros((size, num_classes)), np.zeros(size)
  for gain, (index, evidence) in zip(gains, trace.steps, strict=True):
    np.add.at(total, index, gain * evidence)
    np.add.at(precision, index, gain**2)
  return total / np.maximum(precision, 1e-12)[:, None], precision
