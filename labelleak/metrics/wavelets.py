"""CW-SSIM: structure of images by dual-tree complex wavelets.

The complex wavelets of Kingsbury, "Complex wavelets for shift invariant
analysis and filtering of signals" (2001): near-symmetric filters of 13 and 19
taps at the first level, quarter-shift filters of 14 taps above, symmetric
extension. Each level is linear and separable, hence a matrix for the rows and
one for the columns, built on the host.

`cw_ssim` is what the LLBG paper's Table 10 calls SSIM (breaching's code): after
Sampat et al., "Complex Wavelet Structural Similarity" (2009), but compared over
the six orientations at a point, not over a window.
"""

from collections.abc import Iterator
import functools

import chex
import jax.numpy as jnp
import numpy as np

_LEVELS = 5
_K = 1e-6  # keeps two blank regions alike
# First halves of symmetric filters, up to the middle tap: (lowpass, highpass).
_FIRST = (
  (-0.0017578125, 0, 0.022265625, -0.046875, -0.0482421875, 0.296875,
   0.55546875),
  (-7.062639508928571e-05, 0, 1.3419015066964285e-03, -1.8833705357142855e-03,
   -7.156808035714285e-03, 2.3856026785714284e-02, 5.564313616071428e-02,
   -5.168805803571428e-02, -2.9975760323660716e-01, 5.594308035714286e-01),
)  # fmt: skip
# Lowpass of tree a; tree b reverses it, the highpass alternates its signs.
_SHIFT = (
  0.00325314276365318, -0.00388321199915849, 0.03466034684485349,
  -0.03887280126882779, -0.11720388769911527, 0.27529538466888204,
  0.7561456438925225, 0.5688104207121227, 0.011866092033797,
  -0.1067118046866654, 0.0238253847949203, 0.01702522388155399,
  -0.00543947593727412, -0.00455689562847549,
)  # fmt: skip


def cw_ssim(a: chex.Array, b: chex.Array) -> chex.Array:
  """Compares pairs of images by complex wavelets, 2 x [B, H, W, C] -> [B].

  (2 |sum x conj(y)| + k) / (sum |x|^2 + sum |y|^2 + k), x and y the six
  orientations at a point: 1 for equal images, and nearly so for one that moved
  by less than a wavelet's period; mean over points, channels and five levels.
  """
  chex.assert_rank([a, b], 4)
  chex.assert_equal_shape([a, b])
  scores = []
  for x, y in zip(transform(a), transform(b)):
    product = 2 * jnp.abs((x * y.conj()).sum(0)) + _K
    power = (jnp.abs(x) ** 2 + jnp.abs(y) ** 2).sum(0) + _K
    scores.append((product / power).mean((1, 2, 3)))
  return sum(scores) / len(scores)


def transform(x: chex.Array, levels: int = _LEVELS) -> Iterator[chex.Array]:
  """Computes complex coefficients of x [B, H, W, C] by level, finest first.

  Yields:
    [6, B, H / 2^l, W / 2^l, C], sizes rounded up; the six orientations.
  """
  for level in range(levels):
    (low, high), (left, right) = (
      _matrices(size, level > 0) for size in x.shape[1:3]
    )
    apply = functools.partial(jnp.einsum, 'hi,bijc,wj->bhwc')
    pairs = [
      _complex(apply(rows, x, columns, precision='highest'))
      for rows, columns in ((high, left), (low, right), (high, right))
    ]
    yield jnp.stack([band for pair in pairs for band in pair])
    x = apply(low, x, left, precision='highest')


def _complex(x):
  """Turns quads a b / c d of four trees to complex bands of opposite slope."""
  p = x[:, ::2, ::2] + 1j * x[:, ::2, 1::2]
  q = x[:, 1::2, 1::2] - 1j * x[:, 1::2, ::2]
  return (p - q) / 2**0.5, (p + q) / 2**0.5


@functools.cache
def _matrices(size, decimate):
  """Builds lowpass and highpass along an axis, 2 x float32 [out, size]."""
  rows = np.arange(size)
  if not decimate:
    rows = np.append(rows, rows[-1:]) if size % 2 else rows
    filters = [np.array(half + half[-2::-1]) for half in _FIRST]
    pair = [_filter(np.eye(size)[rows], h) for h in filters]
  else:
    rows = np.pad(rows, 1, 'edge') if size % 4 else rows
    low = np.array(_SHIFT)
    high = low * (-1) ** np.arange(1, len(low) + 1)
    x = np.eye(size)[rows]
    pair = _decimate(x, low[::-1], low), _decimate(x, high, high[::-1])
  return tuple(np.float32(matrix) for matrix in pair)


def _filter(x, h):
  """Filters columns of x by h of odd length, [r, n] -> [r, n]."""
  half = len(h) // 2
  return _convolve(x[_reflect(-half, len(x) + half, len(x))], h)


def _decimate(x, ha, hb):
  """Filters columns of x by both trees, interleaved, [r, n] -> [r / 2, n]."""
  rows, taps = len(x), len(ha)
  x = x[_reflect(-taps, rows + taps, rows)]
  at = np.arange(5, rows + 2 * taps - 2, 4)
  first = _convolve(x[at - 1], ha[::2]) + _convolve(x[at - 3], ha[1::2])
  second = _convolve(x[at], hb[::2]) + _convolve(x[at - 2], hb[1::2])
  pair = (first, second) if ha @ hb > 0 else (second, first)
  return np.stack(pair, 1).reshape(rows // 2, -1)


def _convolve(x, h):
  """Convolves along the first axis where all of h meets x."""
  last = len(h) - 1
  return sum(h[i] * x[last - i : len(x) - i] for i in range(len(h)))


def _reflect(start, stop, size):
  """Returns rows start, ..., stop - 1 of an axis mirrored at both ends."""
  rows = np.arange(start, stop) % (2 * size)
  return np.minimum(rows, 2 * size - 1 - rows)
