"""What a run makes of answers: none is scored that breaks its contract."""

from collections.abc import Sequence
from typing import Optional

import chex
import jax.numpy as jnp
import numpy as np

from labelleak import base, hfl, spec, vfl
from labelleak.base import InputError
from labelleak.experiments.grants import Attacker


def infer(
  attacker: Attacker,
  key: chex.PRNGKey,
  memory: base.Memory,
  known: hfl.Known | vfl.Known,
) -> base.Answer:
  """Returns the answer of an attack, of the form that is asked for.

  Raises:
    InputError: an answer of another shape.
  """
  answer = attacker.attack.infer(key, memory, known)
  known.check_answer(attacker.spec['name'], answer)
  return answer


def check(
  attackers: Sequence[Attacker], finite: np.ndarray, sound: Sequence[np.ndarray]
) -> None:
  """Refuses what was seen or said in some trial.

  Args:
    attackers: of the config.
    finite: [T] whether the views of a trial were.
    sound: of each attack, [T] whether its answer was what it must be.

  Raises:
    InputError: views that are not finite, an answer that is not sound.
  """
  if not finite.all():
    bad = np.flatnonzero(~finite)
    raise InputError(
      f'the view of {len(bad)} of {len(finite)} trials is not finite, first of'
      f' trial {bad[0]}; lower the learning rate.'
    )
  for attacker, flags in zip(attackers, sound):
    if not flags.all():
      bad = np.flatnonzero(~flags)
      raise InputError(
        f'{spec.describe(attacker.spec)} answered {len(bad)} of {len(flags)}'
        f' trials with numbers that are no answer, first trial {bad[0]}: counts'
        ' must be finite, at least 0 and sum to the examples, scores of a row'
        ' finite or all NaN; correct the attack.'
      )


def is_sound(
  answer: base.Answer, num_examples: Optional[int] = None
) -> chex.Array:
  """Returns whether an answer is one in its values as well, [] bool.

  Args:
    answer: of an attack.
    num_examples: that counts sum to.
  """
  if isinstance(answer, base.Reconstruction):
    return jnp.isfinite(answer.x).all()
  if answer.ndim == 1:
    total = jnp.abs(answer.sum() - num_examples) < 0.5
    return total & (answer >= 0).all()  # a NaN is not
  # A row of NaN names nothing, and is a miss.
  missing = jnp.isnan(answer)
  return (missing.all(-1) | ~missing.any(-1)).all()
