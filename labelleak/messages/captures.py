"""A client's message in a round: the update of its head, and what shows it."""

from typing import NamedTuple, Optional

import numpy as np

from labelleak import validate
from labelleak.base import InputError
from labelleak.messages import checks, files, heads, layers, remarks
from labelleak.messages.files import File
from labelleak.models.weights.state_dicts import Path, State

_SIGNS = 'server-client', 'client-server'


class Capture(NamedTuple):
  """What an audit needs of a client's message in one round.

  Attributes:
    update: {'kernel' [H, K]?, 'bias' [K]?} of the head, the server's minus the
      client's, not divided by the learning rate; float32.
    server: the same leaves as the server sent them; None if only an update was
      read.
    names: the name in the file of each leaf.
    tensors: how many tensors the whole update has, without buffers.
    buffers: names that are not part of it: running statistics and counters.
    norm: Euclidean norm of the whole update, without buffers.
    notes: remarks for the user, of one sentence each.
  """

  update: State
  server: Optional[State]
  names: dict[str, str]
  tensors: int
  buffers: tuple[str, ...]
  norm: float
  notes: tuple[str, ...]


def read(
  before: Optional[Path] = None,
  after: Optional[Path] = None,
  *,
  update: Optional[Path] = None,
  sign: str = 'server-client',
  names: Optional[files.Names] = None,
  kernel: Optional[str] = None,
  bias: Optional[str] = None,
  num_classes: Optional[int] = None,
) -> Capture:
  """Reads what a client sent: two models or an update, as `files.read` does.

  Args:
    before: the model that the server sent.
    after: the model that the client returned.
    update: in place of `after`, the difference of both; `before` may be given.
    sign: of `update`; NVFlare's WEIGHT_DIFF is 'client-server'.
    names: of the arrays of a list, or a file of them.
    kernel: name of the head's matrix, where `heads.find` needs it.
    bias: name of the head's bias, alike.
    num_classes: K, to find the head by.

  Raises:
    InputError: a file that cannot be read, two models of different
      architectures, no change, no update in truth, or no head.
  """
  if (after is None) == (update is None) or (after and before is None):
    raise InputError(
      'read: give before= and after=, or update= with or without before=; one'
      ' update is the difference of two models.'
    )
  validate.one_of('sign', sign, _SIGNS)
  if num_classes is not None:
    validate.whole('num_classes', num_classes, 2, remedy='it is K')
  server = None if before is None else files.read(before, names)
  client = files.read(update if after is None else after, names)
  if server is not None:
    checks.check_alike(server, client, whole=update is None)
  if update is None:
    checks.check_order(server, client)
  change = _subtract(server, client, sign if after is None else None)
  checks.check_scale(server.parameters if server else {}, client, change)
  options = dict(num_classes=num_classes, kernel=kernel, bias=bias)
  return _capture(server, client, change, **options)


def _subtract(
  server: Optional[File], client: File, sign: Optional[str]
) -> State:
  """Returns server minus client of every parameter; `sign` is an update's."""
  change = {}
  for name, value in client.parameters.items():
    if sign is None:
      value = np.float64(server.parameters[name]) - np.float64(value)
    elif sign == 'client-server':
      value = -value
    with np.errstate(over='ignore'):
      change[name] = np.asarray(value, np.float32)
  if not any(value.any() for value in change.values()):
    raise InputError(
      f'{client.path} holds no change in any of {len(change)} tensors; give the'
      ' model, or the update, after training.'
    )
  if not all(np.isfinite(value).all() for value in change.values()):
    raise InputError(
      f'{client.path} makes a change that is not finite in float32; give the'
      ' models of one round.'
    )
  return change


def _capture(server, client, change, *, num_classes, kernel, bias) -> Capture:
  """Selects the head's leaves of a change of the whole model."""
  layer, notes = heads.find(
    client.path,
    change,
    num_classes=num_classes,
    kernel=kernel,
    bias=bias,
    ordered=not client.path.endswith(('.safetensors', '.json')),
  )
  torch = layers.orient(client.path, change, layer, num_classes)
  leaves = layers.leaves(change, layer, torch)
  update = {leaf: value for leaf, value in leaves.items() if value.any()}
  if not update or next(iter(update.values())).shape[-1] == 1:
    reason = 'one output' if update else 'an update of 0'
    raise InputError(
      f'{client.path}: {layer} has {reason}, which says nothing of labels; give'
      ' a head of two or more classes that was trained, or kernel= and bias=.'
    )
  before = None
  if server is not None:
    before = layers.leaves(server.parameters, layer, torch)
    before = {leaf: np.float32(before[leaf]) for leaf in update}
  names = {leaf: client.names[getattr(layer, leaf)] for leaf in leaves}
  if torch:
    notes += (f'{names["kernel"]} was transposed from [K, H], as of torch.',)
  notes += tuple(
    f'{name} did not change and is left out.'
    for leaf, name in names.items()
    if leaf not in update
  )
  return Capture(
    update=update,
    server=before,
    names={leaf: names[leaf] for leaf in update},
    tensors=len(change),
    buffers=tuple(client.names[name] for name in client.buffers),
    norm=checks.norm(change),
    notes=(
      *notes,
      *remarks.on_files(server, client),
      *remarks.on_head(
        update, before, remarks.precision(server, client, layer)
      ),
    ),
  )
