"""The two stages that LLG, EBI and LLBG share: certain classes, then a rest."""

import chex
import jax
import jax.numpy as jnp


def name_labels(
  score: chex.Array,
  *,
  certain: chex.Array,
  after: chex.Array,
  impact: chex.Array,
  num: int,
) -> chex.Array:
  """Names the certain classes once each, then greedily the lowest scores.

  With more certain classes than labels the lowest scores are named; ties go to
  the class of lower index.

  Args:
    score: [K]; the lowest are named first where not all certain ones fit.
    certain: [K] bool.
    after: [K] score once the certain classes have been named.
    impact: [] or [K], negative: what one example adds to its class's score.
    num: how many labels to name.

  Returns:
    counts [K] with sum num.
  """
  chex.assert_rank([score, after, certain], 1)
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


def masked_sum(values: chex.Array, where: chex.Array) -> chex.Array:
  """Returns the sum of values [K] where [K] holds, []."""
  return jnp.where(where, values, 0.0).sum()
