"""The integral over what no grant tells: scale, noise floor, confidence.

Nodes of a grid are weighted by their evidence. The scale gets two grids, a wide
one and a closer look at its peak.
"""

from collections.abc import Callable
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from labelleak.attacks.counts.posterior import Posterior
from labelleak.hfl import Known

_WIDE = 24  # scales of the wide grid
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


class Scales(NamedTuple):
  """Where the scale lies in log, [] each: from a survey of a wide grid."""

  mean: chex.Array
  reach: chex.Array  # either side of it
  width: chex.Array  # of the wide grid


def integrate(
  evaluate: Evaluate,
  beta: chex.Array,
  known: Known,
  *,
  unit: float,
  mass: chex.Array | float,
  clipped: bool,
  noisy: bool,
  error: float,
  scales: Optional[Scales] = None,
  survey: bool = False,
) -> tuple[Posterior, Optional[Scales]]:
  """Mixes `evaluate` over the grid; returns where the scale lies, too.

  Args:
    evaluate: of one node.
    beta: [K] bias update.
    known: says by `defense` what must be searched.
    unit: the least weight of an example.
    mass: of all examples, which the negative entries sum to at most.
    clipped: whether steps are clipped, as granted.
    noisy: whether granted noise may be a part of the negative entries.
    error: relative, that the mean softmax may have; 0: none.
    scales: of a survey; None: it is made first.
    survey: whether to stop after the survey.
  """
  top = jnp.asarray(0.5 * unit)
  if known.defense is None:
    top = jnp.maximum(top, jnp.abs(beta).max() / 4)

  # Auxiliary examples tell each class's confidence; all may be off together.
  doubt = jnp.ones(1)
  if known.labelled:
    doubt = jnp.exp(_DOUBT * jnp.linspace(-2.0, 2.0, 9))

  off = jnp.array([0.0, error] if error else [0.0])

  def sweep(scales, num_floors, blur=0.0, prior=0.0):
    floors = jnp.geomspace(0.004 * unit, top, num_floors)
    nodes = [a.ravel() for a in jnp.meshgrid(floors, doubt, off)]
    beliefs = jax.lax.map(
      lambda c: jax.vmap(lambda *node: evaluate(c, *node, blur))(*nodes),
      scales,
    )
    prior = jnp.broadcast_to(prior, scales.shape)[:, None]
    return beliefs._replace(evidence=beliefs.evidence + prior)

  if known.defense is not None and not clipped:
    return mix(sweep(jnp.ones(1), 8)), None
  low, high = _bound_scale(beta, mass, clipped, noisy)
  if scales is None:
    grid = jnp.geomspace(low, high, _WIDE)
    gap = jnp.log(high / low) / (_WIDE - 1)
    wide = sweep(grid, 4, blur=gap / 2)
    weight = jax.nn.softmax(wide.evidence.ravel()).reshape(_WIDE, -1).sum(1)
    mean = weight @ jnp.log(grid)
    sd = jnp.sqrt(weight @ (jnp.log(grid) - mean) ** 2)
    scales = Scales(mean, jnp.maximum(2.5 * sd, gap), jnp.log(high / low))
    if survey:
      return mix(wide), scales
  steps = jnp.linspace(-1.0, 1.0, 25)
  near = jnp.exp(scales.mean + scales.reach * steps)
  # Half of the prior is a scale of exactly 1, an update that nothing touched;
  # the rest is log-uniform between low and high.
  share = 2 * scales.reach / 24 / scales.width
  possible = near <= jnp.where(clipped, high, jnp.inf)
  logs = jnp.where(possible, jnp.log(share), -jnp.inf)
  prior = jnp.append(logs, 0.0) + jnp.log(len(near) / 2)  # a mean of 1
  num_floors = 8 if known.defense is None else 4
  beliefs = sweep(jnp.append(near, 1.0), num_floors, prior=prior)
  return mix(beliefs), scales


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
