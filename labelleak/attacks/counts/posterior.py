"""From the likelihood of each class to integer counts that sum to N.

`infer` turns P(beta_i | count = k) into P(count = k | beta_i) under a prior
learned from the same update, and `allocate` names the N labels that maximise
the expected count accuracy.
"""

import functools
import math
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from labelleak import validate

_CONCENTRATIONS = 0.05, 0.15, 0.5, 1.5, 5.0, 50.0  # of labels over classes
# Log odds that a few classes hold any number, by tenfold classes above ten; on
# the noisy batches of tests/attacks/counts/oracle_test.py, where the update
# hardly tells, and seeds 0 and 1 of configs/clients.py.
_FEW = 3.0
_SURE = 80.0  # log odds that float32 can tell from none
_SETTLED = 1e-4  # relative, of a mean that may still move
_MISS = 1e-2  # labels that the total may miss
_TILT = 30.0  # a count's log odds that conditioning on the total may change


class Posterior(NamedTuple):
  """Beliefs on the counts."""

  probs: chex.Array  # [K, N + 1] P(count of class i = k)
  evidence: chex.Array  # [] log marginal likelihood


class Interval(NamedTuple):
  """A credible interval, [...] each."""

  low: chex.Array  # both ends are in it
  high: chex.Array
  mass: chex.Array  # of the posterior within


def infer(
  log_lik: chex.Array,
  *,
  num: Optional[chex.Array | int] = None,
  iterations: int = 10,
) -> Posterior:
  """Infers counts of known total from log likelihoods [K, N + 1].

  Empirical Bayes: most classes hold Poisson(mu) examples, a few hold any
  number, all alike; mu follows by EM from what the few leave of the batch. Or
  the labels' distribution is Dirichlet, of several concentrations. The update
  says which of these is likely.

  Args:
    log_lik: -inf where a count is impossible.
    num: the total; None: N. A traced one is at most N.
    iterations: of EM at most, and twice as many for the total.
  """
  num_classes = log_lik.shape[0]
  n = log_lik.shape[1] - 1 if num is None else num
  k = jnp.arange(float(log_lik.shape[1]))
  factorials = jnp.asarray(special.gammaln(np.arange(len(k)) + 1), float)
  share = min(0.2, 2.0 / num_classes)
  few = jnp.where((k > 0) & (k <= n), jnp.log(share / n), -jnp.inf)

  def prior(mu):
    poisson = k * jnp.log(mu) - mu - factorials + math.log1p(-share)
    return poisson, jnp.logaddexp(poisson, few)

  # Sums over counts are products of matrices, beside a prior that allows for
  # whatever a tried one may hold.
  alike = _dirichlet_counts(n, num_classes, log_lik.shape[1] - 1)
  broad = jax.nn.logsumexp(jnp.concatenate([alike, few[None]]), 0)
  top = (log_lik + broad[None]).max(-1, keepdims=True)
  weight = jnp.exp(log_lik + broad[None] - top)

  def against_broad(log_prior):
    beside = jnp.broadcast_to(broad, log_prior.shape)
    odds = jnp.exp(jnp.clip(log_prior - beside, -_SURE, _SURE))
    return jnp.where(jnp.isfinite(beside), odds, 0.0)

  heavy = against_broad(few)

  def step(mu):
    poisson = against_broad(prior(mu)[0])
    columns = jnp.stack([poisson + heavy, poisson, k * heavy], -1)
    total, member, elsewhere = _product(weight, columns).T
    elsewhere, member = (elsewhere / total).sum(), (member / total).sum()
    return jnp.clip(
      (n - elsewhere) / jnp.maximum(member, 1e-6), 1e-3, n / num_classes
    )

  def settle(state):
    i, mu, _ = state
    return i + 1, step(mu), mu

  def moves(state):
    i, mu, before = state
    return (i < iterations) & (jnp.abs(mu - before) > _SETTLED * mu)

  mu = jnp.asarray(n / num_classes)
  _, mu, _ = jax.lax.while_loop(moves, settle, (0, mu, -mu))
  priors = jnp.concatenate([prior(mu)[1][None], alike])
  evidence = jnp.log(_product(weight, against_broad(priors).T)).sum(0)
  evidence += top.sum()
  odds = _FEW * max(math.log10(num_classes / 10), 0.0)
  evidence += jnp.array([odds] + [0.0] * len(alike))
  mixed = jax.nn.log_softmax(evidence)[:, None] + priors
  joint = log_lik + jax.nn.logsumexp(mixed, 0)[None]
  return _condition_on_total(joint, n, iterations)


_product = functools.partial(jnp.matmul, precision='highest')


def _dirichlet_counts(n, num_classes, most):
  """Returns the log probability of counts under each Dirichlet, [G, most + 1].

  A class's count is then beta-binomial. Its gamma functions are looked up, as
  XLA compiles each for long.
  """
  a = np.array(_CONCENTRATIONS)[:, None]
  b = (num_classes - 1) * a
  k = np.arange(max(most, n if isinstance(n, int) else 0) + 1)
  own = special.gammaln(k + a) - special.gammaln(a) - special.gammaln(k + 1)
  others = special.gammaln(k + b) - special.gammaln(b) - special.gammaln(k + 1)
  total = special.gammaln(k + a + b) - special.gammaln(a + b)
  total = total - special.gammaln(k + 1)
  n, k = jnp.asarray(n, int), k[: most + 1]
  rest = jnp.asarray(others, float)[:, jnp.maximum(n - k, 0)]
  log_prob = jnp.asarray(own[:, : most + 1], float) + rest
  log_prob -= jnp.asarray(total, float)[:, n, None]
  return jnp.where(k <= n, log_prob, -jnp.inf)


