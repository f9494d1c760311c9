"""A bottom with an inference head on it, and two ways to train them.

What `completion` trains, as pure functions: one seed is the unit, vmap over
seeds. The model of `mixmatch` is either the head alone, on a bottom that runs
in training mode and drifts, or both.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from labelleak import base
from labelleak.attacks.completion import mixmatch
from labelleak.base import InputError
from labelleak.models import mlp


class Learner(NamedTuple):
  """Pure functions of one completion."""

  # (key, bottom variables, x [B, ...]) -> state
  init: Callable
  step: Callable  # (state, batch) -> (state, {'loss': []})
  # (state, bottom variables as given to init, x [n, ...]) -> logits [n, K]
  predict: Callable


class Options(NamedTuple):
  """Hyperparameters; the defaults are those published for CIFAR-10."""

  tune: str = 'head'  # or 'all'
  # The head, see `mlp.inference_head`.
  layers: int = 1
  activation: str = 'relu'
  batch_norm: bool = True
  init: str = 'ones'
  # See `mixmatch.mixmatch`, whose decay is `weight_decay` * lr.
  temperature: float = 0.8
  alpha: float = 0.75
  weight: float = 50.0
  ema: float = 0.999
  weight_decay: float = 0.02
  per_pair: bool = False
  # Adam at a constant rate.
  lr: float = 2e-3
  batch_size: int = 16  # of labelled examples, and of unlabelled ones
  epochs: int = 25
  iterations: int = 1024  # steps of an epoch


def options(**given) -> Options:
  """`Options` of valid values.

  Raises:
    InputError: an option that is unknown or out of its range.
  """
  for name in given:
    if name not in Options._fields:
      raise InputError(
        f'completion takes no {name!r}; it takes: {", ".join(Options._fields)}.'
      )
  found = Options(**given)
  if found.tune not in ('head', 'all'):
    raise InputError(f"tune={found.tune!r}; use 'head' or 'all'.")
  for name in ('lr', 'batch_size', 'epochs', 'iterations'):
    if not getattr(found, name) > 0:
      raise InputError(f'{name}={getattr(found, name)} must be positive.')
  _head(found, 2)
  _core(found, None)
  return found


@functools.lru_cache(maxsize=16)  # seeds share what is compiled
def semi_supervised(
  party: base.Party, num_classes: int, options: Options
) -> Learner:
  """MixMatch of head or all; steps take a `mixmatch.Batch`."""
  head = _head(options, num_classes)
  split, join = _HALVES[options.tune]

  def apply(own, rest, x, key):
    logits, *both = forward(party, head, *join(own, rest), x, key)
    return logits, *split(*both)

  core = _core(options, apply)

  def init(key, variables, x):
    head_key, key = jax.random.split(key)
    top = start(party, head, head_key, variables, x)
    return core.init(key, *split(variables, top))

  def predict(state, variables, x):
    rest = split(variables, {})[1]
    return infer(party, head, *join(state.average, rest), x)

  return Learner(base.jit_once(init), core.step, jax.jit(predict))


@functools.lru_cache(maxsize=16)
def supervised(
  party: base.Party, num_classes: int, options: Options
) -> Learner:
  """Cross entropy of all, with the party's optimizer.

  Steps take (x [B, ...], y [B, K]).
  """
  head = _head(options, num_classes)

  def init(key, variables, x):
    head_key, key = jax.random.split(key)
    top = start(party, head, head_key, variables, x)
    own, _ = together(variables, top)
    opt_state = party.tx.init(own['params'])
    return own, opt_state, key, jnp.zeros((), jnp.int32)

  def step(state, batch):
    own, opt_state, key, count = state
    x, y = batch

    def loss_fn(params):
      both = apart({**own, 'params': params}, {})
      step_key = jax.random.fold_in(key, count)
      logits, *both = forward(party, head, *both, x, step_key)
      loss = optax.softmax_cross_entropy(logits, y).mean()
      return loss, together(*both)[0]

    grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, updated), grads = grad(own['params'])
    updates, opt_state = party.tx.update(grads, opt_state, own['params'])
    params = optax.apply_updates(own['params'], updates)
    own = {**updated, 'params': params}
    return (own, opt_state, key, count + 1), dict(loss=loss)

  def predict(state, variables, x):
    del variables
    return infer(party, head, *apart(state[0], {}), x)

  return Learner(base.jit_once(init), step, jax.jit(predict))


def _core(options, apply):
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


def start(party, head, key, variables, x):
  """Variables of a fresh head on this bottom."""
  h, _ = party.apply(variables, x, train=False, key=None)
  return head.init(key, h)


def forward(party, head: nn.Module, bottom, top, x, key, **inputs):
  """(logits, new variables of bottom and head), in training mode."""
  h, bottom = party.apply(bottom, x, train=True, key=key, **inputs)
  rest = [name for name in top if name != 'params']
  logits, updated = head.apply(top, h, train=True, mutable=rest)
  return logits, bottom, {**top, **updated}


def infer(party, head, bottom, top, x):
  h, _ = party.apply(bottom, x, train=False, key=None)
  return head.apply(top, h, train=False)


def together(bottom, top):
  """Variables of bottom and head as one dict of collections, nothing left."""
  names = dict.fromkeys([*bottom, *top])
  own = {
    name: dict(bottom=bottom.get(name, {}), head=top.get(name, {}))
    for name in names
  }
  return own, {}


def apart(own, rest):
  """(bottom, head) of `together`."""
  del rest
  return tuple(
    {name: both[part] for name, both in own.items() if both[part]}
    for part in ('bottom', 'head')
  )


# How (bottom, head) becomes `mixmatch`'s (own, rest), and back.
_HALVES = {
  'all': (together, apart),
  'head': (
    lambda bottom, top: (top, bottom),
    lambda own, rest: (rest, own),
  ),
}
