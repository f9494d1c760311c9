"""Clipping: of all tensors together, of each row, of a batch by one number."""

import jax
import jax.numpy as jnp
import optax

from labelleak import validate
from labelleak.defenses import extra_args
from labelleak.defenses.defense import Defense, transform

_FREE = "for no clipping leave it out or use float('inf')"


def clip(*, max_norm: float) -> Defense:
  """Scales by rho / (norm + 1e-6) where the norm over all tensors exceeds rho.

  As published (LLBG): on the mean gradient of a mini-batch, not each example.

  Args:
    max_norm: rho.

  Raises:
    InputError: max_norm is not positive.
  """
  validate.positive('clip: max_norm', max_norm, _FREE)

  def update(updates, **extra):
    del extra
    norm = optax.tree.norm(updates)
    scale = jnp.where(norm > max_norm, max_norm / (norm + 1e-6), 1.0)
    return jax.tree.map(lambda u: u * scale.astype(u.dtype), updates)

  return transform(extra_args.stateless(update), 'clip', max_norm)


def clip_per_example(*, max_norm: float) -> Defense:
  """Scales every row of a cut gradient [B, D] to a norm of at most max_norm.

  What the accounting of `gaussian` needs: no row moves by more than twice
  max_norm, whatever its label. A row of the mean loss is about 1/B long.

  Raises:
    InputError: max_norm is not positive.
  """
  validate.positive('clip_per_example: max_norm', max_norm, _FREE)

  def update(cut, mask=None, **extra):
    del extra
    extra_args.row_mask('clip_per_example', cut, mask)
    norm = jnp.linalg.norm(cut, axis=-1, keepdims=True)
    return cut * jnp.where(norm > max_norm, max_norm / norm, 1.0)

  return transform(extra_args.stateless(update), 'clip_per_example', max_norm)


def clip_batch(*, max_norm: float) -> Defense:
  """Divides a cut gradient [B, D] by max(1, largest norm / (max_norm + 1e-6)).

  As VFLAIR clips before its noise, with max_norm = 0.2: one number a batch and
  party, so that rows keep their ratios. Of a mean loss no row is longer than
  sqrt(2) / B, and 0.2 never acts from B = 8 on.

  Raises:
    InputError: max_norm is not positive.
  """
  validate.positive('clip_batch: max_norm', max_norm, _FREE)

  def update(cut, mask=None, **extra):
    del extra
    extra_args.row_mask('clip_batch', cut, mask)
    largest = jnp.linalg.norm(cut, axis=-1).max()
    return cut / jnp.maximum(1.0, largest / (max_norm + 1e-6))

  return transform(extra_args.stateless(update), 'clip_batch', max_norm)
