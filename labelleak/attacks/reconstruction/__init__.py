"""Inputs of a client's batch from its update, once the labels are extracted.

The attacker guesses images, computes the update that they would give and moves
them until it is the one observed. `inverting_gradients` is Geiping et al.,
"Inverting Gradients" (NeurIPS 2020), in the form behind Table 10 of the LLBG
paper: labels fixed beforehand, by any attack of `counts`, then

  min_x  1 - <u(x), g> / (|u(x)| |g|) + a TV(x),

one cosine over all parameters, Adam on the sign of the gradient, pixels boxed.
`deep_leakage` is DLG, Zhu et al., "Deep Leakage from Gradients" (NeurIPS 2019):
Euclidean distance, labels guessed along with the images.

`matching` says how updates are compared.
"""

from typing import Union

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import attacks, hfl
from labelleak.attacks.reconstruction import matching
from labelleak.base import (
  Attack,
  InputError,
  Reconstruction,
  attack,
  check_needs,
  granted,
)
from labelleak.hfl import Known

GRANTED = 'granted'
_DECAYS = 2.667, 1.6, 1.142  # parts of the schedule, each a tenth of the last


def inverting_gradients(
  *,
  labels: Union[str, dict] = 'counts.llbg',
  steps: int = 24_000,
  lr: float = 0.1,
  tv: float = 0.2,
  restarts: int = 1,
) -> Attack:
  """Inverting Gradients with extracted labels; `infer` -> `Reconstruction`.

  Needs `known.model`; `known.lr` where the view is an update of several steps.

  Args:
    labels: attack of `counts` that names the labels, with its arguments as a
      dict; they fill the slots in ascending order. 'granted' takes
      `known.labels`, which no attacker has: an upper bound.
    steps: iterations; the rate falls to a tenth after 37.5, 62.5 and 87.5 % of
      them, as published.
    lr: learning rate of Adam.
    tv: weight a of total variation.
    restarts: guesses optimised side by side; the lowest objective is kept.

  Raises:
    InputError: a value out of range, or no such attack. At trace time: a grant
      is missing, or the model takes no images.
  """
  _at_least_one(steps=steps, restarts=restarts)
  if not (lr > 0 and tv >= 0):
    raise InputError(f'lr={lr} must be positive and tv={tv} not negative.')
  name, extract = 'reconstruction.inverting_gradients', _extractor(labels)

  def infer(key, view, known):
    _check(known, name)
    label_key, key = jax.random.split(key)
    slots = assign(extract(label_key, view, known), known.num_examples)

    def one(key):
      start_key, key = jax.random.split(key)
      options = dict(steps=steps, lr=lr, tv=tv)
      return invert(key, start(start_key, known), view, known, slots, **options)

    return _best(one, key, restarts)

  needs = ('model', 'labels') if labels == GRANTED else ('model',)
  return attack(infer, name=name, needs=needs)


def deep_leakage(*, steps: int = 300, restarts: int = 1) -> Attack:
  """DLG: images and label logits together, by L-BFGS; -> `Reconstruction`.

  optax's L-BFGS searches along the line, where torch's, as released, took full
  steps of 1 and diverged from many guesses. Needs the grants of
  `inverting_gradients`; labels are read from the guess, not extracted.

  Args:
    steps: iterations.
    restarts: guesses optimised side by side; the lowest objective is kept.

  Raises:
    InputError: a value below 1. At trace time: as `inverting_gradients`.
  """
  _at_least_one(steps=steps, restarts=restarts)

  def infer(key, view, known):
    _check(known, name)
    return _best(lambda key: _leak(key, view, known, steps), key, restarts)

  name = 'reconstruction.deep_leakage'
  return attack(infer, name=name, needs=('model',))


def random() -> Attack:
  """Images of standard normal pixels with uniform labels: the baseline.

  They never saw the update; `objective` is 0. It is where the others start.
  """

  def infer(key, view, known):
    x_key, label_key = jax.random.split(key)
    num = known.num_examples
    labels = jax.random.randint(label_key, (num,), 0, known.num_classes)
    x = _boxed(start(x_key, known), known)
    return Reconstruction(x, jnp.sort(labels), jnp.zeros(()))

  return attack(infer, name='reconstruction.random', needs=('model',))


def assign(named: chex.Array, num: int) -> chex.Array:
  """Label counts [K] with sum `num` as labels [num], ascending."""
  chex.assert_rank(named, 1)
  classes = jnp.arange(named.shape[0])
  return jnp.repeat(classes, named, total_repeat_length=num)


def start(key: chex.PRNGKey, known: Known) -> chex.Array:
  """Standard normal images [B, H, W, C] in the model's input space."""
  return jax.random.normal(key, (known.num_examples, *known.model.shape))


