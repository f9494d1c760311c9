"""A BERT bottom, with an inference head or without, that MixText trains."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from labelleak import base, train, validate, vfl
from labelleak.attacks.completion import batches, halves, learners, mixtext
from labelleak.base import InputError
from labelleak.models import mlp


class Options(NamedTuple):
  """Hyperparameters; the defaults are those of the released code.

  Attributes:
    mix_layers, temperature, alpha, weight, hinge, margin: see
      `mixtext.mixtext`.
    encoder_lr, head_lr: see `mixtext.optimizer`.
    batch_size: B, of labelled texts.
    unlabelled: U, of other ones.
    epochs: how many.
    iterations: steps of an epoch.
  """

  mix_layers: tuple[int, ...] = (7, 9, 12)
  temperature: float = 0.5
  alpha: float = 16.0
  weight: float = 1.0
  hinge: float = 0.0
  margin: float = 0.7
  encoder_lr: float = 5e-6
  head_lr: float = 5e-4
  batch_size: int = 2
  unlabelled: int = 4
  epochs: int = 10
  iterations: int = 1000


def draw(
  options: Options, known: vfl.Known, numbers: np.ndarray, seed: batches.Seed
) -> mixtext.Batch:
  """Draws the batches of the steps `numbers` [n], from 1; leaves [n, ...].

  Args:
    options: say how many texts a batch has.
    known: with `pool` and `labelled`.
    numbers: of the steps.
    seed: of the order.
  """
  labelled_rows = train.whole_batches(
    len(known.labelled.x), options.batch_size, numbers, (*seed, 0)
  )
  rows = train.whole_batches(
    known.pool.size, options.unlabelled, numbers, (*seed, 1)
  )
  x, y = (np.asarray(a)[labelled_rows] for a in known.labelled)
  return mixtext.Batch(x, y, batches.take_rows(known.pool, rows)[:, None])


@functools.lru_cache(maxsize=16)  # seeds share what is compiled
def learner(
  party: base.Party, num_classes: int, options: Options, headless: bool
) -> learners.Learner:
  """Builds MixText of a bottom; steps take its batches."""
  head = mlp.inference_head(num_classes=num_classes)

  def apply(trained, frozen, x, key, mix):
    bottom, top = halves.split_tree(trained, frozen)
    if headless:
      logits, bottom = party.apply(bottom, x, train=True, key=key, mix=mix)
    else:
      logits, bottom, top = halves.forward(
        party, head, bottom, top, x, key, mix=mix
      )
    trained, frozen = halves.join_trees(bottom, top)
    return logits, trained, frozen

  core = _mixtext(options, apply)

  def init(key, variables, x):
    head_key, key = jax.random.split(key)
    top = {}
    if not headless:
      top = halves.init_head(party, head, head_key, variables, x)
    trained, frozen = halves.join_trees(variables, top)
    return core.init(key, trained, frozen)

  def predict(state, variables, x):
    del variables
    bottom, top = halves.split_tree(state.trained, state.frozen)
    if headless:
      return party.apply(bottom, x, train=False, key=None)[0]
    return halves.logits_of(party, head, bottom, top, x)

  return learners.Learner(base.jit_once(init), core.step, jax.jit(predict))


def _mixtext(options, apply):
  return mixtext.mixtext(
    apply,
    mixtext.optimizer(options.encoder_lr, options.head_lr),
    steps=options.epochs * options.iterations,
    mix_layers=options.mix_layers,
    temperature=options.temperature,
    alpha=options.alpha,
    weight=options.weight,
    hinge=options.hinge,
    margin=options.margin,
  )


def options(**given) -> Options:
  """Returns `Options` of valid values.

  Raises:
    InputError: an option that is unknown or out of its range.
  """
  for name in given:
    if name not in Options._fields:
      raise InputError(
        f'texts takes no {name!r}; it takes: {", ".join(Options._fields)}.'
      )
  values = Options(**given)
  values = values._replace(mix_layers=tuple(values.mix_layers))
  positive = 'encoder_lr', 'head_lr', 'batch_size', 'unlabelled'
  for name in (*positive, 'epochs', 'iterations'):
    validate.positive(name, getattr(values, name))
  _mixtext(values, None)
  return values
