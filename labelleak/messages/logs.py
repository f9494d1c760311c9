"""What a passive party of vertical FL logged of its training, step by step.

A file (.npz or .safetensors) of these arrays. M lines are the rows of S steps,
one step after the other; a row of the data set has the same number throughout.

  step              [M] integers that never fall: the step of each line
  row               [M] integers: the row of each line, once in a step
  cut_grads         [M, D] floats: the gradient of each line's embedding, as it
                    was received; [M] of one logit
  h                 [M, D] floats: the embedding as it was sent
  x                 [M, ...] numbers: the party's own input
  params/NAME       [S, ...] floats: the bottom's parameters in each step
  param_grads/NAME  [S, ...] floats: their gradients, of the whole step

`cut_grads` (a link in the clear), or `x`, `params/` and `param_grads/` (a
sealed one) must be there; `h` never need be.
"""

import os
from typing import NamedTuple, Optional

import jax.numpy as jnp
import numpy as np

from labelleak.base import InputError
from labelleak.messages import files
from labelleak.models.weights import state_dicts
from labelleak.models.weights.state_dicts import Path, State

_NUMBERS = 'step', 'row'
_LINES = 'cut_grads', 'h', 'x'
_PARAMS, _GRADS = 'params/', 'param_grads/'
_GUIDE = 'see docs/guides/audit_vertical.md'


class Step(NamedTuple):
  """What the party has of one step; None or {} of what was not logged.

  Attributes:
    number: of the step.
    rows: [B] of the data set.
    cut_grads: [B, D] as received.
    h: [B, D] as sent.
    x: [B, ...] own inputs.
    params: of the bottom, by their names in the file.
    param_grads: like `params`.
  """

  number: int
  rows: np.ndarray
  cut_grads: Optional[np.ndarray]
  h: Optional[np.ndarray]
  x: Optional[np.ndarray]
  params: State
  param_grads: State


class Log(NamedTuple):
  """A log of one party.

  Attributes:
    path: of the file.
    steps: in their order.
    shapes: of each array of the file.
    notes: remarks on how it was read, of one sentence each.
  """

  path: str
  steps: tuple[Step, ...]
  shapes: dict[str, tuple[int, ...]]
  notes: tuple[str, ...]


def read_log(path: Path) -> Log:
  """Reads the log of a passive party.

  Raises:
    InputError: a file that cannot be read, an array that is missing, unknown,
      of another length, no numbers or not finite, or gradients that are none.
  """
  path = os.fspath(path)
  state = {n: _restore(v) for n, v in files.read_tensors(path).items()}
  shapes = {name: value.shape for name, value in state.items()}
  _check_names(path, state)
  notes = _remark_halves(path, state)
  for name in _NUMBERS:
    _check_numbers(path, name, state[name], len(np.ravel(state['step'])))
  for name in _LINES:
    if name in state:
      state[name] = _check_lines(path, name, state[name], len(state['step']))
  starts = _check_steps(path, state['step'], state['row'])
  params, grads = (_select(path, state, p) for p in (_PARAMS, _GRADS))
  _check_params(path, params, grads, state['step'][starts])
  _check_cut(path, state)
  return Log(
    path=path,
    steps=tuple(_split(state, params, grads, starts)),
    shapes=shapes,
    notes=(*notes, *_remark_zeros(state)),
  )


def _restore(value):
  """Returns bfloat16 as such, which NumPy's files forget."""
  return value.view(jnp.bfloat16) if value.dtype == np.dtype('V2') else value


def _select(path, state, prefix) -> State:
  """Selects the finite floats below a prefix, without buffers."""
  chosen = {
    name.removeprefix(prefix): value
    for name, value in state.items()
    if name.startswith(prefix) and not files.is_buffer(name, value)
  }
  for name, value in chosen.items():
    state_dicts.check_values(path, prefix + name, value)
  return {name: np.float32(value) for name, value in chosen.items()}


def _split(state, params, grads, starts):
  """Yields the steps, whose first lines are at `starts` [S]."""
  ends = [*starts[1:], len(state['step'])]
  for i, (start, end) in enumerate(zip(starts, ends)):
    part = {n: state[n][start:end] for n in _LINES if n in state}
    yield Step(
      number=int(state['step'][start]),
      rows=state['row'][start:end].astype(np.int64),
      cut_grads=part.get('cut_grads'),
      h=part.get('h'),
      x=part.get('x'),
      params={name: value[i] for name, value in params.items()},
      param_grads={name: value[i] for name, value in grads.items()},
    )


def _check_names(path, state):
  """Refuses arrays that have no place here, and a log without gradients."""
  known = {*_NUMBERS, *_LINES}
  prefixed = lambda name: any(
    name.startswith(p) and name != p for p in (_PARAMS, _GRADS)
  )
  unknown = [n for n in state if n not in known and not prefixed(n)]
  if unknown:
    raise InputError(
      f'{path} holds {state_dicts.abbreviate(map(repr, unknown))}, which no log'
      f' has; call arrays {", ".join([*_NUMBERS, *_LINES])}, params/NAME and'
      f' param_grads/NAME: {_GUIDE}.'
    )
  missing = [name for name in _NUMBERS if name not in state]
  sealed = any(name.startswith(_GRADS) for name in state)
  if sealed:
    missing += [n for n in ('x',) if n not in state]
    if not any(name.startswith(_PARAMS) for name in state):
      missing.append('params/NAME')
  elif 'cut_grads' not in state:
    missing.append('cut_grads (or param_grads/NAME, of a sealed link)')
  if missing:
    raise InputError(f'{path} lacks {", ".join(missing)}; {_GUIDE}.')


