"""Model completion on texts: MixText in the place of MixMatch.

Fu et al. (USENIX Security 2022) attack Yahoo Answers, whose examples are tokens
and cannot be mixed, by MixText (`mixtext`): a BERT bottom mixes hidden states.

  passive          the stolen bottom with an inference head, as the paper says
  active           the same, after training with a malicious optimizer
  semi_supervised  the same learning on a BERT that never was stolen, which is
                   what the released code runs: it makes a pretrained BERT of
                   its own, and attaches the stolen bottom to it without ever
                   calling that

so that the published numbers are of the last, whatever the bottom learned.
All of the model is trained. Arguments are the fields of `Options`; grants, and
what is returned, are those of `completion`.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple, Optional

import chex
import jax
import numpy as np

from labelleak import base, train, vfl
from labelleak.attacks.completion import (
  batches,
  halves,
  learners,
  malicious,
  mixtext,
  training,
)
from labelleak.base import Completion, InputError
from labelleak.models import mlp, weights

# (key, view, known) -> variables of the bottom that learning starts from
Start = Callable[[chex.PRNGKey, vfl.View, vfl.Known], chex.ArrayTree]


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


def passive(**options) -> Completion:
  """Builds the completion of the view's bottom, an inference head on it.

  Args:
    **options: fields of `Options`.

  Raises:
    InputError: an unknown or wrong option. (check) There are fewer labels or
      rows than a batch has, or the bottom mixes no hidden states.
  """
  start = lambda key, view, known: view.variables
  return _completion('passive', _options(**options), start)


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
    reading, gamma, r_min, r_max: see `malicious.accelerate`.
    **options: fields of `Options`.

  Raises:
    InputError: see `passive` and `malicious.accelerate`.
  """
  optimizer = malicious.substitution(
    reading=reading, gamma=gamma, r_min=r_min, r_max=r_max
  )
  return passive(**options)._replace(optimizer=optimizer)


def semi_supervised(*, path: Optional[str] = None, **options) -> Completion:
  """Builds the learning on a bottom whose logits name the labels.

  Nothing is stolen: the bottom is the attacker's own.

  Args:
    path: of pretrained weights, see `models.weights.load`; None draws them.
    **options: fields of `Options`.

  Raises:
    InputError: see `passive`; `path` holds no such model.
  """

  def start(key, view, known):
    del view
    fresh = training.draw_bottom(key, known)
    return weights.load(path, fresh, head='fresh') if path else fresh

  options = _options(**options)
  return _completion('semi_supervised', options, start, headless=True)


def _completion(
  name: str, options: Options, start: Start, headless: bool = False
) -> Completion:
  """Builds a completion by MixText, with an inference head or without."""
  learner_of = lambda known: _learner(
    known.party, known.num_classes, options, headless
  )

  def draw(known, numbers, seed):
    labelled_rows, rows = (
      train.whole_batches(num, size, numbers, (*seed, which))
      for which, (num, size) in enumerate(
        (
          (len(known.labelled.x), options.batch_size),
          (known.pool.size, options.unlabelled),
        )
      )
    )
    x, y = (np.asarray(a)[labelled_rows] for a in known.labelled)
    return mixtext.Batch(x, y, batches.take_rows(known.pool, rows)[:, None])

  def check(known):
    x, held = known.labelled.x, known.pool.size
    for size, num, what in (
      (options.batch_size, len(x), 'labelled texts'),
      (options.unlabelled, held, 'rows of the pool'),
    ):
      if size > num:
        raise InputError(f'a batch of {size} exceeds {num} {what}; lower it.')
    batch = jax.tree.map(lambda a: a[0], draw(known, np.arange(1) + 1, (0,)))
    key, learner = jax.random.key(0), learner_of(known)
    bottom = jax.eval_shape(known.party.init, key, x[:1])
    state = jax.eval_shape(learner.init, key, bottom, x[:1])
    try:
      jax.eval_shape(learner.step, state, batch)
    except TypeError as e:  # an argument that the bottom does not take
      raise InputError(
        f'the bottom mixes no hidden states ({e}); use bert.bert, or'
        ' completion.passive where examples themselves can be mixed.'
      ) from e

  def fit(key, view, known, callback):
    bottom_key, init_key, order_key = jax.random.split(key, 3)
    learner, seed = learner_of(known), batches.seed_of(order_key)
    bottom = start(bottom_key, view, known)
    return training.run(
      learner,
      learner.init(init_key, bottom, known.labelled.x[:1]),
      bottom,
      lambda numbers: draw(known, numbers, seed),
      epochs=options.epochs,
      steps=options.iterations,
      callback=callback,
    )

  return base.completion(
    fit,
    name=f'completion.texts.{name}',
    needs=('party', 'pool', 'labelled'),
    check=check,
  )


@functools.lru_cache(maxsize=16)  # seeds share what is compiled
def _learner(party, num_classes, options, headless):
  """Builds MixText of a bottom; steps take its batches."""
  head = mlp.inference_head(num_classes=num_classes)

  def apply(own, rest, x, key, mix):
    bottom, top = halves.split_tree(own, rest)
    if headless:
      logits, bottom = party.apply(bottom, x, train=True, key=key, mix=mix)
    else:
      logits, bottom, top = halves.forward(
        party, head, bottom, top, x, key, mix=mix
      )
    own, rest = halves.join_trees(bottom, top)
    return logits, own, rest

  core = _mixtext(options, apply)

  def init(key, variables, x):
    head_key, key = jax.random.split(key)
    top = {}
    if not headless:
      top = halves.init_head(party, head, head_key, variables, x)
    own, rest = halves.join_trees(variables, top)
    return core.init(key, own, rest)

  def predict(state, variables, x):
    del variables
    bottom, top = halves.split_tree(state.own, state.rest)
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


def _options(**given):
  """Returns `Options` of valid values."""
  for name in given:
    if name not in Options._fields:
      raise InputError(
        f'texts takes no {name!r}; it takes: {", ".join(Options._fields)}.'
      )
  options = Options(**given)
  options = options._replace(mix_layers=tuple(options.mix_layers))
  positive = 'encoder_lr', 'head_lr', 'batch_size', 'unlabelled'
  for name in (*positive, 'epochs', 'iterations'):
    if not getattr(options, name) > 0:
      raise InputError(f'{name}={getattr(options, name)} must be positive.')
  _mixtext(options, None)
  return options
