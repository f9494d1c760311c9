"""What a guessed batch is judged by: its update against the observed one.

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


def cosine_distance(
  key: chex.PRNGKey, view: hfl.View, known: Known
) -> Callable[[chex.Array, chex.Array], chex.Array]:
  """(x [B, ...], y [B, K]) -> 1 - cos of their update and the view's, [].

  One gradient of a dense model is compared by its factors (`factored`); with
  `known.defense` granted as () the observed one has factors, too. Otherwise the
  update is formed, and differentiated again with its forward pass recomputed,
  so that no more than one step's activations are held.
  """
  sketch_key, key = jax.random.split(key)
  size = optax.tree.norm(view.grads)
  update = _update(key, view, known)
  observed = _factored(sketch_key, view, known)

  def by_factors(x, y):
    batch = _batch(x, y)
    own = factored.gradient(known.model.apply, view.variables, batch)
    norm = jnp.sqrt(factored.squared_norm(own, observed))
    return 1 - factored.inner(own, observed) / (norm * size)

  def formed(x, y):
    own = update(x, y)
    cosine = optax.tree.vdot(own, view.grads) / (optax.tree.norm(own) * size)
    return 1 - cosine

  return formed if observed is None else by_factors


def squared_distance(
  key: chex.PRNGKey, view: hfl.View, known: Known
) -> Callable[[chex.Array, chex.Array], chex.Array]:
  """(x [B, ...], y [B, K]) -> |u - g|^2 of their update and the view's, []."""
  update = _update(key, view, known)

  def distance(x, y):
    off = optax.tree.sub(update(x, y), view.grads)
    return optax.tree.norm(off, squared=True)

  return distance


def total_variation(x: chex.Array) -> chex.Array:
  """Mean of |dx| + |dy| over images [B, H, W, C], [].

  As released: the last row and column are compared with 0, the mean pixel.
  """
  chex.assert_rank(x, 4)
  padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
  down, right = padded[:, 1:, :-1] - x, padded[:, :-1, 1:] - x
  return (jnp.abs(down) + jnp.abs(right) + 2 * _TV_EPS).mean()


def _update(key, view, known):
  """(x [B, ...], y [B, K]) -> what a client with these examples would send."""
  loss_fn = hfl.cross_entropy(jax.checkpoint(known.model.apply))
  client = hfl.fedsgd(loss_fn)
  if known.steps > 1:
    client = hfl.fedavg(loss_fn, lr=known.lr, steps=known.steps)
  return lambda x, y: client(key, view.variables, _batch(x, y))


def _factored(key, view, known):
  """The observed gradient by layer; None if guesses have no factors."""
  if known.steps > 1:
    return None
  shape = (known.num_examples, *known.model.shape)
  own = jax.eval_shape(
    lambda x, y: factored.gradient(
      known.model.apply, view.variables, _batch(x, y)
    ),
    jnp.zeros(shape),
    jnp.zeros((shape[0], known.num_classes)),
  )
  if own is None:
    return None
  observed = factored.layered(view.grads)
  if known.defense != ():
    return observed  # noise, or what may be, has full rank
  return factored.thin(key, observed, max(f.cut.shape[0] for f in own.values()))


def _batch(x, y):
  rows = len(x)
  return Batch((x,), y, jnp.arange(rows), jnp.ones(rows))
