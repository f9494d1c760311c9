"""The training of a completion, epoch by epoch."""

from collections.abc import Callable
import functools

import chex
import numpy as np

from labelleak import base, train, vfl
from labelleak.attacks.completion import learners
from labelleak.base import Callback, Predict

_CHUNK = 64  # steps between two returns to the host, at most

# numbers of steps [n], from 1 -> batches of the learner, leaves [n, ...]
Draw = Callable[[np.ndarray], chex.ArrayTree]


def run(
  learner: learners.Learner,
  state: chex.ArrayTree,
  bottom: chex.ArrayTree,
  draw: Draw,
  *,
  epochs: int,
  steps: int,
  callback: Callback,
) -> Predict:
  """Trains a learner; calls back with what predicts after each epoch.

  Args:
    learner: from `learners`.
    state: from its `init`.
    bottom: variables that it began with.
    draw: the batches.
    epochs: how many.
    steps: of an epoch.
    callback: (epoch, predict) -> None.

  Returns:
    what predicts at the end.
  """
  chunk = max(n for n in range(1, min(_CHUNK, steps) + 1) if steps % n == 0)
  for epoch in range(epochs):
    state = train.fit(
      learner.step,
      state,
      lambda numbers, e=epoch: draw(numbers + e * steps),
      steps=steps,
      chunk=chunk,
      progress=False,
    )
    predict = functools.partial(learner.predict, state, bottom)
    callback(epoch + 1, predict)
  return predict


def draw_bottom(key: chex.PRNGKey, known: vfl.Known) -> chex.ArrayTree:
  """Draws variables of the party's bottom anew."""
  x = known.pool.take(np.arange(1))
  return base.jit_once(known.party.init)(key, x)
