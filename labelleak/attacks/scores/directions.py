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
  key: chex.PRNGKey, vectors: chex.Array, num_groups: int
) -> chex.Array:
  """Groups vectors by direction: spherical k-means of several starts.

  Args:
    key: of the starts, which are drawn far from each other (k-means++).
    vectors: [N, D].
    num_groups: how many; their numbers mean nothing.

  Returns:
    [N] the group of each vector.
  """
  unit = readout.normalise(vectors)

  def run(key):
    means = _start(key, unit, num_groups)
    means = jax.lax.fori_loop(0, _ROUNDS, lambda _, m: _move(unit, m), means)
    cosines = unit @ means.T
    return cosines.argmax(-1), cosines.max(-1).sum()

  groups, fits = jax.lax.map(run, jax.random.split(key, _RESTARTS))
  return groups[fits.argmax()]


def _start(key, unit, num_groups):
  """Draws first means [G, D], each among vectors far from those before."""

  def draw(far, key):
    place = jax.random.categorical(key, jnp.log(far + 1e-9))
    mean = unit[place]
    return jnp.minimum(far, 1.0 - unit @ mean), mean

  far = jnp.full(len(unit), 2.0, unit.dtype)
  return jax.lax.scan(draw, far, jax.random.split(key, num_groups))[1]


def _move(unit, means):
  """Returns the mean direction of each group; one without members stays."""
  near = jax.nn.one_hot((unit @ means.T).argmax(-1), len(means))
  sums = near.T @ unit
  return jnp.where(near.any(0)[:, None], readout.normalise(sums), means)
