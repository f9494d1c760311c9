"""Model completion: a trained bottom, a small head and few labels.

Fu et al., "Label Inference Attacks Against Vertical Federated Learning" (USENIX
Security 2022), sections 3.3 and 3.4. After training a passive party holds a
bottom that was trained to tell the labels apart. It puts an inference head on
it and trains on M labelled examples and its own unlabelled rows (`mixmatch`):
what comes out names the label of any of its rows, training rows or not.

  passive          the bottom of an honest training
  active           the same, after training with a malicious optimizer
  semi_supervised  the same learning on a bottom that never was trained, the
                   baseline that tells what the bottom leaks
  supervised       bottom and head trained on every label: a bound, no attack

The paper says that the complete model is fine-tuned, the released code trains
the head alone: its optimizer is made before the bottom is attached. `tune` is
'head' or 'all'. With 'head' the bottom still runs in training mode, and what
predicts is the average of the head on the bottom as it was stolen.

Arguments are the fields of `learners.Options`. These attacks `fit` on the host
and return what predicts; of the view they read the variables alone.
"""

import functools

import jax
import numpy as np

from labelleak import base, train
from labelleak.attacks.completion import learners, malicious, mixmatch
from labelleak.base import Completion, InputError, Labelled, Pool, completion
from labelleak.vfl import Known

_CHUNK = 64  # steps between two returns to the host, at most


def passive(**options) -> Completion:
  """Completes the bottom of the view.

  Needs `known.party`, `pool` and `labelled`.

  Raises:
    InputError: an unknown or wrong option. (check) A grant is missing, there
      are fewer labels or rows than a batch has, or rows cannot be mixed.
  """
  options = learners.options(**options)

  def fit(key, view, known, callback):
    return _complete(options, key, view.variables, known, callback)

  return _semi_supervised(options, fit, 'passive')


def active(
  *,
  reading: str = 'release',
  gamma: float = 1.0,
  r_min: float = 1.0,
  r_max: float = 5.0,
  **options,
) -> Completion:
  """`passive` after a training with a malicious optimizer.

  Args:
    reading, gamma, r_min, r_max: see `malicious.accelerate`; the party's own
      optimizer says whether that is of SGD or of Adam.
    **options: see the module.

  Raises:
    InputError: see `passive` and `malicious.accelerate`.
  """
  scale = dict(reading=reading, gamma=gamma, r_min=r_min, r_max=r_max)
  return passive(**options)._replace(optimizer=malicious.shared(**scale))


def semi_supervised(**options) -> Completion:
  """The same learning with a bottom drawn at random, all of it trained.

  With tune='head' the random bottom stays as it is: what the released code
  would do, though no script of this baseline was released. Needs and raises
  what `passive` does.
  """
  options = learners.options(**dict(dict(tune='all'), **options))

  def fit(key, view, known, callback):
    del view
    init_key, key = jax.random.split(key)
    bottom = fresh(init_key, known)
    return _complete(options, key, bottom, known, callback)

  return _semi_supervised(options, fit, 'semi_supervised')


def supervised(
  *, batch_size: int = 32, epochs: int = 100, **options
) -> Completion:
  """Bottom and head trained on the labels of the whole pool: an upper bound.

  With the party's own optimizer, whose schedule counts epochs of the joint
  training: give its `batch_size` and `epochs`. Needs `known.party`, `pool`
  and `labels`, every label of the pool.

  Raises:
    InputError: an unknown or wrong option. (check) Labels are missing.
  """
  options = learners.options(
    **options, batch_size=batch_size, epochs=epochs, tune='all'
  )

  def check(known):
    held = known.pool.size
    if batch_size > held:
      raise InputError(
        f'batch_size={batch_size} exceeds {held} rows; lower it.'
      )
    if len(known.labels) != held:
      raise InputError(
        f'completion.supervised was granted {len(known.labels)} labels of'
        f' {held} rows; grant those of all.'
      )

  def fit(key, view, known, callback):
    del view
    steps = known.pool.size // batch_size
    bottom_key, key, order_key = jax.random.split(key, 3)
    bottom, seed = fresh(bottom_key, known), numbers_of(order_key)
    model = learners.supervised(known.party, known.num_classes, options)

    def batches(numbers):
      rows = train.whole_batches(known.pool.size, batch_size, numbers, seed)
      return taken(known.pool, rows), np.asarray(known.labels)[rows]

    state = model.init(key, bottom, known.pool.take(np.arange(1)))
    return run(model, state, bottom, batches, epochs, steps, callback)

  needs = ('party', 'pool', 'labels')
  return completion(fit, name='completion.supervised', needs=needs, check=check)


