"""Which rows a training step takes: a function of seed and step alone."""

from collections.abc import Sequence

import numpy as np


def whole_batches(
  size: int, batch_size: int, numbers: np.ndarray, seed: Sequence[int]
) -> np.ndarray:
  """Orders rows [n, B] of the steps `numbers` [n]: shuffled passes of batches.

  What is left of a pass after its last whole batch is dropped; each pass has an
  order, and leftovers, of its own. Steps count from 1; N, the `size` of the
  data, is B at least.
  """
  passes, place = np.divmod(np.asarray(numbers) - 1, size // batch_size)
  orders = {
    n: np.random.default_rng((*seed, n)).permutation(size)
    for n in set(passes.tolist())
  }
  starts = (place * batch_size).tolist()
  return np.stack(
    [orders[n][i : i + batch_size] for n, i in zip(passes.tolist(), starts)]
  )


def stream(
  size: int, batch_size: int, numbers: np.ndarray, seed: int
) -> np.ndarray:
  """Orders rows [n, B] of consecutive steps `numbers`: a stream of epochs.

  A batch may begin in one shuffled epoch and end in the next: no row is left
  out. Arguments are those of `whole_batches`.
  """
  start = (numbers[0] - 1) * batch_size
  place = np.arange(start, numbers[-1] * batch_size)
  epochs = range(place[0] // size, place[-1] // size + 1)
  order = np.concatenate(
    [np.random.default_rng((seed, epoch)).permutation(size) for epoch in epochs]
  )
  return order[place - epochs[0] * size].reshape(len(numbers), batch_size)