def schedule(lr: float, steps: int) -> optax.Schedule:
  """A tenth after 37.5 %, again after 62.5 % and 87.5 % of the iterations."""
  return optax.piecewise_constant_schedule(
    lr, {int(steps // part): 0.1 for part in _DECAYS}
  )


@jax.default_matmul_precision('highest')  # the cosine ends within 1e-6 of 1
def invert(
  key: chex.PRNGKey,
  x: chex.Array,
  view: hfl.View,
  known: Known,
  labels: chex.Array,
  *,
  steps: int,
  lr: float = 0.1,
  tv: float = 0.2,
) -> Reconstruction:
  """One restart of Inverting Gradients from x [B, H, W, C], `start`.

  Labels [B] are fixed, the other options those of `inverting_gradients`. The
  guess of lowest objective is kept, of all that were visited. (The released
  code keeps the one that follows it.)
  """
  y = jax.nn.one_hot(labels, known.num_classes)
  distance = matching.cosine_distance(key, view, known)
  objective = lambda x: distance(x, y) + tv * matching.total_variation(x)
  tx = optax.chain(optax.scale_by_sign(), optax.adam(schedule(lr, steps)))

  def step(carry, _):
    x, state, best = carry
    value, slope = jax.value_and_grad(objective)(x)
    best = _lower(best, (value, x))
    updates, state = tx.update(slope, state)
    return (_boxed(optax.apply_updates(x, updates), known), state, best), None

  carry = x, tx.init(x), (jnp.asarray(jnp.inf), x)
  (x, _, best), _ = jax.lax.scan(step, carry, length=steps)
  value, x = _lower(best, (objective(x), x))
  return Reconstruction(x, labels, value)


@jax.default_matmul_precision('highest')
def _leak(key, view, known, steps):
  """One restart of DLG."""
  x_key, label_key, key = jax.random.split(key, 3)
  distance = matching.squared_distance(key, view, known)
  num = known.num_examples
  logits = jax.random.normal(label_key, (num, known.num_classes))

  objective = lambda guess: distance(guess[0], jax.nn.softmax(guess[1]))
  tx = optax.lbfgs()

  def step(carry, _):
    guess, state, best = carry
    value, slope = jax.value_and_grad(objective)(guess)
    best = _lower(best, (value, guess))
    updates, state = tx.update(
      slope, state, guess, value=value, grad=slope, value_fn=objective
    )
    return (optax.apply_updates(guess, updates), state, best), None

  guess = start(x_key, known), logits
  carry = guess, tx.init(guess), (jnp.asarray(jnp.inf), guess)
  (guess, _, best), _ = jax.lax.scan(step, carry, length=steps)
  value, (x, logits) = _lower(best, (objective(guess), guess))
  return Reconstruction(_boxed(x, known), logits.argmax(-1), value)


def _boxed(x, known):
  """Pixels between black and white, where the attacker knows them."""
  model = known.model
  if model.pixel_range is None:
    return x
  low, high = (
    jnp.broadcast_to(b, model.shape)[None] for b in model.pixel_range
  )
  return jnp.clip(x, low, high)


def _lower(best, other):
  """Of two pairs (objective, guess) the lower one; NaN is never lower."""
  return jax.tree.map(
    lambda a, b: jnp.where(other[0] < best[0], b, a), best, other
  )


def _best(one, key, restarts):
  """`one(key)` of the restart of lowest objective."""
  if restarts == 1:  # spares XLA the batched form of every layer
    return one(key)
  found = jax.vmap(one)(jax.random.split(key, restarts))
  value = jnp.where(jnp.isnan(found.objective), jnp.inf, found.objective)
  return jax.tree.map(lambda a: a[value.argmin()], found)


def _extractor(labels):
  """(key, view, known) -> label counts [K]."""
  if labels == GRANTED:
    return lambda key, view, known: known.labels.sum(0).astype(jnp.int32)
  spec = dict(labels) if isinstance(labels, dict) else dict(name=labels)
  if 'name' not in spec:
    raise InputError(f"labels={labels!r} lacks a name, such as 'counts.llbg'.")
  return attacks.load(**spec).infer


def _check(known, name):
  """Refuses what `name` cannot run on."""
  if known.steps > 1:
    check_needs(name, ('lr',), granted(known))
  if len(known.model.shape) != 3:
    raise InputError(
      f'{name} restores images [H, W, C], not examples of shape'
      f' {known.model.shape}; use image data.'
    )
  if known.steps > 1 and known.clients > 1:
    raise InputError(
      f'the mean update of clients={known.clients} after local_steps='
      f'{known.steps} is that of no single batch; set one of them to 1.'
    )


def _at_least_one(**values):
  for name, value in values.items():
    if value < 1:
      raise InputError(f'{name}={value} must be at least 1; raise it.')
