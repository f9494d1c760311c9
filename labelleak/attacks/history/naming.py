"""Rules that name rows, and a choice of one by the evidence.

A marginal likelihood trusts its model: of heavy tails, or of softmaxes that
were learned unevenly, it may prefer a rule that names few rows right. So rules
are judged by what nothing assumes: while softmaxes say little, the expected
evidence of a row is largest at its label, so that the mean evidence of the
named classes grows with the share that is named right. A rule that saw the
evidence of its row is judged by another copy of it: where z is drawn as the
noise n is, n + z foretells nothing of n - z, whatever the law (after the data
fission of Leiner et al., 2023).
"""

from typing import NamedTuple

import chex
import jax
import numpy as np
from scipy import special

from labelleak.attacks.history import process, trace

_PRIOR = 10.0  # precision of a class mean before any row
_SHARPNESS = np.geomspace(0.1, 100.0, 31)
# Of variance, that are noise: more than 1 where the process took some for its
# own. Without that its word is called unsure instead (seeds 100 to 102).
_SHARES = (1.4, 1.0, 0.7, 0.4, 0.2, 0.05, 0.01)
_ROWS = 4000  # that choose a rule's numbers
_DEVIATIONS = 3.0  # by which a rule must beat the likeliest


class Fit(NamedTuple):
  """A process and the evidence that it explains.

  Attributes:
    gains: [T] of the steps.
    evidence: [N, K] of them all.
    precision: [N] of it.
    posterior: of the process.
  """

  gains: np.ndarray
  evidence: np.ndarray
  precision: np.ndarray
  posterior: process.Posterior


class _Rule(NamedTuple):
  """Names a row by others' word and its evidence, a noisy copy of a mean."""

  prior: np.ndarray  # [N, K] log probabilities
  means: np.ndarray  # [K, K] of classes
  weight: np.ndarray  # [N] of the row's own evidence

  def score(self, evidence):
    """Returns log joint densities [N, K]."""
    norm = np.square(self.means).sum(1)
    fit = evidence @ self.means.T - 0.5 * norm
    return self.prior + self.weight[:, None] * fit


def name_rows(
  key: chex.PRNGKey, memory: trace.Trace, fits: list[Fit], first: np.ndarray
) -> np.ndarray:
  """Returns log probabilities of labels [N, K] by the rule of most evidence.

  Args:
    key: of the noise that is added to judge.
    memory: the trace.
    fits: the first is of first steps alone; the last is preferred unless
      another is better without a doubt.
    first: [T] whether the step came while softmaxes said little.
  """
  early, precision = trace.combine(memory, first)
  is_early = precision > 0
  rules = [(rule, fit) for fit in reversed(fits) for rule in _rules(fit)]
  likeliest, *_ = _rules(fits[0])
  noise = _copy_noise(key, early, is_early, likeliest)
  values = [
    _judge(rule, fit, _shift(memory, fit.gains, first, noise), early, noise)
    for rule, fit in rules
  ]
  weight = _row_gains(memory, fits[-1].gains, first)
  rule, fit = rules[_best((np.array(values) * weight)[:, is_early])]
  return special.log_softmax(rule.score(fit.evidence), axis=1)


def _best(values):
  """Returns the rule of the best values [R, n], the first unless it is sure."""
  gain = values - values[:1]
  mean = gain.mean(1)
  deviation = gain.std(1) / np.sqrt(gain.shape[1])
  return int(np.argmax(np.where(mean > _DEVIATIONS * deviation, mean, 0.0)))


def _judge(rule, fit, shift, early, noise):
  """Returns the evidence of the classes that a rule names, a row, [N]."""
  total = np.zeros(len(early))
  for sign in (1, -1):
    named = rule.score(fit.evidence + sign * shift).argmax(1)[:, None]
    total += np.take_along_axis(early - sign * noise, named, 1)[:, 0]
  return total / 2


def _row_gains(memory, gains, first):
  """Returns how much of the process first steps show of a row [N], or 0."""
  _, shown = trace.combine(memory, gains * first)
  _, count = trace.combine(memory, first)
  return np.sqrt(shown / np.maximum(count, 1.0))


def _shift(memory, gains, first, noise):
  """Returns what noise [N, K] at first steps adds to all evidence, [N, K]."""
  steps = tuple(
    step._replace(evidence=is_first * noise[step.index])
    for is_first, step in zip(first, memory.steps)
  )
  return trace.combine(memory._replace(steps=steps), gains)[0]


def _copy_noise(key, early, is_early, rule):
  """Returns noise [N, K] like that of the first evidence, of other rows.

  It is what is left of a row's evidence where its class is drawn by a rule.
  """
  class_key, place_key, sign_key = jax.random.split(key, 3)
  classes = jax.random.categorical(class_key, rule.score(early))
  rows = np.flatnonzero(is_early)
  others = np.asarray(jax.random.permutation(place_key, rows))
  sign = np.asarray(jax.random.rademacher(sign_key, (len(rows), 1), float))
  noise = np.zeros_like(early)
  noise[rows] = sign * (early - rule.means[np.asarray(classes)])[others]
  return noise


def _rules(fit):
  """Returns the likeliest rule, others' word alone, own evidence alone."""
  likeliest = _likeliest(fit)
  alone = likeliest._replace(
    prior=np.zeros_like(likeliest.prior), means=np.eye(len(likeliest.means))
  )
  return (
    likeliest,
    likeliest._replace(weight=np.zeros(len(fit.precision))),
    alone,
  )


def _likeliest(fit):
  return _maximise(fit, fit.precision / fit.posterior.noise)


def _maximise(fit, weight):
  """Returns the rule that makes the evidence likeliest, in some of the rows.

  A row's own evidence is that of Y - 1 / K, or, where softmaxes were learned,
  of the mean of its class; all other rows say a softmax of the process. What
  the process calls noise is that and what it cannot tell of labels.
  """
  rows = np.flatnonzero(weight)
  rows = rows[:: -(-len(rows) // _ROWS)]
  other, evidence = fit.posterior.left_out, fit.evidence[rows]
  square = np.square(evidence).sum(1)
  best = -np.inf, None, None, None
  for sharpness in _SHARPNESS:
    prior = special.log_softmax(sharpness * other[rows], axis=1)
    for means in _class_means(fit, weight):
      for share in _SHARES:
        own = weight[rows] / share
        joint = _Rule(prior, means, own).score(evidence)
        value = special.logsumexp(joint, axis=1) - 0.5 * own * square
        value = (value + 0.5 * (len(means) - 1) * np.log(own)).sum()
        if value > best[0]:
          best = value, sharpness, means, share
  _, sharpness, means, share = best
  prior = special.log_softmax(sharpness * other, axis=1)
  return _Rule(prior, means, weight / share)


def _class_means(fit, weight):
  """Returns what a row's evidence may be a noisy copy of, each [K, K].

  The second is the mean of the rows that all others call by a class, drawn to
  the first where they say little.
  """
  size = fit.evidence.shape[1]
  means = np.eye(size) - 1 / size
  classes = np.eye(size)[fit.posterior.left_out.argmax(1)]
  total = (classes * weight[:, None]).T @ fit.evidence + _PRIOR * means
  count = (classes * weight[:, None]).sum(0)[:, None] + _PRIOR
  return means, total / count
