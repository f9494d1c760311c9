"""How messages and maps lie in the slots of CKKS's ciphertexts.

With width w, ciphertext k holds the message entries k w ... k w + w - 1
side by side, the block repeated for r = N / 2w results. The passive party
multiplies it by the r x w block of its map and adds up over k: one plaintext
product deep, no rotation, no relinearisation, no rescaling. Slot (j, i) is then
a share of result j, and the third party adds the w shares of each result after
it has decrypted. Width 1 leaves it nothing to add, as in Algorithm 1, but takes
a ciphertext for each entry of the message.

A row of the map is divided by c, a power of two that bounds what it can reach
in a slot, so that every slot stays within 1 whatever the data.
"""

from typing import NamedTuple

import numpy as np

from labelleak.he.exchange import Shape
from labelleak.he.schemes.seal import Parameters


class Layout(NamedTuple):
  """How a map of a given shape lies in ciphertexts."""

  width: int  # w, message entries to a ciphertext
  rows: int  # r, results to a ciphertext
  sent: int  # ciphertexts of the message
  returned: int  # ciphertexts of the result


def layout(parameters: Parameters, shape: Shape) -> Layout:
  """Chooses the width with the fewest ciphertexts, unless it is given."""
  outputs, inputs = shape
  slots = parameters.degree // 2
  widths = [2**i for i in range(slots.bit_length())]

  def place(width):
    rows = slots // width
    return Layout(width, rows, -(-inputs // width), -(-outputs // rows))

  if parameters.width:
    return place(parameters.width)
  return min(map(place, widths), key=lambda at: at.sent + at.returned)


def probe(parameters: Parameters) -> Shape:
  """Returns a shape of ten ciphertexts each way."""
  slots = parameters.degree // 2
  width = parameters.width or 2 ** (slots.bit_length() // 2)
  return 10 * slots // width, 10 * width


def split(at: Layout, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Cuts the scaled map into [returned, sent, r, w]; and the scales c [O]."""
  outputs, _ = matrix.shape
  wide = pad(np.asarray(matrix, np.float64).T, at.sent * at.width).T
  shares = np.abs(wide).reshape(outputs, at.sent, at.width).sum(1)
  peaks = shares.max(1)
  ranges = np.where(peaks > 0, np.exp2(np.ceil(np.log2(peaks + 1e-300))), 1.0)
  scaled = pad(wide / ranges[:, None], at.returned * at.rows)
  blocks = scaled.reshape(at.returned, at.rows, at.sent, at.width)
  return blocks.transpose(0, 2, 1, 3), ranges


def sum_shares(at: Layout, slots: np.ndarray) -> np.ndarray:
  """Adds the shares [N / 2] of each result, [r]."""
  return slots[: at.rows * at.width].reshape(at.rows, at.width).sum(1)


def pad(values: np.ndarray, size: int) -> np.ndarray:
  """Fills up the first axis with zeros."""
  return np.pad(
    values, [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1)
  )
