"""Cut gradients of a trained model, by sparse Bayesian learning.

A trained model is sure of most rows, and of the others it doubts between a few
classes: most entries of B U = S - Y are next to nothing, and nobody says which.
Each entry therefore has a Gaussian prior of a variance of its own, and those
variances are sought under which the observed gradient is likeliest (Tipping,
JMLR 2001; Wipf and Rao, IEEE TSP 2004). An entry that explains nothing loses
its variance, and leaves the equations to those that do. Neither a label nor a
law of S is assumed; the label is read as the one entry that is negative.

Large and tiny entries meet in one sum, which float32 holds to seven digits:
what is left of them is told by an exact solution alone, in float64.
"""

from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import validate, vfl
from labelleak.attacks.linear import equations, matrix
from labelleak.base import Attack, InputError, attack

_NAME = 'linear.sparse_bayesian'
_PROBES = 64
_NOISE = 1e-4  # of an equation at first, as a share of the gradient's RMS
_FLOOR = 1e-6  # which is float32's rounding
_EXACT = 1e-15  # of the largest diagonal entry: float64's
_LEAST = 1e-14  # variance of an entry
_WIDTH = 3.0  # deviation of the own logits' slope and offsets
_FITS, _RATE = 300, 0.05  # steps of Adam to them
_STILL = 2  # rounds in which next to no label changes
_FEW = 500  # rows to one whose label may


class Posterior(NamedTuple):
  """What the equations say of B U = S - Y, each entry [B, K].

  Attributes:
    mean: of the entry.
    variance: of it.
    share: of the entry that the equations determine, in (0, 1].
    rounds: [] until labels stood still.
  """

  mean: chex.Array
  variance: chex.Array
  share: chex.Array
  rounds: chex.Array


def sparse_bayesian(*, rounds: int = 20) -> Attack:
  """Builds sparse Bayesian learning of a batch's cut gradients; see `learn`.

  Scores are label probabilities [B, K], of `read_labels`. Made for trained
  models. Where softmaxes are as good as known, `expectation_propagation` needs
  fewer equations.

  Args:
    rounds: at most.

  Raises:
    InputError: no positive whole number. (infer) See `learn`.
  """
  validate.whole('sparse_bayesian: rounds', rounds, 1)

  def infer(key, view, known):
    posterior = learn(key, view, known, rounds=rounds)
    return read_labels(posterior, view.h)

  return attack(infer, name=_NAME, kind='vertical', needs=('bottom',))


def read_labels(
  posterior: Posterior, h: chex.Array, log_prior: Optional[chex.Array] = None
) -> chex.Array:
  """Returns probabilities of labels [B, K]: that an entry is the negative one.

  What the equations alone say of an entry is its posterior without its prior.
  A row of which they say little is one that the joint model is sure of, and its
  label is in the own logits: softmax(beta h + c) is the prior of labels, its
  slope and offsets [K] those under which the equations' word is likeliest.

  Args:
    posterior: of the entries of S - Y.
    h: [B, K] own logits.
    log_prior: [B, K] of labels, in the place of the own logits'.
  """
  deviation = jnp.sqrt(posterior.variance * posterior.share)
  score = posterior.mean / jnp.maximum(deviation, 1e-30)
  log_cdf = jax.scipy.stats.norm.logcdf
  odds = jax.nn.log_softmax(log_cdf(-score) - log_cdf(score))
  if log_prior is None:
    log_prior = _fit_prior(equations.center(h), odds)
  return jax.nn.softmax(odds + log_prior)


def _fit_prior(h, odds):
  """Returns log softmax(beta h + c), likeliest of log odds [B, K]."""

  def log_prior(weights):
    slope, offset = weights
    return jax.nn.log_softmax(slope * h + offset[None])

  def loss(weights):
    slope, offset = weights
    fit = jax.nn.logsumexp(log_prior(weights) + odds, axis=1).sum()
    # A few rows would have any offset.
    far = (slope - 1) ** 2 + (offset**2).sum()
    return (far / (2 * _WIDTH**2) - fit) / len(h)

  tx = optax.adam(_RATE)

  def step(carry, _):
    weights, state = carry
    updates, state = tx.update(jax.grad(loss)(weights), state)
    return (optax.apply_updates(weights, updates), state), None

  start = jnp.ones(()), jnp.zeros(h.shape[1])
  carry = start, tx.init(start)
  (weights, _), _ = jax.lax.scan(step, carry, None, length=_FITS)
  return log_prior(weights)


