"""A Gaussian process on the own features that explains a trace's evidence.

The evidence of row i is f(x_i) + noise of variance s^2 / precision_i, with
f ~ GP(0, a k), classes alike. All rows that were seen count as equally precise
when k, a and s are chosen, by marginal likelihood in closed form in the
spectrum of k (Rasmussen and Williams, "Gaussian Processes for Machine
Learning", eq. 5.8). A step's gain is how much of f its evidence shows: steps
and f are fitted in turn.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import special

from labelleak import validate
from labelleak.attacks.history import diffusion, trace
from labelleak.base import Attack, InputError, attack

_NAME = 'history.gaussian_process'
_STEPS = (1, 2, 4, 8, 16, 32, 64)  # of the walk
_RATIOS = np.geomspace(1e-4, 1e6, 81)  # of noise to the process
_PRIOR = 10.0  # precision of a class mean before any row
_LEAST = 1e-3  # gain of a step
_SHARPNESS = np.geomspace(0.1, 100.0, 31)


class Posterior(NamedTuple):
  """What the evidence says of f.

  Attributes:
    mean: [N, K].
    left_out: [N, K] of a row, given all other rows.
    noise: variance s^2 of evidence of precision 1.
    evidence: log marginal likelihood.
    steps: of the walk that was chosen.
  """

  mean: np.ndarray
  left_out: np.ndarray
  noise: float
  evidence: float
  steps: int


def gaussian_process(
  *, anchors: int = 1500, neighbours: int = 10, rounds: int = 3
) -> Attack:
  """Builds the attack that smooths a training's evidence over its own features.

  Scores are log probabilities of the labels of all rows of the pool, [N, K];
  rows that were in no step are named by the others. Runs on the host.

  Args:
    anchors: of the kernel; memory is N of them, time N of them squared.
    neighbours: of a row among them.
    rounds: of fitting gains and process in turn.

  Raises:
    InputError: an argument that is no positive whole number. (observe) See
      `trace.observe`. (infer) No step was observed.
  """
  sizes = dict(anchors=anchors, neighbours=neighbours, rounds=rounds)
  for field, value in sizes.items():
    validate.whole(f'gaussian_process: {field}', value, 1)

  def infer(key, memory, known):
    if not memory.steps:
      raise InputError(
        f'{_NAME} has observed no step; call observe(memory, view) each step.'
      )
    x = np.asarray(known.pool.take(np.arange(known.pool.size)))
    kernel = diffusion.spectrum(
      key, x.reshape(len(x), -1), anchors=anchors, neighbours=neighbours
    )
    gains = _first_gains(memory)
    first, seen = trace.combine(memory, gains == 1.0)
    fits = []
    for _ in range(rounds):
      evidence, precision = trace.combine(memory, gains)
      posterior = explain(kernel, evidence, precision)
      fits.append(
        (_foretell(posterior, first, seen), posterior, evidence, precision)
      )
      gains = _fit_gains(memory, posterior)
    _, posterior, evidence, precision = max(fits, key=lambda fit: fit[0])
    scores = _score_labels(posterior, evidence, precision)
    return jnp.asarray(scores, jnp.float32)

  return attack(
    infer,
    name=_NAME,
    kind='vertical',
    needs=('pool',),
    observe=trace.observe,
    init=trace.Trace,
  )


def explain(
  kernel: diffusion.Spectrum, evidence: np.ndarray, precision: np.ndarray
) -> Posterior:
  """Returns the posterior under the likeliest kernel, amplitude and noise.

  Args:
    kernel: of N rows.
    evidence: [N, K], centred.
    precision: [N], 0 where there is no evidence; some is positive.
  """
  unit = precision[precision > 0].mean()
  choice = _choose(kernel, evidence * (precision > 0)[:, None])
  noise = choice.noise * unit
  values = choice.amplitude * _powers(kernel, choice.steps)
  kept = values > 1e-6 * values.max()
  scales = jnp.sqrt(jnp.asarray(values[kept], jnp.float32))[None]
  features = kernel.vectors[:, kept] * scales
  weight = jnp.asarray(precision / noise, jnp.float32)[:, None]
  gram = np.asarray(features.T @ (weight * features), np.float64)
  inverse = jnp.asarray(np.linalg.inv(np.eye(len(gram)) + gram), jnp.float32)
  seen = jnp.asarray(evidence, jnp.float32)
  mean = features @ (inverse @ (features.T @ (weight * seen)))
  leverage = (features @ inverse * features).sum(-1, keepdims=True) * weight
  leverage = jnp.minimum(leverage, 0.999)
  left_out = mean - leverage / (1 - leverage) * (seen - mean)
  return Posterior(
    np.asarray(mean), np.asarray(left_out), noise, choice.evidence, choice.steps
  )


class _Choice(NamedTuple):
  """The likeliest kernel where all rows are equally precise."""

  evidence: float
  steps: int
  amplitude: float
  noise: float


def _powers(kernel, steps):
  """Returns eigenvalues of a walk, of mean variance 1 over the rows."""
  values = kernel.values**steps
  return values / values.sum() * len(kernel.vectors)


def _choose(kernel, evidence):
  """Maximises the marginal likelihood; the amplitude is in closed form."""
  projected = kernel.vectors.T @ jnp.asarray(evidence, jnp.float32)
  power = np.square(np.asarray(projected, np.float64)).sum(1)
  rows, width = evidence.shape
  outside = max(np.square(evidence).sum() - power.sum(), 0.0)
  choices = []
  for steps in _STEPS:
    values = _powers(kernel, steps)
    for ratio in _RATIOS:
      spread = values + ratio
      scale = outside / ratio + (power / spread).sum()
      scale = max(scale / (rows * width), 1e-30)
      logs = np.log(spread).sum() + (rows - len(values)) * np.log(ratio)
      likelihood = -0.5 * width * (rows * np.log(scale) + logs)
      choices.append(_Choice(likelihood, steps, scale, ratio * scale))
  return max(choices)


def _first_gains(memory):
  """Returns gains [T] of 1 while rows are new, when softmaxes say little."""
  known, gains = np.zeros(memory.known.pool.size, bool), []
  for index, _ in memory.steps:
    gains.append(1.0 if not known[index].all() else _LEAST)
    known[index] = True
  return np.array(gains)


def _foretell(posterior, first, seen):
  """Returns how well all other rows foretell a row's first evidence [].

  That is of Y - S with S hardly learned, so that no gains can flatter it.
  """
  mean = posterior.left_out * (seen > 0)[:, None]
  return (mean * first).sum() / max(np.sqrt(np.square(mean).sum()), 1e-12)


def _fit_gains(memory, posterior):
  """Returns how much of the process each step shows [T], 1 at the first.

  Steps are pooled with their neighbours, as one says little.
  """
  shown, power = [], []
  for index, evidence in memory.steps:
    mean = posterior.left_out[index]
    shown.append((mean * evidence).sum())
    power.append(np.square(mean).sum())
  window = np.ones(2 * max(len(shown) // 20, 1) + 1)
  pool = lambda a: np.convolve(a, window, 'full')[len(window) // 2 :][: len(a)]
  gains = np.maximum(pool(shown) / np.maximum(pool(power), 1e-12), 0.0)
  first = gains[0] if gains[0] > 0 else 1.0
  return np.maximum(gains / first, _LEAST)


def _score_labels(posterior, evidence, precision):
  """Returns log probabilities of labels [N, K].

  A row's own evidence is that of Y - 1 / K, or, where softmaxes were learned,
  of the mean of its class; all other rows say a softmax of the process. Both
  the means and how sharp it is are what makes the evidence likeliest.
  """
  weight = precision / posterior.noise
  priors = [
    special.log_softmax(sharpness * posterior.left_out, axis=1)
    for sharpness in _SHARPNESS
  ]
  best = -np.inf, None
  for means in _class_means(posterior, evidence, weight):
    square = np.square(evidence[:, None] - means[None]).sum(-1)
    fit = -0.5 * square * weight[:, None]
    for prior in priors:
      rows = special.logsumexp(prior + fit, axis=1, keepdims=True)
      if rows.sum() > best[0]:
        best = rows.sum(), prior + fit - rows
  return best[1]


def _class_means(posterior, evidence, weight):
  """Returns what a row's evidence may be a noisy copy of, each [K, K].

  The second is the mean of the rows that all others call by a class, drawn to
  the first where they say little.
  """
  size = evidence.shape[1]
  means = np.eye(size) - 1 / size
  classes = np.eye(size)[posterior.left_out.argmax(1)]
  total = (classes * weight[:, None]).T @ evidence + _PRIOR * means
  count = (classes * weight[:, None]).sum(0)[:, None] + _PRIOR
  return means, total / count
