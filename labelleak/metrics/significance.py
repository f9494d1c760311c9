"""Judging: defense capability scores, leaks below chance, paired differences.

The score is that of VFLAIR (Zou et al., ICLR 2024): how near a defense comes to
the ideal corner, an attack that learns nothing (AP*) and a main task that loses
nothing (MP*). Numbers here are means over runs, in [0, 1]; arrays broadcast.

An attack's AP is its accuracy. VFLAIR's own records fold one of them, the norm
score between two classes, to max(acc, 1 - acc) for each seed: the truth says
which side is which. That is `permuted_label_accuracy` with K = 2, a leak to
report beside the accuracy and not used for scores here.
"""

from collections.abc import Sequence

import chex
import numpy as np
from scipy import stats

from labelleak import validate
from labelleak.base import InputError

_SIGMAS = 3.0
_MATERIAL = 2 / 3


def dcs(
  attack: chex.Numeric,
  main: chex.Numeric,
  main_undefended: chex.Numeric,
  *,
  beta: float = 0.5,
  attack_ideal: float = 0.0,
) -> chex.Numeric:
  """Scores a defense's capability against one attack, in (0, 1].

    DCS = 1 / (1 + D),  D^2 = (1 - beta) (AP - AP*)^2 + beta (MP - MP*)^2.

  As published, a main task that gained counts like one that lost.

  >>> round(float(dcs(1.0, 0.97, 0.97)), 4)  # all is lost, at no price
  0.5858

  Args:
    attack: AP, performance of the attack; what is negative counts as 0.
    main: MP, accuracy of the model trained under the defense.
    main_undefended: MP*, the same without a defense.
    beta: weight of the main task.
    attack_ideal: AP*.

  Raises:
    InputError: beta is outside [0, 1].
  """
  validate.within('beta', beta, '[0, 1]', 'it is the weight of the main task')
  lost = np.square(np.subtract(main, main_undefended))
  leaked = np.square(np.maximum(attack, 0) - attack_ideal)
  return 1 / (1 + np.sqrt((1 - beta) * leaked + beta * lost))


def t_dcs(scores: Sequence[float]) -> float:
  """Averages DCS over attacks of one type, such as label inference: T-DCS.

  Raises:
    InputError: there is no attack.
  """
  if not len(scores):
    raise InputError('t_dcs of no attack; pass the DCS of one at least.')
  return float(np.mean(scores))


def below_chance(
  accuracy: float, stderr: float, num_classes: int, *, rows: int
) -> bool:
  """Judges whether labels are missed too often for a guess: that leaks them.

  Who never names the true one of K classes tells it apart from the others: a
  read-out that is turned around recovers it. True where the accuracy lies
  three standard errors under 1/K and guesses of `rows` labels are as rarely
  right, one time in 740 (binomial). It must be under 2/3 of 1/K, too: classes
  are seldom equally frequent, and who names the rarest one always, without
  reading anything, is somewhat below 1/K.

  >>> below_chance(0.0, 0.0, 10, rows=1024), below_chance(0.09, 0.0, 10, rows=9)
  (True, False)

  Args:
    accuracy: mean over trials of the share of labels that were named.
    stderr: its standard error over trials.
    num_classes: K.
    rows: labels behind the mean that differ: those of one batch where all
      trials attack the same one.
  """
  chance = 1 / num_classes
  hits = np.floor(accuracy * rows)
  rare = stats.binom.cdf(hits, rows, chance) < stats.norm.cdf(-_SIGMAS)
  clear = accuracy < chance - _SIGMAS * stderr
  return bool(rare and clear and accuracy < _MATERIAL * chance)


def gain(differences: Sequence[float], level: float = 0.95) -> dict:
  """Tests whether paired differences have a mean other than 0, by Student's t.

  >>> gain([0.1, -0.3, 0.2])['verdict']
  'not told from 0'

  Args:
    differences: one for each seed, of what is the same but for one thing.
    level: of the confidence interval.

  Returns:
    mean, low, high, seeds, and `verdict`: 'gain', 'loss' or 'not told from 0';
    one seed tells nothing.
  """
  values = np.asarray(differences, np.float64)
  mean, num = values.mean(), len(values)
  half = np.inf
  if num > 1:
    error = values.std(ddof=1) / np.sqrt(num)
    half = stats.t.ppf((1 + level) / 2, num - 1) * error
  low, high = mean - half, mean + half
  verdict = 'gain' if low > 0 else 'loss' if high < 0 else 'not told from 0'
  rounded = {
    name: round(float(value), 4) if np.isfinite(value) else None
    for name, value in dict(mean=mean, low=low, high=high).items()
  }
  return dict(rounded, seeds=num, verdict=verdict)
