"""Shares whose denominator may be empty."""

import chex
import jax.numpy as jnp


def ratio(numerator: chex.Array, denominator: chex.Array) -> chex.Array:
  """Divides integers or what they add up to; 0 where there is nothing."""
  return numerator / jnp.maximum(denominator, 1)
