"""The training of a completion, epoch by epoch."""

from collections.abc import Callable
import functools

import chex
import jax
import numpy as np

from labelleak import base, compilation, train, validate, vfl
from labelleak.attacks.completion import batches, learners
from labelleak.base import Callback, Completion, Predict

_CHUNK = 64  # steps between two returns to the host, at most

# numbers of steps [n], from 1 -> batches of the learner, leaves [n, ...]
Draw = Callable[[np.ndarray], chex.ArrayTree]
# (key, view, known) -> the bottom's variables at first, a key for what follows
Start = Callable[
  [chex.PRNGKey, vfl.View, vfl.Known], tuple[chex.ArrayTree, chex.PRNGKey]
]
# (party, K) -> learner
MakeLearner = Callable[[base.Party, int], learners.Learner]


def complete(
  name: str,
  make_learner: MakeLearner,
  start: Start,
  *,
  sizes: tuple[int, int],
  epochs: int,
  iterations: int,
) -> Completion:
  """Builds the completion of a bottom by few labels and many rows.

  Args:
    name: in `completion`.
    make_learner: of head and bottom.
    start: where the bottom comes from.
    sizes: of a batch, B labelled examples and U rows.
    epochs: how many.
    iterations: steps of an epoch.
  """

  def check(known):
    """Traces a step; raises what is wrong with it."""
    x = known.labelled.x
    labelled = f'the {len(x)} labelled examples'
    validate.whole('batch_size', sizes[0], 1, len(x), labelled)
    rows = f'the {known.pool.size} rows of the pool'
    validate.whole('unlabelled', sizes[1], 1, known.pool.size, rows)
    learner = make_learner(known.party, known.num_classes)
    numbers = np.arange(1) + 1
    first = batches.draw(known.pool, known.labelled, sizes, numbers, (0,))
    batch = jax.tree.map(lambda a: a[0], first)
    key = jax.random.key(0)
    bottom = jax.eval_shape(known.party.init, key, x[:1])
    state = jax.eval_shape(learner.init, key, bottom, x[:1])
    jax.eval_shape(learner.step, state, batch)

  def fit(key, view, known, callback):
    bottom, key = start(key, view, known)
    learner = make_learner(known.party, known.num_classes)
    init_key, order_key = jax.random.split(key)
    seed = batches.seed_of(order_key)
    draw = lambda numbers: batches.draw(
      known.pool, known.labelled, sizes, numbers, seed
    )
    return run(
      learner,
      learner.init(init_key, bottom, known.labelled.x[:1]),
      bottom,
      draw,
      epochs=epochs,
      steps=iterations,
      callback=callback,
    )

  return base.completion(
    fit,
    name=f'completion.{name}',
    needs=('party', 'pool', 'labelled'),
    check=check,
  )


def steal(
  key: chex.PRNGKey, view: vfl.View, known: vfl.Known
) -> tuple[chex.ArrayTree, chex.PRNGKey]:
  """Starts from the view's bottom."""
  del known
  return view.variables, key


def draw_anew(
  key: chex.PRNGKey, view: vfl.View, known: vfl.Known
) -> tuple[chex.ArrayTree, chex.PRNGKey]:
  """Starts from a bottom that nobody trained."""
  del view
  bottom_key, key = jax.random.split(key)
  return draw_bottom(bottom_key, known), key


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
  """Trains a learner, from a state and the bottom that this began with.

  It calls back with what predicts after each epoch of `steps` steps, and
  returns what predicts at the end.
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
  return compilation.jit_once(known.party.init)(key, x)
