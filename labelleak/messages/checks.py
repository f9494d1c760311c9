"""Whether two files are one round of one model, and an update is an update."""

import re

import numpy as np

from labelleak.base import InputError
from labelleak.messages.files import File, is_listed
from labelleak.models.weights.state_dicts import State

_COUNTER = re.compile(r'(.*\W)?num_batches_tracked')
_SCALE = re.compile(r'(.*\W)?(weight|scale|gamma)(:\d+)?\W*')
_LARGEST = 10  # sizes of the model that no round moves it by


def check_alike(server: File, client: File, *, whole: bool) -> None:
  """Refuses a client's file of other tensors than the server's.

  Args:
    server: the model before.
    client: the model after, or an update.
    whole: whether the client's must have all tensors of the server's.
  """
  before, after = (
    {name: list(value.shape) for name, value in file.parameters.items()}
    for file in (server, client)
  )
  differing = [
    f'{name} ({before.get(name, "absent")} and {after.get(name, "absent")})'
    for name in (before | after if whole else after)
    if before.get(name) != after.get(name)
  ]
  if differing:
    more = f' and {len(differing) - 3} more' if len(differing) > 3 else ''
    remedy = 'save the same tensors of one model in both'
    if is_listed(before) != is_listed(after):
      remedy = 'give names= for the one that is a list'
    raise InputError(
      f'{server.path} and {client.path} differ in {", ".join(differing[:3])}'
      f'{more}; {remedy}.'
    )


def check_order(server: File, client: File) -> None:
  """Refuses two models in the wrong order, where that is certain.

  Counters of batches only grow, and no step of training makes every entry of a
  norm or a bias exactly 0 or 1, as initialisation does.
  """
  rises = count_batches(server, client)
  initial = [
    name
    for name, value in client.parameters.items()
    if _is_initial(value) and not _is_initial(server.parameters[name])
  ]
  reason = f'{initial[0]} is constant in the latter alone' if initial else ''
  if rises and max(rises) < 0:
    reason = 'the num_batches_tracked of the latter are smaller'
  if reason:
    raise InputError(
      f'{server.path} and {client.path} are in the wrong order: {reason}; give'
      ' as before= what the server sent, as after= what the client returned (or'
      ' leave those tensors out of both).'
    )


def count_batches(server: File, client: File) -> set[float]:
  """Returns by how much the counters of batch norm rose."""
  values = [
    {
      name: float(np.ravel(value)[0])
      for name, value in file.buffers.items()
      if _COUNTER.fullmatch(name)
      and value.size == 1
      and value.dtype.kind in 'iuf'
    }
    for file in (server, client)
  ]
  return {
    v - values[0][name] for name, v in values[1].items() if name in values[0]
  }


def check_scale(server: State, client: File, update: State) -> None:
  """Refuses an update that is a model, or is far larger than the model.

  Args:
    server: parameters before, empty if they were not given.
    client: the file to name.
    update: by name.
  """
  scales = [
    n for n, v in update.items() if _SCALE.fullmatch(n) and _is_scale(v)
  ]
  pairs = [(np.float64(server[n]), update[n]) for n in update if n in server]
  size = sum(float((old * old).sum()) for old, _ in pairs) ** 0.5
  shared = sum(float((old * new).sum()) for old, new in pairs)
  change = norm(update)
  alike = abs(shared) > 0.9 * size * change and 0.3 < change / (size or 1) < 3
  if scales or (size and alike):
    reason = f' ({scales[0]} scales a norm)' if scales else ''
    raise InputError(
      f'{client.path} holds a model where an update is due, or the reverse'
      f'{reason}; models are before= and after=, their difference is update=.'
    )
  if size and change > _LARGEST * size:
    raise InputError(
      f'{client.path} moves the model by {change / size:.3g} times its size,'
      f' where a round is below {_LARGEST}; give the difference of the two'
      ' models as it is, not divided by the learning rate.'
    )


def norm(update: State) -> float:
  """Returns the Euclidean norm of all tensors together."""
  squares = (np.square(v, dtype=np.float64).sum() for v in update.values())
  return float(sum(squares)) ** 0.5


def _is_initial(value):
  """Tells whether a vector of 32 bits or more holds only 0 or only 1."""
  wide = value.ndim == 1 and value.size > 1 and value.dtype.itemsize > 2
  return bool(wide and value[0] in (0, 1) and (value == value[0]).all())


def _is_scale(value):
  """Tells whether a vector lies about 1, as the scale of a norm does."""
  wide = value.ndim == 1 and value.size > 3
  return bool(wide and value.min() > max(0.3, 0.5 * value.max()))
