"""Noise: independent of the gradient, or along the gradients of all labels.

Gaussian and Laplace noise have the scale of the published runs: an absolute
number, not multiplied by a clipping norm and not divided by the batch size.
"""

import jax
import jax.numpy as jnp

from labelleak.defenses import extra_args
from labelleak.defenses.defense import Defense, transform

_FINITE = 'a number of at least 0; 0 adds no noise'


def gaussian(*, stddev: float) -> Defense:
  """Adds N(0, stddev^2) to every entry; needs `key=`.

  Raises:
    InputError: stddev is negative.
  """
  extra_args.check(
    'gaussian: stddev', stddev, _FINITE, lambda v: 0 <= v < float('inf')
  )
  return _add('gaussian', jax.random.normal, stddev)


def laplace(*, scale: float) -> Defense:
  """Adds Laplace(0, scale), variance 2 scale^2, to every entry; needs `key=`.

  Raises:
    InputError: scale is negative.
  """
  extra_args.check(
    'laplace: scale', scale, _FINITE, lambda v: 0 <= v < float('inf')
  )
  return _add('laplace', jax.random.laplace, scale)


def _add(name, draw, scale):
  """Adds `scale * draw(key, shape, dtype)` to every entry of every tensor."""

  def update(updates, key=None, mask=None, **extra):
    del extra
    extra_args.need(name, key=key)
    leaves, treedef = jax.tree.flatten(updates)
    keys = jax.random.split(key, len(leaves))
    noise = treedef.unflatten(
      scale * draw(k, u.shape, u.dtype) for k, u in zip(keys, leaves)
    )
    if extra_args.is_cut(updates):
      noise = noise * extra_args.real(name, updates, mask)
    return jax.tree.map(jnp.add, updates, noise)

  return transform(extra_args.stateless(update), name, scale)


def grad_perturb(*, epsilon: float) -> Defense:
  """Adds a random mix of the gradients of all labels, sum_c u_c g^(c) a row.

  GradPerturb (TPSL) as in VFLAIR: g^(c) is the cut gradient had every label
  been c, u [B, K] are independent Laplace(0, 2 / epsilon). The noise stays in
  the span of what some label could have produced. Vertical FL; needs `key=`,
  `labels=` and `relabel=`.

  Args:
    epsilon: smaller hides more; float('inf') adds nothing.

  Raises:
    InputError: epsilon is not positive.
  """
  rule = "positive; leave the defense out or use float('inf') for no noise"
  extra_args.check('grad_perturb: epsilon', epsilon, rule, lambda v: v > 0)

  def update(cut, key=None, labels=None, mask=None, relabel=None, **extra):
    del extra
    real = extra_args.real('grad_perturb', cut, mask)
    extra_args.need('grad_perturb', key=key, labels=labels, relabel=relabel)
    each = jnp.eye(labels.shape[-1], dtype=labels.dtype)  # class by class
    cuts = jax.vmap(lambda y: relabel(jnp.broadcast_to(y, labels.shape)))(each)
    weight = jax.random.laplace(key, labels.shape, cut.dtype) * (2 / epsilon)
    return cut + jnp.einsum('bk,kbd->bd', weight, cuts) * real

  return transform(extra_args.stateless(update), 'grad_perturb', epsilon)
