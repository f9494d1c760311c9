"""Metrics of label counts: [K] that an attack returned, truth [K], to []."""

import chex
import jax.numpy as jnp

from labelleak.base import InputError
from labelleak.metrics import ratios


def _check(counts: chex.Array, truth: chex.Array) -> None:
  """Refuses what are not the counts of one batch."""
  shapes = jnp.shape(counts), jnp.shape(truth)
  if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
    raise InputError(
      f'counts of shape {shapes[0]} and truth of shape {shapes[1]}: both must'
      ' be [K], of one batch; vmap over trials.'
    )


def count_accuracy(counts: chex.Array, truth: chex.Array) -> chex.Array:
  """Returns the share of the labels recovered, [K], [K] -> [].

  sum_i min(counts_i, truth_i) / B, the published attack success rate (Gat and
  Sharif 2024, section 6.1): order does not matter and, as counts sum to B,
  every wrong guess costs one label.

  >>> float(count_accuracy(jnp.array([2, 1, 1]), jnp.array([3, 1, 0])))
  0.75
  """
  _check(counts, truth)
  return ratios.ratio(jnp.minimum(counts, truth).sum(), truth.sum())


def presence_precision(counts: chex.Array, truth: chex.Array) -> chex.Array:
  """Returns the share of named classes that the batch has, [K], [K] -> []."""
  _check(counts, truth)
  return ratios.ratio(((counts > 0) & (truth > 0)).sum(), (counts > 0).sum())


def presence_recall(counts: chex.Array, truth: chex.Array) -> chex.Array:
  """Returns the share of the batch's classes that are named, [K], [K] -> []."""
  _check(counts, truth)
  return ratios.ratio(((counts > 0) & (truth > 0)).sum(), (truth > 0).sum())


def count_error(counts: chex.Array, truth: chex.Array) -> chex.Array:
  """Returns the mean absolute error of a count, sum_i |c_i - t_i| / K."""
  _check(counts, truth)
  return jnp.abs(counts - truth).sum() / truth.shape[0]
