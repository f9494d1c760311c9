"""What a round's update says of each class, read from its head."""

import chex

from labelleak import hfl
from labelleak.base import InputError


def row_sums(view: hfl.View) -> chex.Array:
  """Returns the kernel's gradient summed over the head's inputs, [K].

  Raises:
    InputError: the head has no kernel.
  """
  kernel, _ = hfl.head(view.grads)
  if kernel is None:
    raise InputError(
      "LLG and iDLG read the gradient of the head's kernel, which this update"
      ' lacks; use counts.llbg or counts.ebi on its bias.'
    )
  return kernel.sum(0)


def bias(name: str, view: hfl.View) -> chex.Array:
  """Returns the bias's gradient, [K].

  Raises:
    InputError: the head has no bias.
  """
  _, gradient = hfl.head(view.grads)
  if gradient is None:
    raise InputError(
      f"{name} reads the gradient of the head's bias, but this head has none;"
      ' use counts.llg, which reads the kernel.'
    )
  return gradient
