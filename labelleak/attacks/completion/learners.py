"""A bottom with an inference head on it, and two ways to train them.

What `completion` trains, as pure functions: one seed is the unit, vmap over
seeds. The model of `mixmatch` is either the head alone, on a bottom that runs
in training mode and drifts, or both.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import base, validate
from labelleak.attacks.completion import halves, mixmatch
from labelleak.attacks.completion.halves import Variables
from labelleak.base import InputError
from labelleak.models import mlp

State = chex.ArrayTree  # what a training carries


class Learner(NamedTuple):
  """Pure functions of one completion."""

  # (key, bottom variables, x [B, ...]) -> state
  init: Callable[[chex.PRNGKey, Variables, chex.Array], State]
  # (state, batch) -> (state, {'loss': []})
  step: Callable[[State, chex.ArrayTree], tuple[State, dict[str, chex.Array]]]
  # (state, bottom variables as given to init, x [n, ...]) -> logits [n, K]
  predict: Callable[[State, Variables, chex.Array], chex.Array]


class Options(NamedTuple):
  """Hyperparameters; the defaults are those published for CIFAR-10.

  Attributes:
    tune: 'head' or 'all'.
    layers, activation, batch_norm, init: of the head; see `mlp.inference_head`.
    temperature, alpha, weight, ema, per_pair: see `mixmatch.mixmatch`.
    weight_decay: times `lr`, its decay.
    lr: of Adam, constant.
    batch_size: B, of labelled examples and of unlabelled ones.
    epochs: how many.
    iterations: steps of an epoch.
  """

  tune: str = 'head'
  layers: int = 1
  activation: str = 'relu'
  batch_norm: bool = True
  init: str = 'ones'
  temperature: float = 0.8
  alpha: float = 0.75
  weight: float = 50.0
  ema: float = 0.999
  weight_decay: float = 0.02
  per_pair: bool = False
  lr: float = 2e-3
  batch_size: int = 16
  epochs: int = 25
  iterations: int = 1024


def options(**given) -> Options:
  """Returns `Options` of valid values.

  Raises:
    InputError: an option that is unknown or out of its range.
  """
  for name in given:
    if name not in Options._fields:
      raise InputError(
        f'completion takes no {name!r}; it takes: {", ".join(Options._fields)}.'
      )
  values = Options(**given)
  validate.one_of('tune', values.tune, ('head', 'all'))
  for name in ('lr', 'batch_size', 'epochs', 'iterations'):
    validate.positive(name, getattr(values, name))
  _head(values, 2)
  _mixmatch(values, None)
  return values


@functools.lru_cache(maxsize=16)  # seeds share what is compiled
def semi_supervised(
  party: base.Party, num_classes: int, options: Options
) -> Learner:
  """Builds MixMatch of head or all; steps take a `mixmatch.Batch`."""
  head = _head(options, num_classes)
  split, join = _HALVES[options.tune]

  def apply(trained, frozen, x, key):
    bottom, top = join(trained, frozen)
    logits, bottom, top = halves.forward(party, head, bottom, top, x, key)
    trained, frozen = split(bottom, top)
    return logits, trained, frozen

  core = _mixmatch(options, apply)

  def init(key, variables, x):
    head_key, key = jax.random.split(key)
    top = halves.init_head(party, head, head_key, variables, x)
    trained, frozen = split(variables, top)
    return core.init(key, trained, frozen)

  def predict(state, variables, x):
    _, frozen = split(variables, {})
    bottom, top = join(state.average, frozen)
    return halves.logits_of(party, head, bottom, top, x)

  return Learner(base.jit_once(init), core.step, jax.jit(predict))


@functools.lru_cache(maxsize=16)
def supervised(
  party: base.Party, num_classes: int, options: Options
) -> Learner:
  """Builds the cross entropy of all, with the party's optimizer.

  Steps take (x [B, ...], y [B, K]).
  """
  head = _head(options, num_classes)

  def init(key, variables, x):
    head_key, key = jax.random.split(key)
    top = halves.init_head(party, head, head_key, variables, x)
    trained, _ = halves.join_trees(variables, top)
    opt_state = party.tx.init(trained['params'])
    return trained, opt_state, key, jnp.zeros((), jnp.int32)

  def step(state, batch):
    trained, opt_state, key, count = state
    x, y = batch

    def loss_fn(params):
      bottom, top = halves.split_tree({**trained, 'params': params}, {})
      step_key = jax.random.fold_in(key, count)
      logits, bottom, top = halves.forward(
        party, head, bottom, top, x, step_key
      )
      loss = optax.softmax_cross_entropy(logits, y).mean()
      return loss, halves.join_trees(bottom, top)[0]

    grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, updated), grads = grad(trained['params'])
    updates, opt_state = party.tx.update(grads, opt_state, trained['params'])
    params = optax.apply_updates(trained['params'], updates)
    trained = {**updated, 'params': params}
    return (trained, opt_state, key, count + 1), dict(loss=loss)

  def predict(state, variables, x):
    del variables
    bottom, top = halves.split_tree(state[0], {})
    return halves.logits_of(party, head, bottom, top, x)

  return Learner(base.jit_once(init), step, jax.jit(predict))


def _mixmatch(options, apply):
  return mixmatch.mixmatch(
    apply,
    optax.adam(options.lr),
    steps=options.epochs * options.iterations,
    temperature=options.temperature,
    alpha=options.alpha,
    weight=options.weight,
    ema=options.ema,
    decay=options.weight_decay * options.lr,
    per_pair=options.per_pair,
  )


def _head(options, num_classes):
  return mlp.inference_head(
    num_classes=num_classes,
    layers=options.layers,
    activation=options.activation,
    batch_norm=options.batch_norm,
    init=options.init,
  )


# How (bottom, head) becomes `mixmatch`'s (trained, frozen), and back.
_HALVES = {
  'all': (halves.join_trees, halves.split_tree),
  'head': (
    lambda bottom, top: (top, bottom),
    lambda trained, frozen: (frozen, trained),
  ),
}
