"""The upper bound: bottom and head trained on the labels of the whole pool."""

import jax
import numpy as np

from labelleak import base, train, validate
from labelleak.attacks.completion import batches, learners, training
from labelleak.base import Completion, InputError


def supervised(
  *, batch_size: int = 32, epochs: int = 100, **options
) -> Completion:
  """Builds the training of bottom and head on every label: no attack.

  With the party's own optimizer, whose schedule counts epochs of the joint
  training: give its `batch_size` and `epochs`.

  Args:
    batch_size: B.
    epochs: passes through the pool.
    **options: fields of `learners.Options`.

  Raises:
    InputError: an unknown or wrong option. (check) Labels are missing.
  """
  options = learners.options(
    **options, batch_size=batch_size, epochs=epochs, tune='all'
  )

  def check(known):
    size = known.pool.size
    validate.whole('batch_size', batch_size, 1, size, 'the rows of the pool')
    if len(known.labels) != size:
      raise InputError(
        f'completion.supervised was granted {len(known.labels)} labels of'
        f' {size} rows; grant those of all.'
      )

  def fit(key, view, known, callback):
    del view
    size = known.pool.size
    bottom_key, key, order_key = jax.random.split(key, 3)
    bottom = training.draw_bottom(bottom_key, known)
    seed = batches.seed_of(order_key)
    learner = learners.supervised(known.party, known.num_classes, options)

    def draw(numbers):
      rows = train.whole_batches(size, batch_size, numbers, seed)
      x = batches.take_rows(known.pool, rows)
      return x, np.asarray(known.labels)[rows]

    return training.run(
      learner,
      learner.init(key, bottom, known.pool.take(np.arange(1))),
      bottom,
      draw,
      epochs=epochs,
      steps=size // batch_size,
      callback=callback,
    )

  return base.completion(
    fit,
    name='completion.supervised',
    needs=('party', 'pool', 'labels'),
    check=check,
  )
