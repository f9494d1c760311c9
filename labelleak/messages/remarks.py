"""What a user should know of a capture: one plain sentence each."""

from collections.abc import Iterator
from typing import Optional

import jax.numpy as jnp
import numpy as np

from labelleak.messages import checks, layers
from labelleak.messages.files import File
from labelleak.models.weights import state_dicts
from labelleak.models.weights.state_dicts import State

_LOUD = 0.1  # of rounding beside an update
_SKEW = 1.0  # of a bias whose sign looks turned


def on_files(server: Optional[File], client: File) -> Iterator[str]:
  """Yields how both files were read, and what they tell beside the head."""
  yield from client.notes
  if server is None:
    return
  yield from server.notes
  absent = server.parameters.keys() - client.parameters.keys()
  if absent:
    yield (
      f'{client.path} lacks {state_dicts.abbreviate(absent)} of {server.path},'
      ' so the norm leaves them out.'
    )
  rises = checks.count_batches(server, client)
  if len(rises) == 1 and min(rises) > 0:
    yield f'num_batches_tracked rose by {min(rises):g}, the local steps.'


def on_head(
  update: State,
  server: Optional[State],
  precision: float,
) -> Iterator[str]:
  """Yields what the head's update has that plain training does not make.

  Args:
    update: leaves [..., K].
    server: the same leaves before, if they are there.
    precision: relative distance of neighbouring numbers in the files.
  """
  rounding = 0.0
  if server is not None:
    sizes = [sum(np.abs(v).sum() for v in s.values()) for s in (server, update)]
    rounding = precision / 4 * sizes[0] / sizes[1]  # half at most, on average
  if rounding > _LOUD:
    yield (
      f'Rounding in the files is about {min(rounding, 1):.0%} of the update of'
      ' the head, and no attack can tell them apart.'
    )
  sums = {leaf: layers.imbalance(value) for leaf, value in update.items()}
  worst = max(sums, key=sums.get)
  num_classes = update[worst].shape[-1]
  noise = 3 * rounding / num_classes**0.5
  if sums[worst] > layers.tolerance(num_classes) + noise:
    yield (
      f'The {worst} does not sum to zero over classes ({sums[worst]:.2g} of its'
      ' size), as under softmax cross entropy and SGD: Adam, weight decay,'
      ' sigmoid outputs, noise or rounding would do that, and so would another'
      ' layer, or weights in place of an update.'
    )
  bias = update.get('bias')
  if bias is not None and bias.size > 3:
    centered = np.float64(bias) - np.mean(bias, dtype=np.float64)
    deviation = np.sqrt(np.mean(centered**2))
    if np.mean(centered**3) > _SKEW * deviation**3:
      yield (
        'The largest entries of the bias are positive, though labels make them'
        ' negative: before and after, or sign=, may be swapped.'
      )


def precision(
  server: Optional[File],
  client: File,
  layer: layers.Layer,
) -> float:
  """Returns the coarser relative spacing of the head's numbers in the files."""
  files = [file for file in (server, client) if file is not None]
  names = [name for name in (layer.kernel, layer.bias) if name]
  return max(
    float(jnp.finfo(file.parameters[name].dtype).eps)
    for file in files
    for name in names
  )
