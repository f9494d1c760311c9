"""Defenses: gradient transformations on what one party is about to send.

Every constructor returns an optax transformation that acts on ONE unit's
pytree of updates: one client in horizontal FL. vmap over clients and trials.
Randomness comes from the extra argument `key=`, so every unit draws its own.
The semantics are those of the published runs (LLBG, section 6.8 and released
code): noise is never scaled by a clipping norm or by the batch size, clipping
acts on the norm over all tensors, compression on each tensor by itself.
"""

from collections.abc import Callable, Sequence
import functools
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import optax

from labelleak import base
from labelleak.base import InputError


def _require(name: str, value: Any, rule: str, holds: Callable) -> None:
  """Raises InputError unless `value` is a number and `holds(value)`."""
  number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not (number and holds(value)):
    raise InputError(f'{name}={value!r} must be {rule}.')


def _stateless(update: Callable) -> optax.GradientTransformationExtraArgs:
  """A transformation from `update(updates, key) -> updates`."""

  def apply(updates, state, params=None, *, key=None, **extra):
    del params, extra
    return update(updates, key), state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), apply
  )


def _noise(draw, scale):
  """Adds `scale * draw(key, shape, dtype)` to every entry."""

  def update(updates, key):
    if key is None:
      raise InputError('noise has key=None; pass key= to update(...).')
    leaves, treedef = jax.tree.flatten(updates)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten(
      u + scale * draw(k, u.shape, u.dtype) for k, u in zip(keys, leaves)
    )

  return _stateless(update)


def gaussian(*, stddev: float) -> optax.GradientTransformationExtraArgs:
  """Adds N(0, stddev^2) to every entry; needs `key=`.

  Raises:
    InputError: stddev is negative.
  """
  rule = 'a number of at least 0; 0 adds no noise'
  _require('gaussian: stddev', stddev, rule, lambda v: 0 <= v < float('inf'))
  return _noise(jax.random.normal, stddev)


def laplace(*, scale: float) -> optax.GradientTransformationExtraArgs:
  """Adds Laplace(0, scale), variance 2 scale^2, to every entry; needs `key=`.

  Raises:
    InputError: scale is negative.
  """
  rule = 'a number of at least 0; 0 adds no noise'
  _require('laplace: scale', scale, rule, lambda v: 0 <= v < float('inf'))
  return _noise(jax.random.laplace, scale)


def clip(*, max_norm: float) -> optax.GradientTransformationExtraArgs:
  """Scales by rho / (norm + 1e-6) where the norm over all tensors exceeds rho.

  As published: on the mean gradient of a mini-batch, not on each example.

  Raises:
    InputError: max_norm is not positive.
  """
  rule = "positive; for no clipping leave the defense out or use float('inf')"
  _require('clip: max_norm', max_norm, rule, lambda v: v > 0)

  def update(updates, key):
    del key
    norm = optax.tree.norm(updates)
    scale = jnp.where(norm > max_norm, max_norm / (norm + 1e-6), 1.0)
    return jax.tree.map(lambda u: u * scale.astype(u.dtype), updates)

  return _stateless(update)


def compress(*, drop: float) -> optax.GradientTransformationExtraArgs:
  """Zeroes the share `drop` of smallest magnitudes of each tensor.

  The threshold is the k-th smallest magnitude, k = int(numel * drop); what does
  not exceed it is zeroed, ties included. Nothing is zeroed where k = 0.

  Raises:
    InputError: drop is outside [0, 1].
  """
  rule = 'in [0, 1]; it is the share of entries set to zero'
  _require('compress: drop', drop, rule, lambda v: 0 <= v <= 1)

  def sparse(u):
    k = int(u.size * drop)
    if k == 0:
      return u
    magnitude = jnp.abs(u)
    threshold = jnp.sort(magnitude, axis=None)[k - 1]
    return jnp.where(magnitude <= threshold, jnp.zeros_like(u), u)

  return _stateless(lambda updates, key: jax.tree.map(sparse, updates))


def _with_own_key(index, tx):
  """Folds a link's place into `key`: links of a chain must not share noise."""
  tx = optax.with_extra_args_support(tx)

  def update(updates, state, params=None, *, key=None, **extra):
    if key is not None:
      key = jax.random.fold_in(key, index)
    return tx.update(updates, state, params, key=key, **extra)

  return optax.GradientTransformationExtraArgs(tx.init, update)


def build(
  specs: Sequence[dict],
) -> optax.GradientTransformationExtraArgs:
  """The chain that a config describes; the empty one is the identity.

  >>> defense = build((dict(name='clip', max_norm=.1),
  ...                  dict(name='gaussian', stddev=.01)))

  Args:
    specs: dicts with `name`, a constructor of this module or an absolute import
      path such as 'optax.clip_by_global_norm', and its hyperparameters.

  Raises:
    InputError: unknown name, or a hyperparameter that is wrong or missing.
  """
  links = []
  for index, spec in enumerate(specs):
    hyper = dict(spec)
    if 'name' not in hyper:
      raise InputError(
        f'defense {spec!r} has no name; write dict(name=..., ...), one of:'
        f' {", ".join(base.names("defenses"))}.'
      )
    make = functools.partial(base.load, 'defenses', hyper.pop('name'))
    links.append(_with_own_key(index, make(**hyper)))
  chain = optax.chain(*links) if links else optax.identity()
  return optax.with_extra_args_support(chain)
