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
_ROUGH = 1e-6  # float32's
_TRIES, _MORE = 4, 10.0  # with so much more noise
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
  odds = weigh(posterior)
  if log_prior is None:
    log_prior = _fit_prior(equations.center(h), odds)
  return jax.nn.softmax(odds + log_prior)


def weigh(posterior: Posterior) -> chex.Array:
  """Returns what the equations alone say of labels, log odds [B, K]."""
  deviation = jnp.sqrt(posterior.variance * posterior.share)
  score = posterior.mean / jnp.maximum(deviation, 1e-30)
  log_cdf = jax.scipy.stats.norm.logcdf
  return jax.nn.log_softmax(log_cdf(-score) - log_cdf(score))


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
  key: chex.PRNGKey,
  view: vfl.View,
  known: vfl.Known,
  *,
  rounds: int = 20,
  first: Optional[chex.Array] = None,
  quick: bool = False,
) -> Posterior:
  """Learns the variances of a batch's entries from its parameter gradients.

  A round solves the equations under the variances of the round before, and
  takes for each new variance the mean of two steps towards its maximum: EM's,
  which is slow and sure, and MacKay's, which is fast. The noise of the
  equations is learned along the way.

  Args:
    key: of the probes that measure posterior variances.
    view: of the batch, its link sealed or not.
    known: with `bottom`.
    rounds: at most; they end when labels stand still.
    first: [B, K] variances to begin with, up to a constant; None: those of the
      own softmax.
    quick: in float32, which takes rounding for noise, and after a first round
      with half of the entries, those of the largest variances. That is enough
      where `first` is good.

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
  if first is None:
    own = jax.nn.softmax(view.h)
    first = own * (1 - own) + 1e-4
  probes = jax.random.rademacher(key, (view.h.size, _PROBES), jnp.float32)

  # Batched by vmap, float64 would be traced where it is not enabled; and
  # batches solved at once would need as many squares.
  @jax.custom_batching.sequential_vmap
  def solve(view, first, probes, rounds):
    if quick:
      with jax.default_matmul_precision('highest'):
        square = matrix.square(view, known, jnp.float32)
        return _iterate(square, first, probes, rounds, _ROUGH)
    with jax.enable_x64(True):
      square = matrix.square(view, known, jnp.float64)
      found = _iterate(square, first, probes, rounds, _EXACT)
      found = jax.tree.map(lambda a: a.astype(first.dtype), found)
    return found._replace(rounds=found.rounds.astype(jnp.int32))

  return solve(view, first, probes, jnp.asarray(rounds))


class _Problem(NamedTuple):
  """Normal equations, those of sums of rows among them, and how to solve them.

  Attributes:
    gram: [n, n].
    rhs: [n].
    sums: [] weight of the equation that a row sums to zero.
    square: without those.
    probes: [n, P] signs.
    least: [] noise, beside the largest diagonal entry.
  """

  gram: chex.Array
  rhs: chex.Array
  sums: chex.Array
  square: matrix.Square
  probes: chex.Array
  least: float


class _State(NamedTuple):
  """What a round changes."""

  round: chex.Array  # []
  still: chex.Array  # [] rounds since a label changed
  variance: chex.Array  # [B, K] of the prior
  noise: chex.Array  # [] variance of an equation
  posterior: Posterior


def _iterate(square, first, probes, rounds, least):
  """Runs rounds from variances in proportion to `first` [B, K]."""
  dtype = square.gram.dtype
  first = first.astype(dtype)
  diagonal = jnp.diag(square.gram)
  # As large as the gradient they have to explain.
  scale = square.power / jnp.maximum(diagonal @ first.ravel(), 1e-30)
  # Rows sum to zero: equations that are as good as the others.
  sums = jnp.mean(diagonal) / first.shape[1]
  rows = jax.lax.iota(jnp.int32, first.size) // first.shape[1]
  gram = square.gram
  gram += jnp.where(rows[:, None] == rows[None], sums, 0.0)
  problem = _Problem(
    gram, square.rhs, sums, square, probes.astype(dtype), least
  )
  zero = jnp.zeros((), jnp.int32)
  nothing = Posterior(0 * first, first, jnp.full_like(first, 1e-2), zero)
  noise = jnp.full((), _NOISE**2, dtype)
  state = _State(zero, zero, scale * first, noise, nothing)
  some = first.size // 2 if least == _ROUGH else first.size
  state = _advance(problem, state, first.size)
  going = lambda state: (state.round < rounds) & (state.still < _STILL)
  advance = lambda state: _advance(problem, state, some)
  return jax.lax.while_loop(going, advance, state).posterior


def _advance(problem, state, some):
  """Returns the state after a round that moves `some` of the entries."""
  shape, square = state.variance.shape, problem.square
  mean, left, noise = _solve_some(problem, state, some)
  misfit = square.power - 2 * square.rhs @ mean + mean @ (problem.gram @ mean)
  misfit -= problem.sums * (mean.reshape(shape).sum(1) ** 2).sum()
  told = noise * jnp.sum(1 - left)
  noise = (jnp.maximum(misfit, 0.0) + told) / jnp.maximum(square.count, 1)
  mean, left = mean.reshape(shape), left.reshape(shape)
  variance = state.variance * left
  share = jnp.maximum(1 - left, 1e-2)
  new = mean**2 + (mean**2 / share - mean**2 + variance) / 2
  new = jnp.where(left < 1, new, state.variance)  # of what has moved
  agree = _agree(mean, state.posterior.mean)
  found = _State(
    round=state.round + 1,
    still=jnp.where(agree, state.still + 1, 0),
    variance=jnp.maximum(new, _LEAST),
    noise=jnp.maximum(noise, _FLOOR**2),
    posterior=Posterior(mean, variance, share, state.round + 1),
  )
  # What cannot be solved any more ends where it was.
  ended = state._replace(still=jnp.full_like(state.still, _STILL))
  finite = jnp.isfinite(mean).all() & jnp.isfinite(left).all()
  return jax.tree.map(lambda a, b: jnp.where(finite, a, b), found, ended)


def _solve_some(problem, state, some):
  """Solves for the entries of the largest variances, the others being 0.

  Returns:
    [n] posterior means, shares of variances that are left, [] the noise.
  """
  variance, gram = state.variance.ravel(), problem.gram
  rhs, probes = problem.rhs, problem.probes
  if some < len(variance):
    _, places = jax.lax.top_k(variance, some)
    gram = gram[places[:, None], places[None]]
    part, rhs, probes = variance[places], rhs[places], probes[places]
    mean, left, noise = _solve(problem, state.noise, part, gram, rhs, probes)
    mean = jnp.zeros_like(variance).at[places].set(mean)
    return mean, jnp.ones_like(variance).at[places].set(left), noise
  return _solve(problem, state.noise, variance, gram, rhs, probes)


def _solve(problem, noise, variance, gram, rhs, probes):
  """Solves under variances, by Cholesky's factors.

  Where rounding makes the matrix indefinite it is given more noise.
  """
  root = jnp.sqrt(variance)
  inner = root[:, None] * gram * root[None]
  noise = jnp.maximum(noise, problem.least * jnp.diag(inner).max())
  both = jnp.concatenate([(root * rhs)[:, None], probes], 1)
  entries = jax.lax.iota(jnp.int32, len(root))
  diagonal = entries[:, None] == entries[None]

  def attempt(carry):
    tries, noise, _ = carry
    noise = jnp.where(tries > 0, _MORE * noise, noise)
    noisy = inner + jnp.where(diagonal, noise, 0.0)
    factor = jax.lax.linalg.cholesky(noisy, symmetrize_input=False)
    return tries + 1, noise, jax.scipy.linalg.cho_solve((factor, True), both)

  def must_retry(carry):
    tries, _, z = carry
    return (tries < _TRIES) & ~jnp.isfinite(z).all()

  start = jnp.zeros((), jnp.int32), noise, jnp.full_like(both, jnp.nan)
  _, noise, z = jax.lax.while_loop(must_retry, attempt, start)
  left = noise * jnp.mean(probes * z[:, 1:], 1)
  return root * z[:, 0], jnp.clip(left, 1e-4, 1.0), noise


def _agree(mean, other):
  """Returns whether rows of two means [B, K] agree on their least entry."""
  least = lambda a: a == a.min(1, keepdims=True)
  changed = (least(mean) != least(other)).any(1)
  return changed.sum() <= len(mean) / _FEW
