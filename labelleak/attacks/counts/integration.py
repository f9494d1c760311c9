"""The integral over what no grant tells: scale, noise floor, confidence.

Nodes of a grid are weighted by their evidence. The scale gets two grids, a wide
one and a closer look at its peak; both run in one loop, which compiles once.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from labelleak.attacks.counts.posterior import Posterior, mean_counts
from labelleak.hfl import Known

_CLOSE = 25  # scales about the peak
_PASSES = 3  # where the counts say what to expect of them
_DOUBT = 0.4  # relative, of the unconfidence that auxiliary examples show


# (scale, floor, doubt, off, blur), all [] -> the counts' posterior at a node:
# what clipping left of the update; noise that the model of the softmax does not
# know; true unconfidence over that of auxiliary examples; relative error of the
# mean softmax, and of the scale, by the distance of two nodes
Evaluate = Callable[..., Posterior]


def log_prior(doubt: chex.Array) -> chex.Array:
  """Returns the log prior of a doubt [], up to a constant."""
  return -0.5 * (jnp.log(doubt) / _DOUBT) ** 2


def mix(*beliefs: Posterior) -> Posterior:
  """Returns the mean of posteriors by their evidence, all alike.

  Args:
    beliefs: of [..., K, N + 1] each, of one shape.
  """
  nodes = jax.tree.map(lambda *a: jnp.stack(a), *beliefs)
  weight = jax.nn.softmax(nodes.evidence.ravel())
  probs = nodes.probs.reshape(len(weight), *nodes.probs.shape[-2:])
  return Posterior(
    jnp.einsum('g,gkn->kn', weight, probs),
    jax.nn.logsumexp(nodes.evidence.ravel()) - jnp.log(nodes.evidence.size),
  )


class Peak(NamedTuple):
  """Where the scale lies in log, [] each."""

  mean: chex.Array
  sd: chex.Array


class Grid(NamedTuple):
  """Scales to look at."""

  scales: chex.Array  # [G]
  prior: chex.Array  # [G] in log
  blur: chex.Array  # []


def integrate(
  look: Callable[[chex.Array], Evaluate],
  start: chex.Array,
  beta: chex.Array,
  known: Known,
  *,
  unit: float,
  mass: chex.Array | float,
  clipped: bool,
  noisy: bool,
  error: float,
  alternates: bool,
) -> Posterior:
  """Mixes what is evaluated over the grid.

  Passes follow each other. Each expects the counts that the last one found, and
  the final one looks closely where the scale lies.

  Args:
    look: at the update, given expected counts [K].
    start: [K] counts that are expected first.
    beta: [K] bias update.
    known: says by `defense` what must be searched.
    unit: the least weight of an example.
    mass: of all examples, which the negative entries sum to at most.
    clipped: whether steps are clipped, as granted.
    noisy: whether granted noise may be a part of the negative entries.
    error: relative, that the mean softmax may have; 0: none.
    alternates: whether what is expected matters.
  """
  searches = known.defense is None or clipped
  passes = _PASSES if alternates else 1 + searches
  nodes = _nodes(beta, known, unit, error, 6 if searches else 8)
  low, high = _bound_scale(beta, mass, clipped, noisy)

  def sweep(state, i):
    counts, peak = state
    evaluate = look(counts)
    grid = Grid(jnp.ones(1), jnp.zeros(1), jnp.zeros(()))
    if searches:
      last = functools.partial(jnp.where, i == passes - 1)
      near, wide = _near(peak, low, high, clipped), _wide(low, high)
      grid = jax.tree.map(last, near, wide)

    def at_scale(scale):
      at = lambda *node: evaluate(scale, *node, grid.blur)
      return mix(jax.vmap(at)(*nodes))

    found = jax.lax.map(at_scale, grid.scales)
    found = found._replace(evidence=found.evidence + grid.prior)
    share, logs = jax.nn.softmax(found.evidence), jnp.log(grid.scales)
    mean = share @ logs
    peak = Peak(mean, jnp.sqrt(share @ (logs - mean) ** 2))
    beliefs = mix(found)
    return (mean_counts(beliefs.probs), peak), beliefs

  state = start, Peak(jnp.zeros(()), jnp.zeros(()))
  if passes == 1:
    return sweep(state, 0)[1]
  _, beliefs = jax.lax.scan(sweep, state, jnp.arange(passes))
  return jax.tree.map(lambda each: each[-1], beliefs)


def _nodes(beta, known, unit, error, num_floors):
  """Returns floors, doubts and errors of the softmax, [G] each."""
  top = jnp.asarray(0.5 * unit)
  if known.defense is None:
    top = jnp.maximum(top, jnp.abs(beta).max() / 4)
  floors = jnp.geomspace(0.004 * unit, top, num_floors)
  # Auxiliary examples tell each class's confidence; all may be off together.
  doubt = jnp.ones(1)
  if known.labelled:
    doubt = jnp.exp(_DOUBT * jnp.linspace(-2.0, 2.0, 9))
  off = jnp.array([0.0, error] if error else [0.0])
  return [a.ravel() for a in jnp.meshgrid(floors, doubt, off)]


def _wide(low, high):
  """Returns a grid of all scales that are possible."""
  num = _CLOSE + 1
  gap = jnp.log(high / low) / (num - 1)
  return Grid(jnp.geomspace(low, high, num), jnp.zeros(num), gap / 2)


def _near(peak, low, high, clipped):
  """Returns a grid about the peak, of its own width, and of exactly 1."""
  width = jnp.log(high / low)
  reach = jnp.maximum(2.5 * peak.sd, width / _CLOSE)
  near = jnp.exp(peak.mean + reach * jnp.linspace(-1.0, 1.0, _CLOSE))
  # Half of the prior is a scale of exactly 1, an update that nothing touched;
  # the rest is log-uniform between low and high.
  share = 2 * reach / (_CLOSE - 1) / width
  possible = near <= (high if clipped else jnp.inf)
  logs = jnp.where(possible, jnp.log(share), -jnp.inf)
  prior = jnp.append(logs, 0.0) + jnp.log(_CLOSE / 2)  # a mean of 1
  return Grid(jnp.append(near, 1.0), prior, jnp.zeros(()))


def _bound_scale(beta, mass, clipped, noisy):
  """Returns the least scale that is possible, and the largest."""
  # The negative entries sum to at most c * mass, and miss little of it.
  least = jnp.maximum(-jnp.minimum(beta, 0.0).sum() / mass, 1e-12)
  low, high = least, 3 * least
  if clipped:  # no clip explains more than 1
    high = jnp.where(least > 1.0, high, 1.0)
  if clipped and noisy:  # noise is in that sum, too: the scale may be far less
    low = jnp.minimum(least, 0.02)
  if clipped and not noisy:
    high = jnp.clip(high, 1.01 * least, 3 * least)
  return low, high
