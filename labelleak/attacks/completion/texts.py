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
All of the model is trained. Arguments are the fields of
`text_learners.Options`; grants, and what is returned, are those of
`completion`.
"""

from collections.abc import Callable
import functools
from typing import Optional

import chex
import jax
import numpy as np

from labelleak import base, vfl
from labelleak.attacks.completion import (
  batches,
  malicious,
  text_learners,
  training,
)
from labelleak.base import Completion, InputError
from labelleak.models import weights

# (key, view, known) -> variables of the bottom that learning starts from
Start = Callable[[chex.PRNGKey, vfl.View, vfl.Known], chex.ArrayTree]


def passive(**options) -> Completion:
  """Builds the completion of the view's bottom, an inference head on it.

  Args:
    **options: fields of `text_learners.Options`.

  Raises:
    InputError: an unknown or wrong option. (check) There are fewer labels or
      rows than a batch has, or the bottom mixes no hidden states.
  """
  start = lambda key, view, known: view.variables
  return _completion('passive', text_learners.options(**options), start)


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
    **options: fields of `text_learners.Options`.

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
    **options: fields of `text_learners.Options`.

  Raises:
    InputError: see `passive`; `path` holds no such model.
  """

  def start(key, view, known):
    del view
    fresh = training.draw_bottom(key, known)
    return weights.load(path, fresh, head='fresh') if path else fresh

  options = text_learners.options(**options)
  return _completion('semi_supervised', options, start, headless=True)


def _completion(
  name: str,
  options: text_learners.Options,
  start: Start,
  headless: bool = False,
) -> Completion:
  """Builds a completion by MixText, with an inference head or without."""
  learner_of = lambda known: text_learners.learner(
    known.party, known.num_classes, options, headless
  )
  draw = functools.partial(text_learners.draw, options)

  def check(known):
    x = known.labelled.x
    for size, num, what in (
      (options.batch_size, len(x), 'labelled texts'),
      (options.unlabelled, known.pool.size, 'rows of the pool'),
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
