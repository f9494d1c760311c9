"""Labels from the directions of cut gradients, whatever their width.

A row's cut gradient is J^T (s - y) with J the Jacobian of what lies above the
cut, so rows of one class point one way (Liu et al., "Similarity-based Label
Inference Attack against Training and Inference of Split Learning", IEEE TIFS
2024). `similarity` names directions by labelled rows; `cluster` tells them
apart without names.
"""

import chex
import jax
import jax.numpy as jnp

from labelleak.attacks.scores import readout
from labelleak.base import Attack, attack

_NAME = 'scores.similarity'
_RESTARTS, _ROUNDS = 8, 30


def similarity() -> Attack:
  """Builds the attack that calls a row what the nearest direction is called.

  Scores are cosines with the mean direction of the labelled rows of each class,
  -1 of a class without any. The threat model grants examples, `known.labelled`,
  which the attacker finds among the rows of its own `view.x`; those are scored
  with the others.

  Raises:
    InputError: at trace time: a sealed view.
  """

  def infer(key, view, known):
    unit = readout.normalise(readout.cut_gradient(_NAME, view))
    x, y = known.labelled
    # [K, B] rows of each class among those granted
    rows = y.T @ readout.match_rows(view.x, x).T.astype(float)
    means = readout.normalise(rows @ unit)
    cosines = unit @ means.T
    return jnp.where(rows.any(-1)[None], cosines, -1.0)

  return attack(infer, name=_NAME, kind='vertical', needs=('labelled',))


def cluster(
  key: chex.PRNGKey,
  vectors: chex.Array,
  num_groups: int,
  *,
  restarts: int = _RESTARTS,
) -> chex.Array:
  """Groups vectors by direction: spherical k-means of several starts.

  Args:
    key: of the starts, which are drawn far from each other (k-means++).
    vectors: [N, D].
    num_groups: how many; their numbers mean nothing.
    restarts: of which the tightest groups are returned.

  Returns:
    [N] the group of each vector.
  """
  unit = readout.normalise(vectors)
  return _cluster(key, unit, num_groups, readout.normalise, restarts)


def cluster_points(
  key: chex.PRNGKey, points: chex.Array, num_groups: int
) -> chex.Array:
  """Groups points [N, F] as `cluster`, by distance in standardised columns."""
  std = points.std(0, keepdims=True)
  points = points - points.mean(0, keepdims=True)
  points = points / jnp.where(std > 0, std, 1.0)
  return _cluster(key, points, num_groups, lambda mean: mean, _RESTARTS)


def _cluster(key, points, num_groups, place, restarts):
  """Returns the best of several runs; `place` puts means where they belong."""

  def run(key):
    means = _start(key, points, num_groups)
    means = jax.lax.fori_loop(
      0, _ROUNDS, lambda _, m: _move(points, m, place), means
    )
    far = _square(points, means)
    return far.argmin(-1), far.min(-1).sum()

  groups, misfits = jax.lax.map(run, jax.random.split(key, restarts))
  return groups[misfits.argmin()]


def _square(points, means):
  """Returns squared distances [N, G]."""
  squares = (points**2).sum(-1)[:, None] + (means**2).sum(-1)[None]
  return jnp.maximum(squares - 2 * points @ means.T, 0.0)


def _start(key, points, num_groups):
  """Draws first means [G, F], each among points far from those before."""

  def draw(far, key):
    place = jax.random.categorical(key, jnp.log(far + 1e-9))
    mean = points[place]
    return jnp.minimum(far, _square(points, mean[None])[:, 0]), mean

  far = jnp.full(len(points), 1e30, points.dtype)
  return jax.lax.scan(draw, far, jax.random.split(key, num_groups))[1]


def _move(points, means, place):
  """Returns the mean of each group; one without members stays."""
  nearest = _square(points, means).argmin(-1)
  near = jax.nn.one_hot(nearest, len(means), dtype=points.dtype)
  sizes = near.sum(0)[:, None]
  new = place(near.T @ points / jnp.maximum(sizes, 1.0))
  return jnp.where(sizes > 0, new, means)
