"""Model completion on texts: MixText in the place of MixMatch.

Fu et al. (USENIX Security 2022) attack Yahoo Answers, whose examples are tokens
and cannot be mixed, by MixText (`mixtext`): a BERT bottom mixes hidden states.

  passive   the stolen bottom with an inference head, as the paper says
  active    the same, after training with a malicious optimizer
  released  the same learning on a BERT that never was stolen, which is what the
            released code runs: it makes a pretrained BERT of its own, and
            attaches the stolen bottom to it without ever calling that

so that the published numbers are of the second, whatever the bottom learned.
All of the model is trained. Arguments are the fields of `Options`; grants, and
what is returned, are those of `completion`.
"""

import functools
from typing import NamedTuple, Optional

import jax
import numpy as np

from labelleak import base, train
from labelleak.attacks import completion
from labelleak.attacks.completion import learners, malicious, mixtext
from labelleak.base import Completion, InputError
from labelleak.models import mlp, weights


class Options(NamedTuple):
  """Hyperparameters; the defaults are those of the released code."""

  # See `mixtext.mixtext` and `mixtext.optimizer`.
  mix_layers: tuple = (7, 9, 12)
  temperature: float = 0.5
  alpha: float = 16.0
  weight: float = 1.0
  hinge: float = 0.0
  margin: float = 0.7
  encoder_lr: float = 5e-6
  head_lr: float = 5e-4
  batch_size: int = 2  # of labelled texts
  unlabelled: int = 4  # of other ones
  epochs: int = 10
  iterations: int = 1000  # steps of an epoch


def passive(**options) -> Completion:
  """Completes the bottom of the view, an inference head on it.

  Needs `known.party`, `pool` and `labelled`, x [M, L].

  Raises:
    InputError: an unknown or wrong option. (check) A grant is missing, or there
      are fewer labels or rows than a batch has, or the bottom mixes no hidden
      states.
  """
  bottom = lambda key, view, known: view.variables
  return _attack(_options(**options), bottom, 'passive')


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
    reading, gamma, r_min, r_max: see `malicious.accelerate`.
    **options: see the module.

  Raises:
    InputError: see `passive` and `malicious.accelerate`.
  """
  scale = dict(reading=reading, gamma=gamma, r_min=r_min, r_max=r_max)
  return passive(**options)._replace(optimizer=malicious.shared(**scale))


def released(*, path: Optional[str] = None, **options) -> Completion:
  """A bottom of its own, whose logits name the labels; nothing is stolen.

  Args:
    path: of pretrained weights, see `models.weights.load`; None draws them.
    **options: see the module.

  Raises:
    InputError: see `passive`; `path` holds no such model.
  """

  def bottom(key, view, known):
    del view
    fresh = completion.fresh(key, known)
    return weights.load(path, fresh, head='fresh') if path else fresh

  return _attack(_options(**options), bottom, 'released', headless=True)


def _attack(options, bottom, name, headless=False):
  model = lambda known: _learner(
    known.party, known.num_classes, options, headless
  )

  def batches(known, numbers, seed):
    own, rows = (
      train.whole_batches(num, size, numbers, (*seed, which))
      for which, (num, size) in enumerate(
        (
          (len(known.labelled.x), options.batch_size),
          (known.pool.size, options.unlabelled),
        )
      )
    )
    x, y = (np.asarray(a)[own] for a in known.labelled)
    return mixtext.Batch(x, y, completion.taken(known.pool, rows)[:, None])

  def check(known):
    x, held = known.labelled.x, known.pool.size
    for size, num, what in (
      (options.batch_size, len(x), 'labelled texts'),
      (options.unlabelled, held, 'rows of the pool'),
    ):
      if size > num:
        raise InputError(f'a batch of {size} exceeds {num} {what}; lower it.')
    batch = jax.tree.map(lambda a: a[0], batches(known, np.arange(1) + 1, (0,)))
    key, learner = jax.random.key(0), model(known)
    drawn = jax.eval_shape(known.party.init, key, x[:1])
    state = jax.eval_shape(learner.init, key, drawn, x[:1])
    try:
      jax.eval_shape(learner.step, state, batch)
    except TypeError as e:  # an argument that the bottom does not take
      raise InputError(
        f'the bottom mixes no hidden states ({e}); use bert.bert, or'
        ' completion.passive where examples themselves can be mixed.'
      ) from e

  def fit(key, view, known, callback):
    bottom_key, init_key, order_key = jax.random.split(key, 3)
    learner, seed = model(known), completion.numbers_of(order_key)
    start = bottom(bottom_key, view, known)
    return completion.run(
      learner,
      learner.init(init_key, start, known.labelled.x[:1]),
      start,
      lambda numbers: batches(known, numbers, seed),
      options.epochs,
      options.iterations,
      callback,
    )

  return base.completion(
    fit,
    name=f'completion.texts.{name}',
    needs=('party', 'pool', 'labelled'),
    check=check,
  )


@functools.lru_cache(maxsize=16)  # seeds share what is compiled
def _learner(party, num_classes, options, headless):
  """MixText of a bottom, with or without a head; steps take its batches."""
  head = mlp.inference_head(num_classes=num_classes)

  def apply(own, rest, x, key, mix):
    bottom, top = learners.apart(own, rest)
    if headless:
      logits, bottom = party.apply(bottom, x, train=True, key=key, mix=mix)
    else:
      logits, bottom, top = learners.forward(
        party, head, bottom, top, x, key, mix=mix
      )
    return logits, *learners.together(bottom, top)

  core = _core(options, apply)

  def init(key, variables, x):
    head_key, key = jax.random.split(key)
    top = {}
    if not headless:
      top = learners.start(party, head, head_key, variables, x)
    return core.init(key, *learners.together(variables, top))

  def predict(state, variables, x):
    del variables
    bottom, top = learners.apart(state.own, state.rest)
    if headless:
      return party.apply(bottom, x, train=False, key=None)[0]
    return learners.infer(party, head, bottom, top, x)

  return learners.Learner(base.jit_once(init), core.step, jax.jit(predict))


def _core(options, apply):
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
  """`Options` of valid values."""
  for name in given:
    if name not in Options._fields:
      raise InputError(
        f'texts takes no {name!r}; it takes: {", ".join(Options._fields)}.'
      )
  found = Options(**given)
  found = found._replace(mix_layers=tuple(found.mix_layers))
  positive = 'encoder_lr', 'head_lr', 'batch_size', 'unlabelled'
  for name in (*positive, 'epochs', 'iterations'):
    if not getattr(found, name) > 0:
      raise InputError(f'{name}={getattr(found, name)} must be positive.')
  _core(found, None)
  return found
