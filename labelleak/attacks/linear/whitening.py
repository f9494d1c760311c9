"""Factors that bring a leaf's gradients to a common scale.

A gradient G [I, O] becomes L G R^T, with the two Kronecker factors of its Gram
matrix (as K-FAC and Shampoo use them). For a Dense layer the left one is the
covariance of its input, weighed by the backward signal.
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

# Singular values of a factor below this share of the largest are rounding: a
# float32 gradient carries seven digits, and three are wanted. The right factor
# is read off what the left one has magnified.
_CUT = 3e-5, 1e-3
_TINY = float(np.finfo(np.float32).tiny)


class Whitener(NamedTuple):
  """L G R^T of a gradient G [I, O], whose Gram matrix is then the identity."""

  left: chex.Array  # L [I, I]
  right: chex.Array  # R [O, O]
  rank: chex.Array  # [] directions that the cuts left


def fit(samples: chex.Array) -> Whitener:
  """Estimates the factors from samples [n, I, O] of the gradient."""
  n, rows, columns = samples.shape
  if columns == 1:  # too few samples for a factor: a scale for each entry
    scale = jnp.sqrt(jnp.mean(samples[..., 0] ** 2, 0))
    large = scale > _CUT[0] * scale.max()
    left = jnp.diag(jnp.where(large, 1 / jnp.where(large, scale, 1.0), 0.0))
    return Whitener(left, jnp.ones((1, 1), left.dtype), large.sum())
  left, left_rank = _inverse_root(
    samples.transpose(0, 2, 1).reshape(-1, rows), _CUT[0]
  )
  samples = left @ samples
  right, right_rank = _inverse_root(samples.reshape(-1, columns), _CUT[1])
  rank = left_rank * right_rank
  power = jnp.sum((samples @ right.T) ** 2) / n
  return Whitener(
    left, right * jnp.sqrt(rank / jnp.maximum(power, _TINY)), rank
  )


def apply(whitener: Whitener, gradient: chex.Array) -> chex.Array:
  """Returns L G R^T, [I, O] -> [I, O]."""
  return whitener.left @ gradient @ whitener.right.T


def _inverse_root(x, cut):
  """Returns W [d, d] such that (x W^T)^T (x W^T) = 1, and its rank.

  That on the large directions of x [n, d], 0 on the others. From the singular
  values of x and not the eigenvalues of x^T x, which float32 would cut at a
  share of 3e-4.
  """
  if x.shape[0] > x.shape[1]:
    x = jnp.linalg.qr(x, mode='r')
  _, sizes, vt = jnp.linalg.svd(x, full_matrices=False)
  large = sizes > cut * sizes[0]
  scale = jnp.where(large, 1 / jnp.where(large, sizes, 1.0), 0.0)
  return scale[:, None] * vt, large.sum()
