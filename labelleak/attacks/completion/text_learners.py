"""A BERT bottom, with an inference head or without, that MixText trains."""

import functools
from typing import NamedTuple

from labelleak import base
from labelleak.attacks.completion import learners, mixtext
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


@functools.lru_cache(maxsize=16)  # seeds share what is compiled
def learner(
  party: base.Party, num_classes: int, options: Options, headless: bool
) -> learners.Learner:
  """Builds MixText of a bottom; steps take a `mixmatch.Batch` of tokens."""
  head = None if headless else mlp.inference_head(num_classes=num_classes)
  return learners.build(party, head, functools.partial(_mixtext, options))


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
  positive = 'encoder_lr', 'head_lr', 'batch_size', 'unlabelled'
  values = learners.fill(Options, given, positive)
  values = values._replace(mix_layers=tuple(values.mix_layers))
  _mixtext(values, None)
  return values
