"""Completions of a bottom: stolen, stolen from a faster training, or random."""

from labelleak.attacks.completion import learners, malicious, training
from labelleak.base import Completion


def passive(**options) -> Completion:
  """Builds the completion of the view's bottom.

  Args:
    **options: fields of `learners.Options`.

  Raises:
    InputError: an unknown or wrong option. (check) There are fewer labels or
      rows than a batch has, or rows cannot be mixed.
  """
  return _complete('passive', learners.options(**options), training.steal)


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
    reading, gamma, r_min, r_max: see `malicious.accelerate`; the party's own
      optimizer says whether that is of SGD or of Adam.
    **options: fields of `learners.Options`.

  Raises:
    InputError: see `passive` and `malicious.accelerate`.
  """
  optimizer = malicious.substitution(
    reading=reading, gamma=gamma, r_min=r_min, r_max=r_max
  )
  return passive(**options)._replace(optimizer=optimizer)


def semi_supervised(**options) -> Completion:
  """Builds the same learning with a bottom drawn at random, all of it trained.

  With tune='head' the random bottom stays as it is: what the released code
  would do, though no script of this baseline was released.

  Args:
    **options: fields of `learners.Options`.

  Raises:
    InputError: see `passive`.
  """
  options = learners.options(**dict(tune='all') | options)
  return _complete('semi_supervised', options, training.draw_anew)


def _complete(name, options, start):
  return training.complete(
    name,
    lambda party, k: learners.semi_supervised(party, k, options),
    start,
    sizes=(options.batch_size,) * 2,
    epochs=options.epochs,
    iterations=options.iterations,
  )