def _check_numbers(path, name, value, num):
  """Refuses what are no numbers of steps or rows [M]."""
  if value.shape != (num,) or not num or value.dtype.kind not in 'iu':
    raise InputError(
      f'{path}: {name} {value.dtype}{list(value.shape)} must be integers'
      f' [{num or "M"}], one for each line; number them.'
    )
  if value.min() < 0 or value.max() >= 2**31:
    raise InputError(
      f'{path}: {name} has {value.min()}..{value.max()}, which must be in'
      ' 0..2^31 - 1; number them anew.'
    )


def _check_lines(path, name, value, num) -> np.ndarray:
  """Returns an array of lines [M, ...] in float32, refuses others."""
  if value.ndim == 0 or len(value) != num:
    raise InputError(
      f'{path}: {name} {list(value.shape)} must have a line for each of the'
      f' {num} of step; log all of them together.'
    )
  if name == 'x' and value.dtype.kind in 'iu':  # pixels, categories
    return np.float32(value).reshape(num, -1) if value.ndim == 1 else value
  state_dicts.check_values(path, name, value)
  value = np.float32(value)
  if value.ndim == 1:
    value = value[:, None]
  if (value.ndim != 2 and name != 'x') or not value.size:
    raise InputError(
      f'{path}: {name} {list(value.shape)} must be [M, D], one vector a line;'
      ' flatten it as it was sent.'
    )
  return value


def _check_steps(path, step, row) -> np.ndarray:
  """Returns where steps begin, [S]; refuses others than in order."""
  if (step[1:] < step[:-1]).any():
    at = int((step[1:] < step[:-1]).argmax()) + 1
    raise InputError(
      f'{path}: step falls from {step[at - 1]} to {step[at]} at line {at}; sort'
      ' the lines by step, and number the steps of all epochs in one row.'
    )
  pairs = np.stack([step, row], 1).astype(np.int64)
  unique, counts = np.unique(pairs, axis=0, return_counts=True)
  if (counts > 1).any():
    twice = unique[counts.argmax()]
    raise InputError(
      f'{path}: row {twice[1]} stands {counts.max()} times in step {twice[0]};'
      ' a step has each row once: give every step a number of its own.'
    )
  return np.flatnonzero(np.r_[True, step[1:] != step[:-1]])


def _check_params(path, params, grads, steps):
  """Refuses parameters and gradients that are not alike, or are none."""
  for prefix, group in (_PARAMS, params), (_GRADS, grads):
    for name, value in group.items():
      if value.ndim < 2 or len(value) != len(steps):
        raise InputError(
          f'{path}: {prefix}{name} {list(value.shape)} must be'
          f' [{len(steps)}, ...], one for each step; stack those of all steps.'
        )
  shape = lambda group, name: (
    list(group[name].shape) if name in group else 'absent'
  )
  differing = [
    f'{name} ({shape(params, name)} and {shape(grads, name)})'
    for name in params | grads
    if grads and shape(params, name) != shape(grads, name)
  ]
  if differing:
    raise InputError(
      f'{path}: params/ and param_grads/ differ in'
      f' {state_dicts.abbreviate(differing)}; log both of one bottom.'
    )
  sizes = [
    np.abs(value).reshape(len(value), -1).max(1) for value in grads.values()
  ]
  if sizes and not np.max(sizes, 0).all():
    raise InputError(
      f'{path}: param_grads/ are 0 in step {steps[np.max(sizes, 0).argmin()]};'
      ' log them after backward(), before they are set to zero.'
    )


def _check_cut(path, state):
  """Refuses cut gradients that are 0, embeddings, or alike in all lines."""
  cut, h = state.get('cut_grads'), state.get('h')
  if cut is None:
    return
  if h is not None and h.shape != cut.shape:
    raise InputError(
      f'{path}: cut_grads {list(cut.shape)} and h {list(h.shape)} must have one'
      ' shape; log the gradient of that embedding.'
    )
  if not cut.any():
    raise InputError(
      f'{path}: cut_grads are 0 throughout; log what was received, not a buffer'
      ' that backward() has yet to fill.'
    )
  if h is not None and np.array_equal(cut, h):
    raise InputError(
      f'{path}: cut_grads are h; log the gradient that came back.'
    )
  if len(cut) > 2 and cut.shape[1] > 1 and (cut == cut[0]).all():
    raise InputError(
      f'{path}: cut_grads are alike in all {len(cut)} lines, as a mean is; log'
      " each line's own."
    )


def _remark_halves(path, state):
  """Returns a remark on arrays of 16 bits, if there are any."""
  half = [n for n, v in state.items() if v.dtype.itemsize == 2]
  names = state_dicts.abbreviate(half)
  return (f'{path}: {names} were widened from 16 bits.',) if half else ()


def _remark_zeros(state):
  """Yields how many cut gradients say nothing."""
  cut = state.get('cut_grads', np.ones((1, 1)))
  zeros = int((~cut.any(1)).sum())
  if zeros:
    yield f'{zeros} of {len(cut)} lines have a cut gradient of 0.'
