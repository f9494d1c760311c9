"""A bottom with an inference head on it, and two ways to train them.

What `completion` trains, as pure functions: one seed is the unit, vmap over
seeds. The model of `mixmatch` is either the head alone, on a bottom that runs
in training mode and drifts, or both.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple, Optional

import chex
from flax import linen as nn
import jax
import optax

from labelleak import base, compilation, validate
from labelleak.attacks.completion import halves, mixmatch
from labelleak.attacks.completion.halves import Variables
from labelleak.base import InputError
from labelleak.models import mlp

State = chex.ArrayTree  # what a training carries
MakeMethod = Callable[[mixmatch.Apply], mixmatch.Method]


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
  values = fill(Options, given, positive=('lr', 'batch_size'))
  validate.one_of('tune', values.tune, ('head', 'all'))
  _head(values, 2)
  _mixmatch(values, None)
  return values


def fill(kind: type, given: Mapping[str, Any], positive: Sequence[str]) -> Any:
  """Fills in options, whose `positive` fields and schedule are above 0."""
  for name in given:
    if name not in kind._fields:
      raise InputError(
        f'completion takes no {name!r}; it takes: {", ".join(kind._fields)}.'
      )
  values = kind(**given)
  for name in (*positive, 'epochs', 'iterations'):
    validate.positive(name, getattr(values, name))
  return values


@functools.lru_cache(maxsize=16)  # seeds share what is compiled
def semi_supervised(
  party: base.Party, num_classes: int, options: Options
) -> Learner:
  """Builds MixMatch of head or all; steps take a `mixmatch.Batch`."""
  method = functools.partial(_mixmatch, options)
  return build(party, _head(options, num_classes), method, tune=options.tune)


@functools.lru_cache(maxsize=16)
def supervised(
  party: base.Party, num_classes: int, options: Options
) -> Learner:
  """Builds the cross entropy of all, with the party's optimizer.

  Steps take (x [B, ...], y [B, K]).
  """
  method = functools.partial(_cross_entropy, party.tx)
  return build(party, _head(options, num_classes), method)


def build(
  party: base.Party,
  head: Optional[nn.Module],
  method: MakeMethod,
  *,
  tune: str = 'all',
) -> Learner:
  """Builds the learner of a bottom and the head on it.

  Args:
    party: of the bottom.
    head: on it; None: the bottom's outputs are the logits.
    method: of training, such as MixMatch.
    tune: 'head' or 'all'.
  """
  split, join = _HALVES[tune]

  def apply(trained, frozen, x, key, **inputs):
    bottom, top = join(trained, frozen)
    logits, bottom, top = halves.forward(
      party, head, bottom, top, x, key, **inputs
    )
    trained, frozen = split(bottom, top)
    return logits, trained, frozen

  core = method(apply)

  def init(key, variables, x):
    head_key, key = jax.random.split(key)
    top = halves.init_head(party, head, head_key, variables, x)
    trained, frozen = split(variables, top)
    return core.init(key, trained, frozen)

  def predict(state, variables, x):
    _, frozen = split(variables, {})
    bottom, top = join(state.average, frozen)
    return halves.logits_of(party, head, bottom, top, x)

  return Learner(compilation.jit_once(init), core.step, jax.jit(predict))


def _cross_entropy(tx, apply):
  """Builds training on labels alone; the model that predicts is the last."""

  def step(state, batch):
    x, y = batch
    params = state.trained['params']

    def loss_fn(params):
      key = jax.random.fold_in(state.key, state.count)
      trained = {**state.trained, 'params': params}
      logits, trained, _ = apply(trained, state.frozen, x, key)
      return optax.softmax_cross_entropy(logits, y).mean(), trained

    grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, trained), grads = grad(params)
    updates, opt_state = tx.update(grads, state.opt_state, params)
    trained = {**trained, 'params': optax.apply_updates(params, updates)}
    state = state._replace(
      trained=trained,
      average=trained,
      opt_state=opt_state,
      count=state.count + 1,
    )
    return state, dict(loss=loss)

  return mixmatch.Method(functools.partial(mixmatch.start, tx), step)


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
