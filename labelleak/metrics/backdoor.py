"""Metrics of backdoors: how often the trigger opens the target class."""

import chex

from labelleak.metrics import ratios


def backdoor_rate(
  scores: chex.Array, y: chex.Array, target: chex.Array
) -> chex.Array:
  """Returns the share of examples of other classes taken for the target, [].

  The model's scores [B, K] are on examples of labels y [B, K] that bear the
  trigger; the target [] is a class.
  """
  others = y.argmax(-1) != target
  hits = scores.argmax(-1) == target
  return ratios.ratio((hits & others).sum(), others.sum())


def backdoor_count(
  scores: chex.Array, y: chex.Array, target: chex.Array
) -> chex.Array:
  """Returns it as published: the target class counts too, at least 1 / K."""
  chex.assert_equal_shape([scores, y])
  return (scores.argmax(-1) == target).mean()
