"""From a cut gradient to labels: dL/dH [B, K] -> scores [B, K].

With the sum of the parties' embeddings as logits, a row of the cut gradient is
(S - Y) / B, observed or estimated: the label's entry is the only negative one.
Higher scores are likelier labels. Ties are left as they are; the metrics take
them as broken at random, so that a row of zeros is worth chance.
"""

import chex
import jax
import jax.numpy as jnp


def argmin(cut: chex.Array) -> chex.Array:
  """The label is the most negative entry."""
  return -cut


def complement(cut: chex.Array) -> chex.Array:
  """The label is the largest entry: the softmax less a confused label.

  A code such as CoAE spreads a label over the other classes, so that its own
  entry is the only one from which nothing was taken.
  """
  return cut


def first_negative(cut: chex.Array) -> chex.Array:
  """The label is the first negative entry, as in the released code.

  Fu et al. (USENIX Security 2022). A row without one is skipped there and
  counts as a miss: its scores are NaN.
  """
  negative = cut < 0
  found = jax.nn.one_hot(negative.argmax(-1), cut.shape[-1], dtype=cut.dtype)
  return jnp.where(negative.any(-1, keepdims=True), found, jnp.nan)


def first_or_any(cut: chex.Array) -> chex.Array:
  """The first negative entry; a row without one is a guess, as in VFLAIR."""
  return jnp.nan_to_num(first_negative(cut))
