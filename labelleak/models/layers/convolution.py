"""Convolutions that are quick on CPU, forward, reverse and under vmap.

XLA:CPU has two slow paths, 20 to 100 times slower than the machine (measured in
jax 0.10): maps smaller than the kernel, and gradients of convolutions inside
`lax.scan`. Small maps and strided kernels are computed here as shifted slices
and one matmul; larger maps by a primitive whose every derivative is a forward
convolution. Both admit forward, reverse and higher differentiation and `vmap`.
Other backends get XLA's own.
"""

import functools

import chex
import jax
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp

Pair = tuple[int, int]  # of height and width, or of both ends of an axis

# Patches of a convolution above this many numbers are made kernel row by row.
_PATCH_LIMIT = 2**26


def _xla(x, w, strides, padding, groups=1):
  return lax.conv_general_dilated(
    x,
    w,
    strides,
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def out_size(size: int, kernel: int, stride: int, padding: Pair) -> int:
  """Returns the length of an axis after a convolution."""
  return (size + sum(padding) - kernel) // stride + 1


def _live_taps(size, kernel, stride, padding):
  """Finds kernel taps that ever meet the map: slice, padding left for them."""
  lo, hi = padding
  starts = range(0, out_size(size, kernel, stride, padding) * stride, stride)
  live = [
    i for i in range(kernel) if any(0 <= i - lo + o < size for o in starts)
  ]
  first, last = live[0], live[-1]
  return slice(first, last + 1), (lo - first, hi - (kernel - 1 - last))


def _shifts(x, kernel_size, strides, padding):
  """Slices [B, H', W', C] that each tap (i, j) of a kernel meets, by rows i."""
  sizes = map(out_size, x.shape[1:3], kernel_size, strides, padding)
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  (h, w), (dh, dw) = sizes, strides
  ends = (h - 1) * dh + 1, (w - 1) * dw + 1
  return [
    [
      x[:, i : i + ends[0] : dh, j : j + ends[1] : dw]
      for j in range(kernel_size[1])
    ]
    for i in range(kernel_size[0])
  ]


def _matmuls(x, w, strides, padding):
  """Convolves as patches times kernel; linear in each argument."""
  kh, kw, _, features = w.shape
  if strides == (kh, kw) and not any(map(sum, padding)):  # disjoint patches
    n, h, v, c = x.shape[0], x.shape[1] // kh, x.shape[2] // kw, x.shape[3]
    x = x[:, : h * kh, : v * kw].reshape(n, h, kh, v, kw, c)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h, v, kh * kw * c)
    return x @ w.reshape(-1, features)
  rows = _shifts(x, (kh, kw), strides, padding)
  if rows[0][0].size * kh * kw <= _PATCH_LIMIT:
    patches = jnp.concatenate([tap for row in rows for tap in row], -1)
    return patches @ w.reshape(-1, features)
  return sum(
    jnp.concatenate(row, -1) @ kernel.reshape(-1, features)
    for row, kernel in zip(rows, w)
  )


def _plain(x, w, *, padding):
  return _xla(x, w, (1, 1), padding)


def _pull_x(g, x, w, *, padding):
  """Transposes in x: g convolved with the flipped kernel."""
  kh, kw = w.shape[:2]
  back = tuple(
    (k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip((kh, kw), padding)
  )
  return _wide_p.bind(g, w[::-1, ::-1].swapaxes(2, 3), padding=back)


def _pull_w(g, x, w, *, padding):
  """Transposes in w: x convolved with g, examples in the place of channels."""
  del w
  x, g = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)
  return _wide_p.bind(x, g, padding=padding).transpose(1, 2, 0, 3)


def _vmap_wide(args, dims, *, padding):
  """Joins one set of weights or inputs to the other axes; pairs take turns."""
  x, w = (a if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims))
  if dims[1] is None:
    y = _wide_p.bind(x.reshape(-1, *x.shape[2:]), w, padding=padding)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0
  if dims[0] is None:
    stacked = jnp.moveaxis(w, 0, 3).reshape(*w.shape[1:4], -1)
    y = _wide_p.bind(x, stacked, padding=padding)
    return jnp.moveaxis(y.reshape(*y.shape[:3], w.shape[0], -1), 3, 0), 0
  return lax.map(lambda pair: _wide_p.bind(*pair, padding=padding), (x, w)), 0


# XLA:CPU is slow in loops where the axes of a convolution are not in Eigen's
# order, and JAX transposes convolutions by renaming axes. This primitive moves
# the data instead, and is closed under differentiation and vmap.
_wide_p = core.Primitive('convolution_stride_1')
_wide_p.def_impl(jax.jit(_plain, static_argnames='padding'))
_wide_p.def_abstract_eval(
  lambda x, w, *, padding: jax.core.ShapedArray(
    jax.eval_shape(functools.partial(_plain, padding=padding), x, w).shape,
    x.dtype,
  )
)
mlir.register_lowering(_wide_p, mlir.lower_fun(_plain, multiple_results=False))
ad.defbilinear(_wide_p, _pull_x, _pull_w)
batching.primitive_batchers[_wide_p] = _vmap_wide


def _group_convolve(x, w, strides, padding, groups):
  """Convolves groups of one channel tap by tap, wider ones one by one."""
  if w.shape[2] == 1:
    x = jnp.repeat(x, w.shape[3] // groups, axis=3)
    rows = _shifts(x, w.shape[:2], strides, padding)
    taps = [
      tap * kernel[0].reshape(1, 1, 1, -1)
      for row, kernels in zip(rows, w)
      for tap, kernel in zip(row, kernels)
    ]
    return sum(taps[1:], taps[0])
  parts = zip(jnp.split(x, groups, 3), jnp.split(w, groups, 3))
  return jnp.concatenate(
    [convolve(a, b, strides, padding) for a, b in parts], 3
  )


def convolve(
  x: chex.Array,
  w: chex.Array,
  strides: Pair,
  padding: tuple[Pair, Pair],
  groups: int = 1,
) -> chex.Array:
  """Convolves x [B, H, W, C] with w [kh, kw, C / groups, features]."""
  if jax.default_backend() != 'cpu':
    return _xla(x, w, strides, padding, groups)
  live = list(map(_live_taps, x.shape[1:3], w.shape[:2], strides, padding))
  w = w[live[0][0], live[1][0]]
  padding = tuple(left for _, left in live)
  if groups > 1:
    return _group_convolve(x, w, strides, padding, groups)
  if w.shape[:2] == (1, 1):
    return _shifts(x, (1, 1), strides, padding)[0][0] @ w[0, 0]
  if strides == (1, 1) and min(x.shape[1:3]) > 4:
    return _wide_p.bind(x, w, padding=padding)
  return _matmuls(x, w, strides, padding)
