"""The integral over what no grant tells: scale, noise floor, confidence.

Nodes of a grid are weighted by their evidence. The scale gets two grids, a wide
one and a closer look at its peak.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from labelleak.attacks.counts.posterior import Posterior
from labelleak.hfl import Known

_DOUBT = 0.4  # relative, of the unconfidence that auxiliary examples show


# (scale, floor, doubt, off, blur), all [] -> the counts' posterior at a node:
# what clipping left of the update; noise that the model of the softmax does not
# know; true unconfidence over that of auxiliary examples; relative error of the
# mean softmax, and of the scale, by the distance of two nodes
Evaluate = Callable[..., Posterior]


def log_prior(doubt: chex.Array) -> chex.Array:
  """Returns the log prior of a doubt [], up to a constant."""
  return -0.5 * (jnp.log(doubt) / _DOUBT) ** 2


def integrate(
  evaluate: Evaluate,
  beta: chex.Array,
  known: Known,
  *,
  unit: float,
  clipped: bool,
  error: float,
) -> chex.Array:
  """Mixes `evaluate` over the grid, [K, N + 1].

  Args:
    evaluate: of one node.
    beta: [K] bias update.
    known: says by `defense` what must be searched.
    unit: the least weight of an example.
    clipped: whether steps are clipped, as granted.
    error: relative, that the mean softmax may have; 0: none.
  """
  top = jnp.asarray(0.5 * unit)
  if known.defense is None:
    top = jnp.maximum(top, jnp.abs(beta).max() / 4)

  # Auxiliary examples tell each class's confidence; all may be off together.
  doubt = jnp.ones(1)
  if known.labelled:
    doubt = jnp.exp(_DOUBT * jnp.linspace(-2.0, 2.0, 9))

  off = jnp.array([0.0, error] if error else [0.0])

  def mix(scales, num_floors, blur=0.0, prior=0.0):
    floors = jnp.geomspace(0.004 * unit, top, num_floors)
    nodes = [a.ravel() for a in jnp.meshgrid(floors, doubt, off)]
    beliefs = jax.lax.map(
      lambda c: jax.vmap(lambda *node: evaluate(c, *node, blur))(*nodes),
      scales,
    )
    evidence = beliefs.evidence + jnp.broadcast_to(prior, scales.shape)[:, None]
    weight = jax.nn.softmax(evidence.ravel())
    weight = weight.reshape(beliefs.evidence.shape)
    return jnp.einsum('cf,cfkn->kn', weight, beliefs.probs), weight.sum(1)

  if known.defense is not None and not clipped:
    return mix(jnp.ones(1), 8)[0]
  # The negative entries sum to at most c * S, and miss little of it.
  least = jnp.maximum(-jnp.minimum(beta, 0.0).sum() / known.steps, 1e-12)
  low, high = least, 3 * least
  if clipped:  # noise is in that sum, too: the scale may be far less
    low = jnp.minimum(least, 0.02)
    high = jnp.where(least > 1.0, high, 1.0)  # no clip explains more than 1
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
  possible = near <= jnp.where(clipped, high, jnp.inf)
  return mix(
    jnp.append(near, 1.0),
    8 if known.defense is None else 4,
    prior=jnp.append(jnp.where(possible, jnp.log(share), -jnp.inf), 0.0),
  )[0]
