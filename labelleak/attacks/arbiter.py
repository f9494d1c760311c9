"""Gradients from what an arbiter returns: its optimizer's updates, undone.

In coordinated protocols (FATE's hetero-LR) a party never sees its gradient: an
arbiter decrypts it, feeds it to an optimizer and returns the update, which the
party adds to its parameters. The optimizer is public, starts from zeros and
acts on each entry alone, so that whoever keeps all updates has gradients.

Plain and momentum SGD are linear. RMSprop and Adam divide by what they have
seen, so that a first update is the gradient's sign but for their epsilon:
|g| / (|g| + 1e-8) differs from 1 in the eighth digit. float64, in which FATE
computes, has sixteen; float32 has seven, and is refused. From Adam's second
step on two gradients can make the same update; the one nearer to the gradient
before is taken, and where that is wrong later ones are off, too.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from labelleak import registry, validate
from labelleak.base import Attack, InputError

_NAME = 'arbiter.undo'
# update over -lr -> the gradient, and the new moments, of one entry's
_Invert = Callable[[chex.Array, 'Moments'], tuple[chex.Array, 'Moments']]


class Moments(NamedTuple):
  """What an optimizer keeps of each entry.

  Attributes:
    first: mean or sum of the gradients.
    second: mean of their squares.
    count: [] updates so far.
    last: the last gradient.
  """

  first: chex.ArrayTree
  second: chex.ArrayTree
  count: chex.Array
  last: chex.ArrayTree


class Memory(NamedTuple):
  """What `undo` keeps: the optimizer's moments, and the attack's own memory."""

  moments: Any
  memory: Any


def undo(attack: Attack, optimizer: Mapping[str, Any]) -> Attack:
  """Builds an attack on gradients of one that is shown updates.

  Args:
    attack: whose views must have `param_grads`.
    optimizer: the arbiter's, as in a config: its name, `lr`, `weight_decay` and
      hyperparameters; from its first step on, for it keeps what it has seen.

  Raises:
    InputError: an optimizer that cannot be undone. (observe) Updates in
      float32 of one that divides by what it has seen.
  """
  options = dict(optimizer)
  name, lr = options.pop('name'), options.pop('lr')
  decay = options.pop('weight_decay', 0.0)
  validate.one_of('arbiter: optimizer', name, _INVERSES)
  if not isinstance(lr, float | int):
    raise InputError(
      f'arbiter: optimizer.lr={lr!r} must be a number for its updates to be'
      ' undone; leave out decay.'
    )
  registry.check_arguments(f'arbiter: {name}', _INVERSES[name], options)
  invert = _INVERSES[name](**options)

  def init(known):
    return Memory(None, attack.init(known))

  def observe(memory, view):
    if view.updates is None:
      raise InputError(
        f'{_NAME} reads view.updates, and this party sees its gradient; use'
        ' the attack as it is.'
      )
    if name in _DIVIDING:
      _check_precision(name, view.updates)
    moments = memory.moments or _start(view.updates)
    params = view.variables['params']
    scaled = jax.tree.map(lambda u: -u / lr, view.updates)
    grads, moments = _invert_all(invert, scaled, moments)
    grads = jax.tree.map(lambda g, w: g - decay * w, grads, params)
    view = view._replace(param_grads=grads)
    return Memory(moments, attack.observe(memory.memory, view))

  def infer(key, memory, known):
    return attack.infer(key, memory.memory, known)

  return attack._replace(infer=infer, observe=observe, init=init)


def _start(updates):
  zeros = jax.tree.map(jnp.zeros_like, updates)
  return Moments(zeros, zeros, jnp.zeros((), jnp.int32), zeros)


def _invert_all(invert, scaled, moments):
  """Returns the gradients of all leaves, and their moments after."""
  leaves, tree = jax.tree.flatten(scaled)
  parts = (jax.tree.leaves(m) for m in (moments.first, moments.second))
  lasts = jax.tree.leaves(moments.last)
  count = moments.count + 1
  done = [
    invert(r, Moments(m, v, count, last))
    for r, m, v, last in zip(leaves, *parts, lasts)
  ]
  grads, firsts, seconds = (tree.unflatten(column) for column in zip(*done))
  return grads, Moments(firsts, seconds, count, grads)


def _check_precision(name, updates):
  if any(leaf.dtype != jnp.float64 for leaf in jax.tree.leaves(updates)):
    raise InputError(
      f'the size of a gradient is in the last digits of the update that {name}'
      ' makes of it, and float32 has lost them; train in float64.'
    )


def _sgd(*, momentum: float = 0.0, nesterov: bool = False):
  """Inverts optax.sgd: g + momentum * trace."""

  def invert(r, moments):
    trace = momentum * moments.first
    if nesterov and momentum:
      g = (r - momentum * trace) / (1 + momentum)
    else:
      g = r - trace
    return g, g + trace, moments.second

  return invert


def _rmsprop(
  *, decay: float = 0.9, eps: float = 1e-8, eps_in_sqrt: bool = True
):
  """Inverts optax.rmsprop, s = decay v + (1 - decay) g^2.

  That is g / sqrt(s + eps), or g / (sqrt(s) + eps) as in FATE.
  """

  def invert(r, moments):
    old = decay * moments.second
    left = jnp.maximum(1 - (1 - decay) * r**2, jnp.finfo(r.dtype).tiny)
    if eps_in_sqrt:  # r^2 (old + eps) = g^2 left
      g = r * jnp.sqrt((old + eps) / left)
    else:  # (|g| - |r| eps)^2 = r^2 (old + (1 - decay) g^2)
      g = r * (eps + jnp.sqrt(eps**2 * (1 - left) + left * old)) / left
    return g, moments.first, old + (1 - decay) * g**2

  return invert


def _adam(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8):
  """Inverts optax.adam: mean / (sqrt(mean square) + eps), both corrected.

  a + b g = r (sqrt(c + d g^2) + eps) is quadratic in g. Where both roots fit,
  the one nearer to the last gradient is taken.
  """

  def invert(r, moments):
    count = moments.count.astype(r.dtype)
    first, second = 1 - b1**count, 1 - b2**count
    a = b1 * moments.first / first - r * eps
    b, c = (1 - b1) / first, b2 * moments.second / second
    d = (1 - b2) / second
    # (b^2 - r^2 d) g^2 + 2 a b g + a^2 - r^2 c = 0
    square = (b - jnp.abs(r) * jnp.sqrt(d)) * (b + jnp.abs(r) * jnp.sqrt(d))
    rest = (a - jnp.abs(r) * jnp.sqrt(c)) * (a + jnp.abs(r) * jnp.sqrt(c))
    root = jnp.sqrt(jnp.maximum((a * b) ** 2 - square * rest, 0.0))
    total = -(a * b + jnp.where(a * b >= 0, root, -root))
    safe = lambda x: jnp.where(x == 0, jnp.finfo(r.dtype).tiny, x)
    roots = total / safe(square), rest / safe(total)
    misfit = lambda g: jnp.abs(a + b * g - r * jnp.sqrt(c + d * g**2))
    size = lambda g: jnp.abs(a) + jnp.abs(b * g) + jnp.finfo(r.dtype).tiny
    far = [
      jnp.where(misfit(g) < 1e-4 * size(g), jnp.abs(g - moments.last), jnp.inf)
      for g in roots
    ]
    g = jnp.where(far[0] <= far[1], *roots)
    g = jnp.where(r == 0, -b1 * moments.first / (1 - b1), g)
    m = b1 * moments.first + (1 - b1) * g
    v = b2 * moments.second + (1 - b2) * g**2
    return g, m, v

  return invert


_INVERSES: Mapping[str, Callable[..., _Invert]] = dict(
  sgd=_sgd, rmsprop=_rmsprop, adam=_adam
)
_DIVIDING = 'rmsprop', 'adam'
