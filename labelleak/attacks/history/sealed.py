"""A Gaussian process on the own features that explains sealed steps.

A step's equations see sums over rows, those of alike rows most of all, so that
what they make of its noise is alike in rows alike. Each direction of a step is
therefore one observation: g sum_i <v_i, Y_i - 1 / K>, through noise of the
step's variance, with Y - 1 / K = f(x) + e, f ~ GP(0, a k), classes alike, and e
of each row alone. The reach of k, a, and what all variances are too large or
too small by, are chosen by marginal likelihood, for f in the leading
eigenvectors of k (Rasmussen and Williams, "Gaussian Processes for Machine
Learning", ch. 5 and 8.3).
"""

from typing import NamedTuple

import numpy as np

from labelleak.attacks.history import diffusion

_SOUGHT = 1500  # numbers: eigenvectors times K - 1
_REACHES = (4, 8, 16, 32, 64, 128)  # of the kernel, in steps of the walk
_RATIOS = np.geomspace(1e-4, 1e4, 81)  # of a to the scale of variances
_SMALL = 1e-6  # scale, of what it is without a process
_LEAST = 0.02  # share of a step's variance that is no label
MOST = 39  # classes: more would have fewer eigenvectors than classes


class Step(NamedTuple):
  """What one sealed step says of its rows.

  Attributes:
    index: [n] rows of the data set.
    vectors: [n, K, r] directions.
    observed: [r] Y - S along them, and noise.
    variance: of both along a direction.
    gain: [n] how much of Y - 1 / K it shows of a row.
  """

  index: np.ndarray
  vectors: np.ndarray
  observed: np.ndarray
  variance: float
  gain: np.ndarray


class Process(NamedTuple):
  """The likeliest process.

  Attributes:
    mean: [N, K] of f.
    scale: of the variances of steps, the likeliest.
    evidence: log marginal likelihood at that scale, but for a constant.
    reach: of the kernel.
  """

  mean: np.ndarray
  scale: float
  evidence: float
  reach: int


def fit(
  kernel: diffusion.Spectrum, steps: tuple[Step, ...], num_classes: int
) -> Process:
  """Fits the process to steps, at least one, of rows of the kernel."""
  width = num_classes - 1
  contrasts = np.linalg.svd(np.eye(num_classes) - 1 / num_classes)[0][:, :width]
  order = np.argsort(-kernel.values)[: max(_SOUGHT // width, 1)]
  values = np.asarray(kernel.values)[order]
  features = np.asarray(kernel.vectors, np.float32)[:, order]
  gram, rhs, power, count = 0.0, 0.0, 0.0, 0
  for step in steps:
    seen, observed = _project(step, features, contrasts)
    gram, rhs = gram + seen.T @ seen, rhs + observed @ seen
    power, count = power + float(observed @ observed), count + len(observed)
  best = -np.inf, None
  for reach in _REACHES:
    spread = diffusion.matern(values, reach)
    spread *= len(features) / spread.sum()
    root = np.repeat(np.sqrt(spread), width)
    evidence, *rest = _maximise(
      root[:, None] * gram * root, root * rhs, power, count
    )
    if evidence > best[0]:
      best = evidence, (reach, root, *rest)
  evidence, (reach, root, scale, weights) = best
  weights = (root * weights).reshape(-1, width)
  return Process(features @ weights @ contrasts.T, scale, evidence, reach)


def _project(step, features, contrasts):
  """Returns a step's directions in eigenvectors and contrasts [r, R (K - 1)].

  And what was observed [r]; both are of noise of variance 1.
  """
  unit = step.variance**0.5
  rows = step.gain[:, None] * features[step.index]
  by_class = np.einsum('nkr,kc->crn', step.vectors, contrasts, optimize=True)
  seen = np.stack([each @ rows for each in np.float32(by_class)], -1)
  seen = seen.reshape(len(step.observed), -1).astype(np.float64)
  return seen / unit, step.observed.astype(np.float64) / unit


def _maximise(gram, rhs, power, count):
  """Returns the log evidence, the scale of variances, the posterior mean."""
  values, vectors = np.linalg.eigh(gram)
  values, along = np.maximum(values, 0.0), rhs @ vectors
  best = -np.inf, 0.0, None
  for ratio in _RATIOS:
    shrunk = ratio * along / (1 + ratio * values)
    scale = max(power - along @ shrunk, _SMALL * power) / count
    logs = np.log1p(ratio * values).sum()
    evidence = -0.5 * (count * np.log(scale) + logs)
    if evidence > best[0]:
      best = evidence, scale, shrunk
  evidence, scale, shrunk = best
  return evidence, scale, vectors @ shrunk


def foretell(process: Process, step: Step) -> tuple[float, float, float]:
  """Returns what a step shows of a process, its power there, and the noise.

  The first by the second is the gain of a step that the process has not seen.
  """
  seen = _look(process, step)
  return float(seen @ step.observed), float(seen @ seen), step.variance


def restate_variance(process: Process, step: Step) -> Step:
  """Returns a step of the variance that a process leaves, fitted to others."""
  error = step.observed - _look(process, step)
  left = max(np.square(error).mean(), _SMALL * step.variance)
  return step._replace(variance=float(left))


def _look(process, step):
  """Returns what a process makes a step show along its directions [r]."""
  rows = step.gain[:, None] * process.mean[step.index]
  return np.einsum('nkr,nk->r', step.vectors, rows, optimize=True).astype(float)


def explain_rows(process: Process, steps: tuple[Step, ...]) -> np.ndarray:
  """Returns the posterior mean of e [N, K], given f.

  Its variance is what f leaves of that of Y. Rows of a step are taken for
  independent, given f, as are the steps of a row.
  """
  size, classes = process.mean.shape
  explained = np.square(process.mean).sum() / size / (classes - 1)
  left = max(1 / classes - explained, 0.0)
  total, precision = np.zeros((size, classes)), np.zeros((size, 1))
  for step in steps:
    variance = process.scale * step.variance
    gain = step.gain[:, None].astype(np.float64)
    noise = np.maximum(variance - gain**2 * left, _LEAST * variance)
    error = step.observed - _look(process, step)
    rows = step.vectors @ error
    rows -= rows.mean(1, keepdims=True)
    np.add.at(total, step.index, gain / noise * rows)
    np.add.at(precision, step.index, gain**2 / noise)
  return left * total / (1 + left * precision)
