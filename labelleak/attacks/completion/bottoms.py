"""Completions of a bottom: stolen, stolen from a faster training, or random."""

import functools

import chex
import jax
import numpy as np

from labelleak import base, vfl
from labelleak.attacks.completion import (
  batches,
  learners,
  malicious,
  training,
)
from labelleak.base import Callback, Completion, Fit, InputError, Predict


def passive(**options) -> Completion:
  """Builds the completion of the view's bottom.

  Args:
    **options: fields of `learners.Options`.

  Raises:
    InputError: an unknown or wrong option. (check) There are fewer labels or
      rows than a batch has, or rows cannot be mixed.
  """
  options = learners.options(**options)

  def fit(key, view, known, callback):
    return _complete(options, key, view.variables, known, callback)

  return _completion(options, fit, 'passive')


def active(
  *,
  reading: str = 'release',
  gamma: float = 1.0,
  r_min: float = 1.0,
  r_max: float = 5.0,
  **options,
) -> Completion:
  """Builds `passive` after a training with a malicious optimizer.

  Args:
    reading, gamma, r_min, r_max: see `malicious.accelerate`; the party's own
      optimizer says whether that is of SGD or of Adam.
    **options: fields of `learners.Options`.

  Raises:
    InputError: see `passive` and `malicious.accelerate`.
  """
  optimizer = malicious.substitution(
    reading=reading, gamma=gamma, r_min=r_min, r_max=r_max
  )
  return passive(**options)._replace(optimizer=optimizer)


def semi_supervised(**options) -> Completion:
  """Builds the same learning with a bottom drawn at random, all of it trained.

  With tune='head' the random bottom stays as it is: what the released code
  would do, though no script of this baseline was released.

  Args:
    **options: fields of `learners.Options`.

  Raises:
    InputError: see `passive`.
  """
  options = learners.options(**dict(dict(tune='all'), **options))

  def fit(key, view, known, callback):
    del view
    init_key, key = jax.random.split(key)
    bottom = training.draw_bottom(init_key, known)
    return _complete(options, key, bottom, known, callback)

  return _completion(options, fit, 'semi_supervised')


def _completion(options: learners.Options, fit: Fit, name: str) -> Completion:
  return base.completion(
    fit,
    name=f'completion.{name}',
    needs=('party', 'pool', 'labelled'),
    check=functools.partial(_check, options),
  )


def _complete(
  options: learners.Options,
  key: chex.PRNGKey,
  bottom: chex.ArrayTree,
  known: vfl.Known,
  callback: Callback,
) -> Predict:
  """Trains head, or all, on a bottom's variables; returns what predicts."""
  learner = learners.semi_supervised(known.party, known.num_classes, options)
  init_key, order_key = jax.random.split(key)
  seed = batches.seed_of(order_key)
  draw = lambda numbers: batches.draw(
    known.pool, known.labelled, options.batch_size, numbers, seed
  )
  return training.run(
    learner,
    learner.init(init_key, bottom, known.labelled.x[:1]),
    bottom,
    draw,
    epochs=options.epochs,
    steps=options.iterations,
    callback=callback,
  )


def _check(options: learners.Options, known: vfl.Known) -> None:
  """Traces a step; raises what is wrong with it."""
  size, labelled = options.batch_size, known.labelled
  if size > min(len(labelled.x), known.pool.size):
    raise InputError(
      f'batch_size={size} exceeds the {len(labelled.x)} labelled examples or'
      f' the {known.pool.size} rows of the pool; lower it.'
    )
  learner = learners.semi_supervised(known.party, known.num_classes, options)
  first = batches.draw(known.pool, labelled, size, np.arange(1) + 1, (0,))
  batch = jax.tree.map(lambda a: a[0], first)
  key, x = jax.random.key(0), labelled.x[:1]
  bottom = jax.eval_shape(known.party.init, key, x)
  state = jax.eval_shape(learner.init, key, bottom, x)
  jax.eval_shape(learner.step, state, batch)
