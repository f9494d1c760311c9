"""Noise: independent of the gradient, or along the gradients of all labels.

Gaussian and Laplace noise have the scale of the published runs: an absolute
number, not multiplied by a clipping norm and not divided by the batch size.
"""

import jax
import jax.numpy as jnp
import optax

from labelleak import validate
from labelleak.defenses import extra_args
from labelleak.defenses.defense import Defense, transform

_NONE = '0 adds no noise'


def gaussian(*, stddev: float) -> Defense:
  """Adds N(0, stddev^2) to every entry; needs `key=`.

  Raises:
    InputError: stddev is negative or not finite.
  """
  validate.at_least('gaussian: stddev', stddev, 0, _NONE)
  return _add('gaussian', jax.random.normal, stddev)


def laplace(*, scale: float) -> Defense:
  """Adds Laplace(0, scale), variance 2 scale^2, to every entry; needs `key=`.

  Raises:
    InputError: scale is negative or not finite.
  """
  validate.at_least('laplace: scale', scale, 0, _NONE)
  return _add('laplace', jax.random.laplace, scale)


def _add(name, draw, scale):
  """Adds `scale * draw` to every entry of every tensor."""

  def update(updates, key=None, mask=None, **extra):
    del extra
    extra_args.require(name, key=key)
    noise = optax.tree.random_like(key, updates, draw)
    if extra_args.is_cut(updates):
      noise = noise * extra_args.row_mask(name, updates, mask)
    return optax.tree.add_scale(updates, scale, noise)

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
  free = "leave the defense out or use float('inf') for no noise"
  validate.positive('grad_perturb: epsilon', epsilon, free)

  def update(cut, key=None, labels=None, mask=None, relabel=None, **extra):
    del extra
    real = extra_args.row_mask('grad_perturb', cut, mask)
    extra_args.require('grad_perturb', key=key, labels=labels, relabel=relabel)
    classes = jnp.eye(labels.shape[-1], dtype=labels.dtype)
    of_class = lambda y: relabel(jnp.broadcast_to(y, labels.shape))
    cuts = jax.vmap(of_class)(classes)
    weight = jax.random.laplace(key, labels.shape, cut.dtype) * (2 / epsilon)
    return cut + jnp.einsum('bk,kbd->bd', weight, cuts) * real

  gradient = extra_args.stateless(update)
  if epsilon == float('inf'):
    return Defense(gradient=gradient, strengths=())
  return transform(gradient, 'grad_perturb', epsilon)
