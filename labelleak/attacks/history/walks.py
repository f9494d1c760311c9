"""A gain that walks over the steps of a training, from noisy looks at it.

Step t looks at g_t once: shown_t = g_t power_t + noise of variance noise_t
power_t. g walks at random in the logarithm of t, as a training changes fast
where it begins: g_0 ~ N(1, 1), g_t ~ N(g_{t-1}, q / t). A step that nothing
explains, power_t = 0, says nothing, and the gain stays what it was.
"""

import numpy as np

_RATES = np.geomspace(1e-4, 10.0, 16)  # q


def smooth(
  shown: np.ndarray, power: np.ndarray, noise: np.ndarray
) -> np.ndarray:
  """Returns the posterior mean of g [T] under the likeliest rate q."""
  precision = power / np.maximum(noise, 1e-12)
  look = shown / np.maximum(noise, 1e-12)
  walks = [_filter(look, precision, rate) for rate in _RATES]
  _, ahead, after = max(walks, key=lambda walk: walk[0])
  return _look_back(ahead, after)


def _filter(look, precision, rate):
  """Returns the log likelihood of q and [T, 2] means and variances.

  Kalman's filter, in the form that divides by no precision: those ahead of a
  step's look, and those after it.
  """
  mean, variance, likelihood = 1.0, 1.0, 0.0
  ahead, after = [], []
  for t in range(len(look)):
    variance += rate / t if t else 0.0
    ahead.append((mean, variance))
    spread = 1 + variance * precision[t]
    error = look[t] - precision[t] * mean
    if precision[t] > 0:
      likelihood -= np.log(spread) / 2 + error**2 / (2 * precision[t] * spread)
    mean, variance = mean + variance * error / spread, variance / spread
    after.append((mean, variance))
  return likelihood, np.array(ahead), np.array(after)


def _look_back(ahead, after):
  """Returns means [T] given all looks (Rauch, Tung and Striebel, 1965)."""
  means = after[:, 0].copy()
  for t in range(len(means) - 2, -1, -1):
    share = after[t, 1] / ahead[t + 1, 1]
    means[t] += share * (means[t + 1] - ahead[t + 1, 0])
  return means
