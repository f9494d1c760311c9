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

from typing import Optional

from labelleak.attacks.completion import malicious, text_learners, training
from labelleak.base import Completion, InputError
from labelleak.models import weights


def passive(**options) -> Completion:
  """Builds the completion of the view's bottom, an inference head on it.

  Args:
    **options: fields of `text_learners.Options`.

  Raises:
    InputError: an unknown or wrong option. (check) There are fewer labels or
      rows than a batch has, or the bottom mixes no hidden states.
  """
  return _complete('passive', text_learners.options(**options), training.steal)


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
    bottom, key = training.draw_anew(key, view, known)
    if path:
      bottom = weights.load(path, bottom, head='fresh')
    return bottom, key

  options = text_learners.options(**options)
  return _complete('semi_supervised', options, start, headless=True)


def _complete(name, options, start, headless=False):
  """Builds a completion by MixText, with an inference head or without."""
  completion = training.complete(
    f'texts.{name}',
    lambda party, k: text_learners.learner(party, k, options, headless),
    start,
    sizes=(options.batch_size, options.unlabelled),
    epochs=options.epochs,
    iterations=options.iterations,
  )

  def check(known):
    try:
      completion.check(known)
    except TypeError as e:  # an argument that the bottom does not take
      raise InputError(
        f'the bottom mixes no hidden states ({e}); use bert.bert, or'
        ' completion.passive where examples themselves can be mixed.'
      ) from e

  return completion._replace(check=check)
