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

from typing import Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import validate, vfl
from labelleak.attacks.linear import equations, matrix
from labelleak.attacks.linear.rounds import EXACT, ROUGH, Posterior, iterate
from labelleak.base import Attack, InputError, attack

_NAME = 'linear.sparse_bayesian'
_PROBES = 64
_WIDTH = 3.0  # deviation of the own logits' slope and offsets
_FITS, _RATE = 300, 0.05  # steps of Adam to them


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
  view, known = equations.read_logits(_NAME, view, known)
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
        return iterate(square, first, probes, rounds, ROUGH)
    with jax.enable_x64(True):
      square = matrix.square(view, known, jnp.float64)
      found = iterate(square, first, probes, rounds, EXACT)
      found = jax.tree.map(lambda a: a.astype(first.dtype), found)
    return found._replace(rounds=found.rounds.astype(jnp.int32))

  return solve(view, first, probes, jnp.asarray(rounds))