def draw(
  pool: Pool,
  labelled: Labelled,
  size: int,
  numbers: np.ndarray,
  seed: tuple[int, ...],
) -> mixmatch.Batch:
  """Batches of the steps `numbers` [n], from 1; leaves [n, B, ...].

  Labelled and unlabelled rows are shuffled anew in every pass through them;
  what is left of a pass after its last whole batch is dropped.

  Args:
    pool: unlabelled rows.
    labelled: examples x [M, ...], y [M, K].
    size: B.
    numbers: of the steps.
    seed: of the order.
  """
  own, rows = (
    train.whole_batches(num, size, numbers, (*seed, which))
    for which, num in enumerate((len(labelled.x), pool.size))
  )
  x, y = (np.asarray(a)[own] for a in labelled)
  return mixmatch.Batch(x, y, taken(pool, rows))


def _semi_supervised(options, fit, name):
  return completion(
    fit,
    name=f'completion.{name}',
    needs=('party', 'pool', 'labelled'),
    check=functools.partial(_check, options),
  )


def _complete(options, key, bottom, known, callback):
  """Trains head, or all, on a bottom's variables; what predicts at the end."""
  size = options.batch_size
  model = learners.semi_supervised(known.party, known.num_classes, options)
  init_key, order_key = jax.random.split(key)
  seed = numbers_of(order_key)
  batches = lambda n: draw(known.pool, known.labelled, size, n, seed)
  state = model.init(init_key, bottom, known.labelled.x[:1])
  rest = bottom, batches, options.epochs, options.iterations
  return run(model, state, *rest, callback)


def _check(options, known):
  """Traces a step; raises what is wrong with it."""
  size, labelled, held = options.batch_size, known.labelled, known.pool.size
  if size > min(len(labelled.x), held):
    raise InputError(
      f'batch_size={size} exceeds the {len(labelled.x)} labelled examples or'
      f' the {held} rows of the pool; lower it.'
    )
  model = learners.semi_supervised(known.party, known.num_classes, options)
  first = draw(known.pool, labelled, size, np.arange(1) + 1, (0,))
  batch = jax.tree.map(lambda a: a[0], first)
  key, x = jax.random.key(0), labelled.x[:1]
  bottom = jax.eval_shape(known.party.init, key, x)
  state = jax.eval_shape(model.init, key, bottom, x)
  jax.eval_shape(model.step, state, batch)


def run(model, state, bottom, batches, epochs, steps, callback):
  """Epoch by epoch; calls back with what predicts after each of them."""
  chunk = max(n for n in range(1, min(_CHUNK, steps) + 1) if steps % n == 0)
  for epoch in range(epochs):
    state = train.fit(
      model.step,
      state,
      lambda numbers, e=epoch: batches(numbers + e * steps),
      steps=steps,
      chunk=chunk,
      progress=False,
    )
    predict = functools.partial(model.predict, state, bottom)
    callback(epoch + 1, predict)
  return predict


def fresh(key, known: Known):
  """Variables of the party's bottom, drawn anew."""
  return base.jit_once(known.party.init)(key, known.pool.take(np.arange(1)))


def taken(pool, index):
  """Rows [n, B, ...] of a pool."""
  x = np.asarray(pool.take(index.reshape(-1)))
  return x.reshape(*index.shape, *x.shape[1:])


def numbers_of(key):
  """A key as numbers for the host's generator."""
  return tuple(np.asarray(jax.random.key_data(key)).tolist())