def _condition_on_total(joint, n, iterations):
  """Conditions independent counts on sum k_i = N, by the saddle point.

  Multiplying each class's distribution by exp(theta k), with theta such that
  the expected sum is N, is that conditioning up to O(1/K); log P(sum = N) is
  the saddle-point formula. Certain classes stay, uncertain ones give way.
  """
  k = jnp.arange(float(joint.shape[1]))

  def moments(theta):
    probs = jax.nn.softmax(joint + theta * k[None], axis=-1)
    mean = probs @ k
    off = k[None] - mean[:, None]  # E k^2 - mean^2 would cancel
    return mean.sum(), (probs * off**2).sum()

  def newton(state):
    # The sum rises with theta, about as its exponential where counts are few,
    # so every look at it narrows a bracket. Near certain counts it rises in
    # jumps, which Newton's step alone overshoots.
    i, theta, low, high, mean, var = state
    low = jnp.where(mean < n, theta, low)
    high = jnp.where(mean < n, high, theta)
    mean = jnp.maximum(mean, 1e-30)
    step = jnp.log(n / mean) / jnp.maximum(var / mean, 1e-6)
    inside = (low < theta + step) & (theta + step < high)
    theta = jnp.where(inside, theta + step, (low + high) / 2)
    return i + 1, theta, low, high, *moments(theta)

  def misses(state):
    i, *_, mean, _ = state
    return (i < 2 * iterations) & (jnp.abs(mean - n) > _MISS)

  start = jnp.zeros(()), *moments(0.0)
  end = jnp.where(start[1] < n, _TILT, -_TILT)
  far = end, *moments(end)
  between = (start[1] - n) * (far[1] - n) <= 0
  # Counts that are sure leave no theta to look for.
  start = jax.tree.map(lambda a, b: jnp.where(between, a, b), start, far)
  first = jnp.where(between, 0, 2 * iterations)
  low, high = jnp.asarray(-_TILT), jnp.asarray(_TILT)
  state = first, start[0], low, high, *start[1:]
  _, theta, *_, mean, var = jax.lax.while_loop(misses, newton, state)
  probs = jax.nn.softmax(joint + theta * k[None], axis=-1)
  log_sum = jax.nn.logsumexp(joint + theta * k[None], -1).sum() - theta * n
  # Where the evidence is integer-sharp no theta fits a wrong total.
  miss = (n - mean) ** 2 / (var + 0.25)
  return Posterior(probs, log_sum - 0.5 * (jnp.log(var + 0.25) + miss))


def allocate(
  probs: chex.Array, num: Optional[chex.Array | int] = None
) -> chex.Array:
  """Names the labels of highest expected accuracy, [K, N + 1] -> [K].

  E sum_i min(m_i, lambda_i) = sum_i sum_{t <= m_i} P(lambda_i >= t): its terms
  fall with t, so the largest tails are the optimum under sum m = num.

  Args:
    probs: P(count of class i = k).
    num: of labels, at most N; None: N.
  """
  n = probs.shape[1] - 1
  tails = jnp.flip(jnp.cumsum(jnp.flip(probs[:, 1:], 1), 1), 1)
  # Rounding must not let a later tail of a class overtake an earlier one.
  tails = jax.lax.cummin(tails, axis=1)
  _, places = jax.lax.top_k(tails.ravel(), n)
  there = jnp.arange(n) < (n if num is None else num)
  return jnp.zeros(probs.shape[0], int).at[places // n].add(there)


def mean_counts(probs: chex.Array) -> chex.Array:
  """Returns the expected counts, [K, N + 1] -> [K]."""
  return probs @ jnp.arange(float(probs.shape[1]))


def interval(probs: chex.Array, level: float = 0.9) -> Interval:
  """Returns the shortest interval of counts that holds at least `level`.

  Counts are integers, so that it often holds more; `mass` says how much. Of
  probabilities that are not finite both ends are -1.

  Args:
    probs: [..., N + 1] P(count = k).
    level: of the posterior. Of several shortest intervals the likeliest is it.

  Raises:
    InputError: a level that is not in (0, 1).
  """
  validate.within('interval: level', level, '(0, 1)')
  num = probs.shape[-1]
  upto = jnp.cumsum(probs, -1)
  upto = upto / upto[..., -1:]
  below = jnp.pad(upto[..., :-1], [(0, 0)] * (probs.ndim - 1) + [(1, 0)])
  search = jnp.vectorize(jnp.searchsorted, signature='(n),(m)->(m)')
  high = search(upto, below + level * (1 - 1e-6))
  mass = jnp.take_along_axis(upto, jnp.minimum(high, num - 1), -1) - below
  first = jnp.broadcast_to(jnp.arange(num), high.shape)
  width = jnp.where(high < num, high - first, num)
  low = jnp.argmin(width - 0.5 * mass, -1)[..., None]
  pick = lambda a: jnp.take_along_axis(a, low, -1)[..., 0]
  mass = pick(mass)
  none = lambda end: jnp.where(jnp.isfinite(mass), end, -1)
  return Interval(none(low[..., 0]), none(pick(high)), mass)
