"""From the likelihood of each class to integer counts that sum to N.

`infer` turns P(beta_i | count = k) into P(count = k | beta_i) under a prior
learned from the same update, and `allocate` names the N labels that maximise
the expected count accuracy.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

_TILT = 30.0  # a count's log odds that conditioning on the total may change


class Posterior(NamedTuple):
  """Beliefs on the counts."""

  probs: chex.Array  # [K, N + 1] P(count of class i = k)
  evidence: chex.Array  # [] log marginal likelihood


def infer(log_lik: chex.Array, *, iterations: int = 10) -> Posterior:
  """Infers counts of known total from log likelihoods [K, N + 1].

  Empirical Bayes: most classes hold Poisson(mu) examples, a few hold any
  number, all alike; mu follows by EM from what the few leave of the batch.
  """
  num_classes, n = log_lik.shape[0], log_lik.shape[1] - 1
  k = jnp.arange(n + 1.0)
  share = min(0.2, 2.0 / num_classes)
  few = jnp.where(k > 0, math.log(share / n), -jnp.inf)

  def prior(mu):
    poisson = k * jnp.log(mu) - mu - jax.lax.lgamma(k + 1.0)
    poisson = poisson + math.log1p(-share)
    return poisson, jnp.logaddexp(poisson, few)

  def step(_, mu):
    poisson, both = prior(mu)
    probs = jax.nn.softmax(log_lik + both[None], axis=-1)
    member = probs * jnp.exp(poisson - both)[None]
    elsewhere = ((probs - member) @ k).sum()
    return jnp.clip(
      (n - elsewhere) / jnp.maximum(member.sum(), 1e-6), 1e-3, n / num_classes
    )

  mu = jax.lax.fori_loop(0, iterations, step, jnp.asarray(n / num_classes))
  return _condition_on_total(log_lik + prior(mu)[1][None], iterations)


def _condition_on_total(joint, iterations):
  """Conditions independent counts on sum k_i = N, by the saddle point.

  Multiplying each class's distribution by exp(theta k), with theta such that
  the expected sum is N, is that conditioning up to O(1/K); log P(sum = N) is
  the saddle-point formula. Certain classes stay, uncertain ones give way.
  """
  n = joint.shape[1] - 1
  k = jnp.arange(n + 1.0)

  def moments(theta):
    probs = jax.nn.softmax(joint + theta * k[None], axis=-1)
    mean = probs @ k
    return probs, mean.sum(), (probs @ k**2 - mean**2).sum()

  def newton(_, state):
    # The sum rises with theta, so every look at it narrows a bracket. Near
    # certain counts it rises in jumps, which Newton's step alone overshoots.
    theta, low, high = state
    _, mean, var = moments(theta)
    low = jnp.where(mean < n, theta, low)
    high = jnp.where(mean < n, high, theta)
    step = (n - mean) / jnp.maximum(var, 1e-3)
    target = theta + jnp.clip(step, -4.0, 4.0)
    inside = (low < target) & (target < high)
    return jnp.where(inside, target, (low + high) / 2), low, high

  start = (jnp.asarray(0.0), jnp.asarray(-_TILT), jnp.asarray(_TILT))
  theta, _, _ = jax.lax.fori_loop(0, 2 * iterations, newton, start)
  probs, mean, var = moments(theta)
  log_sum = jax.nn.logsumexp(joint + theta * k[None], -1).sum() - theta * n
  # Where the evidence is integer-sharp no theta fits a wrong total.
  miss = (n - mean) ** 2 / (var + 0.25)
  return Posterior(probs, log_sum - 0.5 * (jnp.log(var + 0.25) + miss))


def allocate(probs: chex.Array) -> chex.Array:
  """Names the N labels of highest expected accuracy, [K, N + 1] -> [K].

  E sum_i min(m_i, lambda_i) = sum_i sum_{t <= m_i} P(lambda_i >= t): its terms
  fall with t, so the N largest tails are the optimum under sum m = N.
  """
  n = probs.shape[1] - 1
  tails = jnp.flip(jnp.cumsum(jnp.flip(probs[:, 1:], 1), 1), 1)
  # Rounding must not let a later tail of a class overtake an earlier one.
  tails = jax.lax.cummin(tails, axis=1)
  _, places = jax.lax.top_k(tails.ravel(), n)
  return jnp.bincount(places // n, length=probs.shape[0])
