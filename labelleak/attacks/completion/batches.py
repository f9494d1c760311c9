"""Batches of labelled examples and of unlabelled rows, on the host."""

import chex
import jax
import numpy as np

from labelleak import train
from labelleak.attacks.completion import mixmatch
from labelleak.base import Labelled, Pool

Seed = tuple[int, ...]  # of the host's generator


def draw(
  pool: Pool,
  labelled: Labelled,
  sizes: tuple[int, int],
  numbers: np.ndarray,
  seed: Seed,
) -> mixmatch.Batch:
  """Draws the batches of the steps `numbers` [n], from 1; leaves [n, B, ...].

  Labelled and unlabelled rows are shuffled anew in every pass through them;
  what is left of a pass after its last whole batch is dropped. A batch has as
  many of either as `sizes` say: B labelled examples and U rows.
  """
  nums = len(labelled.x), pool.size
  labelled_rows, rows = (
    train.whole_batches(num, size, numbers, (*seed, which))
    for which, (num, size) in enumerate(zip(nums, sizes))
  )
  x, y = (np.asarray(a)[labelled_rows] for a in labelled)
  return mixmatch.Batch(x, y, take_rows(pool, rows))


def take_rows(pool: Pool, index: np.ndarray) -> np.ndarray:
  """Takes rows of a pool, index [n, B] -> [n, B, ...]."""
  x = np.asarray(pool.take(index.reshape(-1)))
  return x.reshape(*index.shape, *x.shape[1:])


def seed_of(key: chex.PRNGKey) -> Seed:
  """Returns a key as a seed of the host's generator."""
  return tuple(np.asarray(jax.random.key_data(key)).tolist())
