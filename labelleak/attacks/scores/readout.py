"""From a cut gradient to labels: dL/dH [B, K] -> scores [B, K].

With the sum of the parties' embeddings as logits, a row of the cut gradient is
(S - Y) / B, observed or estimated: the label's entry is the only negative one.
Higher scores are likelier labels. Ties are left as they are; the metrics take
them as broken at random, so that a row of zeros is worth chance.
"""

import chex
import jax
import jax.numpy as jnp

from labelleak import vfl
from labelleak.base import InputError


def cut_gradient(name: str, view: vfl.View) -> chex.Array:
  """Returns the cut gradients [B, D] that an attack reads.

  Raises:
    InputError: the link is sealed.
  """
  if view.cut_grads is None:
    raise InputError(
      f'{name} reads view.cut_grads, but this link is sealed; use'
      " aggregate=dict(name='plaintext'), or an attack on view.param_grads"
      " such as 'linear.expectation_propagation'."
    )
  return view.cut_grads


def match_rows(x: chex.Array, examples: chex.Array) -> chex.Array:
  """Tells which rows of x [B, ...] are which examples [M, ...]; [B, M] bool."""
  rows, examples = (a.reshape(len(a), -1) for a in (x, examples))
  return (rows[:, None] == examples[None]).all(-1)


def normalise(vectors: chex.Array) -> chex.Array:
  """Scales vectors [..., D] to length 1; zeros stay zeros."""
  size = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / jnp.where(size > 0, size, 1.0)


def argmin(cut: chex.Array) -> chex.Array:
  """Scores the most negative entry highest."""
  return -cut


def complement(cut: chex.Array) -> chex.Array:
  """Scores the largest entry highest: the softmax less a confused label.

  A code such as CoAE spreads a label over the other classes, so that its own
  entry is the only one from which nothing was taken.
  """
  return cut


def first_negative(cut: chex.Array) -> chex.Array:
  """Scores the first negative entry, as in the released code.

  Fu et al. (USENIX Security 2022). A row without one is skipped there and
  counts as a miss: its scores are NaN.
  """
  negative = cut < 0
  first = jax.nn.one_hot(negative.argmax(-1), cut.shape[-1], dtype=cut.dtype)
  return jnp.where(negative.any(-1, keepdims=True), first, jnp.nan)


def first_or_any(cut: chex.Array) -> chex.Array:
  """Scores the first negative entry; a row without one is a guess (VFLAIR)."""
  return jnp.nan_to_num(first_negative(cut))
