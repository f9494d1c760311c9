"""The others' logits as a constant beside one's own, told by the equations."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from labelleak.attacks.linear import equations
from labelleak.attacks.linear.equations import center

_FEW = 16  # rows under which the others' constant logits are not estimated


class Shift(NamedTuple):
  """The constant c by which all rows' logits may differ from one's own.

  All rows move together with it, which is what the equations see best and what
  `solver.solve`, row by row, would misread. So the K - 1 directions in which
  they see it are set aside (`outside`) and tell c alone (`estimate`).
  """

  h: chex.Array  # [B, K] own logits
  basis: chex.Array  # [M, K] orthonormal, zero where nothing is set aside
  image: chex.Array  # [K, K] c -> equations, in that basis
  prior: chex.Array  # [] variance of c's entries, before any equation is read


def find(eq: equations.Equations, h: chex.Array) -> Shift:
  """Finds what the equations see of a constant beside own logits h [B, K]."""
  s = jax.nn.softmax(h)
  slope = lambda c: s * (c - (s * c).sum(-1, keepdims=True))
  units = jnp.eye(h.shape[1], dtype=h.dtype)
  image = jax.lax.map(lambda c: eq.apply(slope(c[None])), units).T  # [M, K]
  vectors, sizes, _ = jnp.linalg.svd(image, full_matrices=False)
  # In a batch of a few rows their directions would be much of what is known.
  large = (sizes > 1e-4 * sizes[0]) & (len(h) >= _FEW)
  basis = jnp.where(large, vectors, 0.0)
  # Their constant is as large as one's own, before any equation is read.
  mean = center(h.mean(0))
  prior = jnp.sum(mean**2) / (h.shape[1] - 1) + 1e-6
  return Shift(h, basis, basis.T @ image, prior)


def softmax(shift: Shift, c: chex.Array) -> chex.Array:
  """Returns S of all parties if the others' logits are the constant c [K]."""
  return jax.nn.softmax(shift.h + c[None])


def outside(shift: Shift, z: chex.Array) -> chex.Array:
  """Projects equations off the directions set aside, [M] -> [M]."""
  return z - shift.basis @ (shift.basis.T @ z)


def estimate(
  shift: Shift, misfit: chex.Array, c: chex.Array, noise: chex.Array
) -> chex.Array:
  """Returns the posterior mean of c [K], from the misfit [M] at a first c.

  The misfit is that of the equations, and has variance `noise` [].
  """
  observed = shift.basis.T @ misfit + shift.image @ c
  gram = shift.image.T @ shift.image / noise
  precision = gram + jnp.eye(c.size, dtype=c.dtype) / shift.prior
  return jnp.linalg.solve(precision, shift.image.T @ observed / noise)