def learn(
  key: chex.PRNGKey, view: vfl.View, known: vfl.Known, *, rounds: int = 20
) -> Posterior:
  """Learns the variances of a batch's entries from its parameter gradients.

  A round solves the equations under the variances of the round before, and
  takes for each new variance the mean of two steps towards its maximum: EM's,
  which is slow and sure, and MacKay's, which is fast. The noise of the
  equations is learned along the way. At first an entry's variance is that of
  the own softmax.

  Args:
    key: of the probes that measure posterior variances.
    view: of the batch, its link sealed or not.
    known: with `bottom`.
    rounds: at most; they end when labels stand still.

  Raises:
    InputError: logits that are not K wide, a batch or model that does not fit
      in memory.
  """
  equations.check_width(_NAME, view, known)
  if not matrix.fits(view):
    raise InputError(
      f'{view.h.size} entries of S - Y: {_NAME} solves no more than'
      f' {matrix.ENTRIES}, and fewer of a large model; use'
      ' linear.expectation_propagation.'
    )
  system = matrix.build(view, known)
  own = jax.nn.softmax(view.h)
  probes = jax.random.rademacher(key, (view.h.size, _PROBES), jnp.float32)
  first = own * (1 - own) + 1e-4
  return _solve_exactly(system, first, probes, jnp.asarray(rounds))


# Batched by vmap, float64 would be traced where it is not enabled; and batches
# solved at once would need as many squares.
@jax.custom_batching.sequential_vmap
def _solve_exactly(system, first, probes, rounds):
  """Returns the posterior in float32, of rounds in float64."""
  with jax.enable_x64(True):
    state = _iterate(system, first, probes, rounds)
    posterior = jax.tree.map(lambda a: a.astype(first.dtype), state.posterior)
  return posterior._replace(rounds=state.round.astype(jnp.int32))


class _State(NamedTuple):
  """What a round changes."""

  round: chex.Array  # []
  still: chex.Array  # [] rounds since a label changed
  variance: chex.Array  # [B, K] of the prior
  noise: chex.Array  # [] variance of an equation
  posterior: Posterior


def _iterate(system, first, probes, rounds):
  """Runs rounds in float64, from variances in proportion to `first` [B, K]."""
  num, classes = first.shape
  gram, rhs = matrix.square(system)
  first, probes = first.astype(gram.dtype), probes.astype(gram.dtype)
  power = jnp.sum(system.observed.astype(gram.dtype) ** 2)
  count = jnp.maximum(system.count, 1)
  diagonal = jnp.diag(gram)
  # As large as the gradient they have to explain.
  first = first * power / jnp.maximum(diagonal @ first.ravel(), 1e-30)
  # Rows sum to zero: equations that are as good as the others.
  sums = jnp.mean(diagonal) / classes
  entries = jax.lax.iota(jnp.int32, first.size)
  rows = entries // classes
  gram = gram + jnp.where(rows[:, None] == rows[None], sums, 0.0)
  diagonal = diagonal + sums

  def solve(state):
    variance = state.variance.ravel()
    root = jnp.sqrt(variance)
    noise = jnp.maximum(state.noise, _EXACT * (variance * diagonal).max())
    inner = root[:, None] * gram * root[None]
    inner += jnp.where(entries[:, None] == entries[None], noise, 0.0)
    factor = jax.lax.linalg.cholesky(inner, symmetrize_input=False)
    both = jnp.concatenate([(root * rhs)[:, None], probes], 1)
    z = jax.scipy.linalg.cho_solve((factor, True), both)
    left = noise * jnp.mean(probes * z[:, 1:], 1)
    return root * z[:, 0], jnp.clip(left, 1e-4, 1.0), noise

  def advance(state):
    mean, left, noise = solve(state)
    misfit = power - 2 * rhs @ mean + mean @ (gram @ mean)
    misfit -= sums * (mean.reshape(num, classes).sum(1) ** 2).sum()
    noise = (jnp.maximum(misfit, 0.0) + noise * jnp.sum(1 - left)) / count
    mean, left = mean.reshape(num, classes), left.reshape(num, classes)
    variance = state.variance * left
    share = jnp.maximum(1 - left, 1e-2)
    new = mean**2 + (mean**2 / share - mean**2 + variance) / 2
    found = _State(
      round=state.round + 1,
      still=jnp.where(_agree(mean, state.posterior.mean), state.still + 1, 0),
      variance=jnp.maximum(new, _LEAST),
      noise=jnp.maximum(noise, _FLOOR**2),
      posterior=Posterior(mean, variance, share, state.round + 1),
    )
    # What cannot be solved any more ends where it was.
    ended = state._replace(still=jnp.full_like(state.still, _STILL))
    finite = jnp.isfinite(mean).all() & jnp.isfinite(left).all()
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), found, ended)

  zero = jnp.zeros((), jnp.int32)
  nothing = Posterior(0 * first, first, jnp.full_like(first, 1e-2), zero)
  start = _State(zero, zero, first, jnp.full((), _NOISE**2), nothing)
  going = lambda state: (state.round < rounds) & (state.still < _STILL)
  return jax.lax.while_loop(going, advance, start)


def _agree(mean, other):
  """Returns whether rows of two means [B, K] agree on their least entry."""
  least = lambda a: a == a.min(1, keepdims=True)
  changed = (least(mean) != least(other)).any(1)
  return changed.sum() <= len(mean) / _FEW
