"""From noisy evidence on each class to integer counts that sum to N.

One example of class i, in a local step of b_s examples, adds w = 1/b_s times
(p - [i = label]) to the head's bias update. All but the last step weigh the
same, so a class with k examples, r of them in the odd group, shows

  beta_i ~ Normal(c * (offset_i - keep_i * ((k - r) w_1 + r w_2)), noise_i^2)

with r hypergeometric. `posterior` turns that into P(count = k | beta_i) under a
prior learned from the same update, and `allocate` names the N labels that
maximise the expected count accuracy.
"""

import math
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from labelleak import hfl
from labelleak.attacks.counts import expectation
from labelleak.hfl import Known

_RATIO_ERROR = 0.05  # relative, of a step's norm as the model tells it
_DOUBT = 0.4  # relative, of the unconfidence that auxiliary examples show
_TILT = 30.0  # a count's log odds that conditioning on the total may change
_NODES = 25  # terms kept of the sum over r: about 3 sd either side at B = 1024


class Weights(NamedTuple):
  """How much k examples of one class weigh, N = C * B; host constants."""

  total: np.ndarray  # [N + 1, R] summed weight (k - r) w_1 + r w_2
  log_prob: np.ndarray  # [N + 1, R] of r given k; -inf where impossible


def weights(batch_size: int, steps: int, clients: int = 1) -> Weights:
  """Weights of k examples drawn from N without replacement.

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
  (num, w1), (num_odd, w2) = groups
  num, num_odd = num * clients, num_odd * clients
  k = np.arange(num + num_odd + 1)[:, None]
  if w1 == w2 or num == 0:
    return Weights(k * w2 / clients, np.zeros(k.shape))
  middle = np.floor(k * num_odd / (num + num_odd)).astype(int)
  width = min(_NODES, num_odd + 1)
  first = np.clip(middle - width // 2, 0, num_odd + 1 - width)
  r = first + np.arange(width)
  with np.errstate(divide='ignore'):
    log_prob = stats.hypergeom.logpmf(r, num + num_odd, k, num_odd)
  return Weights(((k - r) * w1 + r * w2) / clients, log_prob)


def log_likelihood(
  beta: chex.Array,
  offset: chex.Array,
  keep: chex.Array,
  scale: chex.Array,
  noise: chex.Array,
  table: Weights,
) -> chex.Array:
  """log P(beta_i | class i has k examples), [K] -> [K, N + 1].

  Args:
    beta: [K] bias update.
    offset: [K] summed softmax that all other examples give to the class.
    keep: [K] one minus the softmax that an example gives to its own class.
    scale: [] what clipping left of the update, c.
    noise: [K, N + 1] standard deviation, given the count.
    table: from `weights`.
  """
  chex.assert_rank([beta, offset, keep, noise], [1, 1, 1, 2])
  expand = lambda a: a[:, None, None]
  sd = noise[:, :, None]
  mean = scale * (expand(offset) - expand(keep) * table.total[None])
  density = -0.5 * ((expand(beta) - mean) / sd) ** 2
  # An exact zero is no measurement: sparsification dropped the entry because
  # its magnitude lay below that of all entries kept.
  kept = jnp.where(beta == 0, jnp.inf, jnp.abs(beta)).min()
  mass = jax.scipy.special.log_ndtr((kept - jnp.abs(mean)) / sd)
  density = jnp.where(expand(beta) == 0, mass, density - jnp.log(sd))
  return jax.nn.logsumexp(table.log_prob[None] + density, axis=-1)


class Posterior(NamedTuple):
  probs: chex.Array  # [K, N + 1] P(count of class i = k)
  evidence: chex.Array  # [] log marginal likelihood


def posterior(log_lik: chex.Array, *, iterations: int = 10) -> Posterior:
  """Empirical Bayes under a known total, [K, N + 1] -> `Posterior`.

  Most classes hold Poisson(mu) examples, a few hold any number, all alike; mu
  follows by EM from what the few leave of the batch.
  """
  num_classes, n = log_lik.shape[0], log_lik.shape[1] - 1
  k = jnp.arange(n + 1.0)
  share = min(0.2, 2.0 / num_classes)
  few = jnp.where(k > 0, math.log(share / n), -jnp.inf)

  def prior(mu):
    most = k * jnp.log(mu) - mu - jax.lax.lgamma(k + 1.0) + math.log1p(-share)
    return most, jnp.logaddexp(most, few)

  def step(_, mu):
    most, both = prior(mu)
    probs = jax.nn.softmax(log_lik + both[None], axis=-1)
    member = probs * jnp.exp(most - both)[None]
    elsewhere = ((probs - member) @ k).sum()
    return jnp.clip(
      (n - elsewhere) / jnp.maximum(member.sum(), 1e-6), 1e-3, n / num_classes
    )

  mu = jax.lax.fori_loop(0, iterations, step, jnp.asarray(n / num_classes))
  return _given_total(log_lik + prior(mu)[1][None], iterations)


def _given_total(joint, iterations):
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
    move = (n - mean) / jnp.maximum(var, 1e-3)
    moved = theta + jnp.clip(move, -4.0, 4.0)
    inside = (low < moved) & (moved < high)
    return jnp.where(inside, moved, (low + high) / 2), low, high

  start = (jnp.asarray(0.0), jnp.asarray(-_TILT), jnp.asarray(_TILT))
  theta, _, _ = jax.lax.fori_loop(0, 2 * iterations, newton, start)
  probs, mean, var = moments(theta)
  log_sum = jax.nn.logsumexp(joint + theta * k[None], -1).sum() - theta * n
  # Where the evidence is integer-sharp no theta fits a wrong total.
  miss = (n - mean) ** 2 / (var + 0.25)
  return Posterior(probs, log_sum - 0.5 * (jnp.log(var + 0.25) + miss))


def allocate(probs: chex.Array) -> chex.Array:
  """The N labels with the highest expected count accuracy, [K, N+1] -> [K].

  E sum_i min(m_i, lambda_i) = sum_i sum_{t <= m_i} P(lambda_i >= t): its terms
  fall with t, so the N largest tails are the optimum under sum m = N.
  """
  n = probs.shape[1] - 1
  tails = jnp.flip(jnp.cumsum(jnp.flip(probs[:, 1:], 1), 1), 1)
  # Rounding must not let a later tail of a class overtake an earlier one.
  tails = jax.lax.cummin(tails, axis=1)
  _, chosen = jax.lax.top_k(tails.ravel(), n)
  return jnp.bincount(chosen // n, length=probs.shape[0])


def infer(
  beta: chex.Array,
  softmax: expectation.Softmax,
  known: Known,
  *,
  error: float = 0.0,
  quiet: chex.Array | float = 1.0,
  ratio: Optional[chex.Array] = None,
) -> chex.Array:
  """Counts [K] from the bias update and a model of the mean softmax.

  Where the softmax depends on the class, rounds alternate: the counts say which
  softmax the examples of other classes give to class i, that says the counts.
  Scale and noise floor are integrated over a grid, weighted by evidence.

  Args:
    beta: [K] bias update, or what is read of it by `expectation.fused`.
    softmax: the model's.
    known: sizes and `defense`.
    error: relative, of the mean softmax: the model may be as good as its
      variances say, or off by this much in each class on its own.
    quiet: [] granted noise on `beta` over that on one entry of the update.
    ratio: [] norm of a step's gradient over that of its bias part, where the
      model tells it: says what a granted clip left.
  """
  table = weights(known.batch_size, known.steps, known.clients)
  n = known.clients * known.batch_size
  k = jnp.arange(n + 1.0)[None]
  w = known.steps / n  # mean weight of an example
  noise, clipped = granted(known)
  noise = noise * quiet
  counts = jnp.full(known.num_classes, n / known.num_classes)
  own, scatter, unsure = _own(softmax, known)
  # k examples scatter, and the mean of their class is itself uncertain.
  own_var = w**2 * (scatter[:, None] * k + unsure[:, None] * k**2)
  off_var = softmax.var * (1 - jnp.eye(known.num_classes))
  for _ in range(3 if known.labelled else 1):
    a = w * counts
    others = jnp.maximum(known.steps - a, 1e-6)
    q = (a @ softmax.mean - a * jnp.diag(softmax.mean)) / others
    var = a @ (w * off_var) + a**2 @ (off_var / softmax.num[:, None])
    var = var[:, None] + own_var

    def evaluate(scale, floor, doubt, off, blur=0.0, q=q, var=var):
      wrong = (off * known.steps * q)[:, None]
      spread = noise**2 + scale**2 * (var + floor**2 + wrong**2)
      spread += (blur * beta)[:, None] ** 2
      post = posterior(
        log_likelihood(
          beta,
          known.steps * q,
          doubt * (1 - own) + q,
          scale,
          jnp.sqrt(spread),
          table,
        )
      )
      log_fit = -0.5 * (jnp.log(doubt) / _DOUBT) ** 2
      if clipped and ratio is not None:
        left = _left(post.probs, q, ratio, known)
        log_fit -= 0.5 * (jnp.log(scale / left) / _RATIO_ERROR) ** 2
      return post._replace(evidence=post.evidence + log_fit)

    probs = _integrate(evaluate, beta, known, table, clipped, error)
    counts = probs @ k[0]
  return allocate(probs)


def _own(softmax, known):
  """Confidence in the own class: mean, variance, error of the mean, 3 x [K].

  A handful of examples a class leaves both moments uncertain: ten confident
  ones say little of the eleventh. So classes share one variance, and their
  means are shrunk to each other as far as chance explains their differences
  (James and Stein).
  """
  own, var = jnp.diag(softmax.mean), jnp.diag(softmax.var)
  if not known.labelled:
    return own, var, var / softmax.num
  var = jnp.full_like(var, var.mean())
  error = var / softmax.num
  between = jnp.maximum(own.var() - error.mean(), 0.0)
  weight = between / jnp.maximum(between + error, 1e-12)
  return own.mean() + weight * (own - own.mean()), var, weight * error


def granted(known: Known) -> tuple[float, bool]:
  """Noise on the update, and whether its steps are clipped, as granted."""
  strength = dict(known.defense or ())
  std = strength.get('gaussian', 0.0) + strength.get('laplace', 0.0) * 2**0.5
  noise = std * (known.steps / known.clients) ** 0.5
  return noise, 'clip' in strength


def _left(probs, q, ratio, known):
  """What clipping leaves of a step that draws from these counts, [].

  A step's bias part is q minus the label shares of b of the B examples, drawn
  without replacement; the norm of the whole gradient is `ratio` times its norm.
  """
  num, size = known.batch_size, known.batch_size / known.steps
  k = jnp.arange(probs.shape[1])
  mean, square = probs @ k / num, probs @ k**2 / num**2
  drawn = (mean - square) * (num - size) / (size * max(num - 1, 1))
  norm = ratio * jnp.sqrt((square + drawn - 2 * q * mean + q**2).sum())
  return jnp.minimum(1.0, dict(known.defense)['clip'] / norm)


def _integrate(evaluate, beta, known, table, clipped, error):
  """Mixes `evaluate(scale, floor, doubt, off)` over them, [K, N + 1]."""
  unit = float(table.total[1].min())
  top = jnp.asarray(0.5 * unit)
  if known.defense is None:
    top = jnp.maximum(top, jnp.abs(beta).max() / 4)

  # Auxiliary examples tell each class's confidence; all may be off together.
  doubt = jnp.ones(1)
  if known.labelled:
    doubt = jnp.exp(_DOUBT * jnp.linspace(-2.0, 2.0, 9))

  off = jnp.array([0.0, error] if error else [0.0])

  def mix(scales, num_floors, blur=0.0, log_prior=0.0):
    floors = jnp.geomspace(0.004 * unit, top, num_floors)
    nodes = [a.ravel() for a in jnp.meshgrid(floors, doubt, off)]
    post = jax.lax.map(
      lambda c: jax.vmap(lambda *node: evaluate(c, *node, blur))(*nodes),
      scales,
    )
    evidence = (
      post.evidence + jnp.broadcast_to(log_prior, scales.shape)[:, None]
    )
    weight = jax.nn.softmax(evidence.ravel())
    weight = weight.reshape(post.evidence.shape)
    return jnp.einsum('cf,cfkn->kn', weight, post.probs), weight.sum(1)

  if known.defense is not None and not clipped:
    return mix(jnp.ones(1), 8)[0]
  low, high = jnp.asarray(0.02), jnp.asarray(1.0)
  if known.defense is None:
    # The negative entries sum to at most c * S, and miss little of it.
    low = jnp.maximum(-jnp.minimum(beta, 0.0).sum() / known.steps, 1e-12)
    high = 3 * low
  grid = jnp.geomspace(low, high, 24)
  gap = jnp.log(high / low) / 23
  _, weight = mix(grid, 4, blur=gap / 2)  # then a closer look at its peak
  mean = weight @ jnp.log(grid)
  sd = jnp.sqrt(weight @ (jnp.log(grid) - mean) ** 2)
  reach = jnp.maximum(2.5 * sd, gap)
  near = jnp.exp(mean + reach * jnp.linspace(-1.0, 1.0, 25))
  # Half of the prior is a scale of exactly 1, an update that nothing touched;
  # the rest is log-uniform between low and high.
  share = 2 * reach / 24 / jnp.log(high / low)
  possible = near <= 1.0 if clipped else near > 0.0
  log_prior = jnp.where(possible, jnp.log(share), -jnp.inf)
  return mix(
    jnp.append(near, 1.0),
    8 if known.defense is None else 4,
    log_prior=jnp.append(log_prior, 0.0),
  )[0]
