"""A Gaussian process on the own features that explains a trace's evidence.

The evidence of row i is f(x_i) + noise of variance s^2 / precision_i, with
f ~ GP(0, a k), classes alike. All rows that were seen count as equally precise
when k, a and s are chosen, by marginal likelihood in closed form in the
spectrum of k (Rasmussen and Williams, "Gaussian Processes for Machine
Learning", eq. 5.8).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from labelleak.attacks.history import diffusion

_STEPS = (1, 2, 4, 8, 16, 32, 64)  # of the walk
_RATIOS = np.geomspace(1e-4, 1e6, 81)  # of noise to the process


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
  large = values > 1e-6 * values.max()
  scales = jnp.sqrt(jnp.asarray(values[large], jnp.float32))[None]
  features = kernel.vectors[:, large] * scales
  weight = jnp.asarray(precision / noise, jnp.float32)[:, None]
  gram = np.asarray(features.T @ (weight * features), np.float64)
  inverse = jnp.asarray(np.linalg.inv(np.eye(len(gram)) + gram), jnp.float32)
  targets = jnp.asarray(evidence, jnp.float32)
  mean = features @ (inverse @ (features.T @ (weight * targets)))
  leverage = (features @ inverse * features).sum(-1, keepdims=True) * weight
  leverage = jnp.minimum(leverage, 0.999)
  left_out = mean - leverage / (1 - leverage) * (targets - mean)
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
