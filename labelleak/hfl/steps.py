"""Slices of the examples that local steps take, as papers cut them."""

import math

from labelleak import validate
from labelleak.base import InputError


def step_sizes(batch_size: int, steps: int) -> tuple[int, ...]:
  """Examples in each local step: slices of ceil(B/S), the last one ragged.

  >>> step_sizes(128, 10)
  (13, 13, 13, 13, 13, 13, 13, 13, 13, 11)

  Indices wrap modulo B where B < S, as in the released code, so that each
  step then revisits one example.

  Raises:
    InputError: a step would be left without examples.
  """
  validate.whole('batch_size', batch_size, 1)
  validate.whole('local_steps', steps, 1)
  if batch_size < steps:
    return (1,) * steps
  size = math.ceil(batch_size / steps)
  sizes = tuple(
    min(size, batch_size - start) for start in range(0, steps * size, size)
  )
  if min(sizes) < 1:
    good = math.ceil(batch_size / size)
    raise InputError(
      f'batch_size={batch_size} in slices of ceil(B/S)={size} leaves'
      f' {sum(s < 1 for s in sizes)} of local_steps={steps} without'
      f' examples; use local_steps={good}.'
    )
  return sizes
