"""The two stages that LLG, EBI and LLBG share: certain classes, then a rest."""

from typing import Optional

import chex
import jax
import jax.numpy as jnp


def name_labels(
  score: chex.Array,
  *,
  impact: chex.Array,
  num: int,
  after: Optional[chex.Array] = None,
) -> chex.Array:
  """Names classes of negative score once each, then greedily the lowest scores.

  With more such classes than labels the lowest scores are named; ties go to
  the class of lower index.

  Args:
    score: [K].
    impact: [] or [K], negative: what one example adds to its class's score.
    num: how many labels to name.
    after: [K] score once the certain classes have been named; None: less their
      impact.

  Returns:
    counts [K] with sum num.
  """
  certain = score < 0
  after = score - impact * certain if after is None else after
  chex.assert_rank([score, after], 1)
  impact = jnp.broadcast_to(impact, score.shape)
  rank = jnp.argsort(jnp.argsort(jnp.where(certain, score, jnp.inf)))
  counts = (certain & (rank < num)).astype(jnp.int32)

  def name(_, carry):
    counts, after = carry
    missing = counts.sum() < num
    lowest = jnp.argmin(after)
    counts = counts.at[lowest].add(missing.astype(jnp.int32))
    return counts, after.at[lowest].add(-impact[lowest])

  return jax.lax.fori_loop(0, num, name, (counts, after))[0]


def negative_sum(score: chex.Array) -> chex.Array:
  """Returns the sum of the negative scores of [K], []."""
  return jnp.where(score < 0, score, 0.0).sum()
