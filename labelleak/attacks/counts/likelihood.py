"""The likelihood of a class's entry in the update, for every count of it.

One example of class i, in a local step of b_s examples, adds w = 1/b_s times
(p - [i = label]) to the head's bias update. All but the last step weigh the
same, so a class with k examples, r of them in the odd group, shows

  beta_i ~ Normal(c * (offset_i - keep_i * ((k - r) w_1 + r w_2)), noise_i^2)

with r hypergeometric.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from labelleak import hfl

_NODES = 25  # terms of the sum over r
_REACH = 3.0  # sd either side that they cover, some r left out if need be


class Weights(NamedTuple):
  """Weights of k examples of one class, N = C * B; host constants."""

  total: np.ndarray  # [N + 1, R] summed weight (k - r) w_1 + r w_2
  log_prob: np.ndarray  # [N + 1, R] of r given k; -inf where impossible


def weights(batch_size: int, steps: int, clients: int = 1) -> Weights:
  """Tabulates the weights of k examples drawn from N without replacement.

  Steps of `hfl.step_sizes` form at most two groups: the full slices and the
  ragged last one; or, for B < S, examples visited once more than the others.
  """
  sizes = hfl.step_sizes(batch_size, steps)
  if batch_size < steps:
    few, extra = divmod(steps, batch_size)
    groups = (batch_size - extra, float(few)), (extra, few + 1.0)
  else:
    odd = sizes[-1]
    groups = (batch_size - odd, 1.0 / sizes[0]), (odd, 1.0 / odd)
  return weights_of_groups(groups, clients)


def weights_of_groups(
  groups: Sequence[tuple[int, float]], clients: int
) -> Weights:
  """Tabulates the weights of k examples drawn from two groups.

  Args:
    groups: of one client, how many examples weigh how much.
    clients: C, whose mean is revealed.
  """
  (num, w1), (num_odd, w2) = groups
  num, num_odd = num * clients, num_odd * clients
  k = np.arange(num + num_odd + 1)[:, None]
  if w1 == w2 or num == 0:
    return Weights(k * w2 / clients, np.zeros(k.shape))
  share = num_odd / (num + num_odd)
  middle = np.floor(k * share).astype(int)
  width = min(_NODES, num_odd + 1)
  left = (num + num_odd - k) / max(num + num_odd - 1, 1)
  sd = np.sqrt(k * share * (1 - share) * left)
  stride = np.ceil(_REACH * sd / max(width // 2, 1)).astype(int)
  stride = np.clip(stride, 1, max(num_odd // max(width - 1, 1), 1))
  last = np.maximum(num_odd - stride * (width - 1), 0)
  first = np.clip(middle - stride * (width // 2), 0, last)
  r = first + stride * np.arange(width)
  log_prob = log_hypergeometric(r, num + num_odd, k, num_odd)
  log_prob -= special.logsumexp(log_prob, axis=1, keepdims=True)
  return Weights(((k - r) * w1 + r * w2) / clients, log_prob)


def log_hypergeometric(
  r: np.ndarray, num: int, k: np.ndarray, drawn: int
) -> np.ndarray:
  """Returns log P(r of k marked items are among `drawn` of `num`), [...].

  -inf where that cannot be. SciPy's own takes half a second to import.

  Args:
    r: marked items that are drawn.
    num: items.
    k: those that are marked.
    drawn: items that are drawn, without replacement.
  """
  r, k = np.broadcast_arrays(np.asarray(r, float), np.asarray(k, float))
  possible = (r >= 0) & (r <= k) & (r <= drawn) & (drawn - r <= num - k)
  r = np.where(possible, r, np.maximum(0, drawn - (num - k)))

  def log_choose(n, k):
    whole, taken, left = (special.gammaln(a + 1) for a in (n, k, n - k))
    return whole - taken - left

  log_prob = log_choose(k, r) + log_choose(num - k, drawn - r)
  return np.where(possible, log_prob - log_choose(num, drawn), -np.inf)


def log_likelihood(
  beta: chex.Array,
  mean: chex.Array,
  noise: chex.Array,
  log_prob: chex.Array,
) -> chex.Array:
  """Returns log P(beta_i | class i has k examples), [K, N + 1].

  Args:
    beta: [K] bias update.
    mean: [K, N + 1, R] what it would be, at R nodes.
    noise: [K, N + 1] standard deviation, given the count.
    log_prob: [N + 1, R] of the nodes.
  """
  chex.assert_rank([beta, mean, noise, log_prob], [1, 3, 2, 2])
  seen = beta[:, None, None]
  sd = noise[:, :, None]
  density = -0.5 * ((seen - mean) / sd) ** 2 - jnp.log(sd)

  def censor():
    # An exact zero is no measurement: sparsification dropped the entry because
    # its magnitude lay below that of all others.
    least = jnp.where(beta == 0, jnp.inf, jnp.abs(beta)).min()
    mass = jax.scipy.special.log_ndtr((least - jnp.abs(mean)) / sd)
    return jnp.where(seen == 0, mass, density)

  density = jax.lax.cond((beta == 0).any(), censor, lambda: density)
  return jax.nn.logsumexp(log_prob[None] + density, axis=-1)
