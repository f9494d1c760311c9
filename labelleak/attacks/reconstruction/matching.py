"""Distances of a guessed batch: its update against the observed one.

An update has the sign of a gradient, as `hfl` sends it: (server - local) / lr
in FedAVG, whose local steps are replayed on the guess.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import hfl
from labelleak.attacks.reconstruction import factored
from labelleak.base import Batch
from labelleak.hfl import Known

_TV_EPS = 1e-8

# (x [B, ...], y [B, K]) -> [], of their update and the view's
Distance = Callable[[chex.Array, chex.Array], chex.Array]


def cosine_distance(
  key: chex.PRNGKey, view: hfl.View, known: Known
) -> Distance:
  """Returns the distance 1 - cos of updates.

  One gradient of a dense model is compared by its factors (`factored`); with
  `known.defense` granted as () the observed one has factors, too. Otherwise the
  update is formed, and differentiated again with its forward pass recomputed,
  so that no more than one step's activations are held.
  """
  sketch_key, key = jax.random.split(key)
  size = optax.tree.norm(view.grads)
  update = _update(key, view, known)
  observed = _factor(sketch_key, view, known)

  def by_factors(x, y):
    batch = _batch(x, y)
    factors = factored.gradient(known.model.apply, view.variables, batch)
    norm = jnp.sqrt(factored.squared_norm(factors, observed))
    return 1 - factored.inner(factors, observed) / (norm * size)

  def by_update(x, y):
    u = update(x, y)
    cosine = optax.tree.vdot(u, view.grads) / (optax.tree.norm(u) * size)
    return 1 - cosine

  return by_update if observed is None else by_factors


def squared_distance(
  key: chex.PRNGKey, view: hfl.View, known: Known
) -> Distance:
  """Returns the distance |u - g|^2 of updates."""
  update = _update(key, view, known)

  def distance(x, y):
    off = optax.tree.sub(update(x, y), view.grads)
    return optax.tree.norm(off, squared=True)

  return distance


def total_variation(x: chex.Array) -> chex.Array:
  """Returns the mean of |dx| + |dy| over images [B, H, W, C], [].

  As released: the last row and column are compared with 0, the mean pixel.
  """
  chex.assert_rank(x, 4)
  padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
  down, right = padded[:, 1:, :-1] - x, padded[:, :-1, 1:] - x
  return (jnp.abs(down) + jnp.abs(right) + 2 * _TV_EPS).mean()


def _update(key, view, known):
  """Returns (x [B, ...], y [B, K]) -> what their client would send."""
  loss_fn = hfl.cross_entropy(jax.checkpoint(known.model.apply))
  client = hfl.fedsgd(loss_fn)
  if known.steps > 1:
    client = hfl.fedavg(loss_fn, lr=known.lr, steps=known.steps)
  return lambda x, y: client(key, view.variables, _batch(x, y))


def _factor(key, view, known):
  """Returns the observed gradient by layer; None if guesses lack factors."""
  if known.steps > 1:
    return None
  shape = (known.num_examples, *known.model.shape)
  factors = jax.eval_shape(
    lambda x, y: factored.gradient(
      known.model.apply, view.variables, _batch(x, y)
    ),
    jnp.zeros(shape),
    jnp.zeros((shape[0], known.num_classes)),
  )
  if factors is None:
    return None
  observed = factored.by_layer(view.grads)
  if known.defense != ():
    return observed  # noise, or what may be, has full rank
  rank = max(f.cut.shape[0] for f in factors.values())
  return factored.thin(key, observed, rank)


def _batch(x, y):
  rows = len(x)
  return Batch((x,), y, jnp.arange(rows), jnp.ones(rows))
