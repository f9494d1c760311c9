"""How messages and maps lie in the coefficients of CKKS's ciphertexts.

With width w, ciphertext k holds the message entries m_0 ... m_{w-1} of block k
as the polynomial sum_i m_i X^i, and a plaintext holds r = N / w rows of the map
as sum_ji a_ji X^(j w + w - 1 - i) (Huang et al., Cheetah, USENIX Security
2022). Coefficient j w + w - 1 of their product is the product of row j and
block k, which add up over k: one plaintext product deep, no rotation, no
relinearisation, no rescaling. The other coefficients are of no use; nobody
opens them. Width 1 takes a ciphertext for each entry of the message, as
Algorithm 1 does.

A row of the map is divided by c, a power of two that bounds the sum of its
magnitudes, so that a result stays within 1 whatever the data.
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

  @property
  def places(self) -> slice:
    """Returns where the results lie, of N coefficients."""
    return slice(self.width - 1, None, self.width)


def layout(parameters: Parameters, shape: Shape) -> Layout:
  """Chooses the width with the fewest ciphertexts, unless it is given."""
  outputs, inputs = shape
  degree = parameters.degree
  widths = [2**i for i in range(degree.bit_length())]

  def place(width):
    rows = degree // width
    return Layout(width, rows, -(-inputs // width), -(-outputs // rows))

  if parameters.width:
    return place(parameters.width)
  return min(map(place, widths), key=lambda at: at.sent + at.returned)


def probe(parameters: Parameters) -> Shape:
  """Returns a shape of four ciphertexts each way."""
  degree = parameters.degree
  width = parameters.width or 2 ** (degree.bit_length() // 2)
  return 4 * degree // width, 4 * width


def split(at: Layout, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Cuts the scaled map into polynomials [returned, sent, N], and scales c [O].

  The scale of a row of zeros is zero, and so is its result.
  """
  wide = pad(np.asarray(matrix, np.float64).T, at.sent * at.width).T
  sums = np.abs(wide).sum(1)
  ranges = np.where(sums > 0, np.exp2(np.ceil(np.log2(sums + 1e-300))), 0.0)
  scaled = pad(
    wide / np.where(sums > 0, ranges, 1.0)[:, None], at.returned * at.rows
  )
  blocks = scaled.reshape(at.returned, at.rows, at.sent, at.width)
  blocks = blocks.transpose(0, 2, 1, 3)[..., ::-1]
  return blocks.reshape(at.returned, at.sent, -1), ranges


def pad(values: np.ndarray, size: int) -> np.ndarray:
  """Fills up the first axis with zeros."""
  return np.pad(
    values, [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1)
  )
