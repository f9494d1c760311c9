"""MARVELL: the noise that makes two classes' cut gradients most alike.

Li et al., "Label leakage and protection in two-party split learning" (2021).
Of a class c the gradients are taken to be normal around their mean, with
variance v_c in each of D directions; Delta is the difference of the means. The
noise of class c has the variance `along` Delta and `across` it. For a power P
it minimises the symmetric Kullback-Leibler divergence of what is sent,

  sumKL = 1/2 {(D - 1) (a - b)^2 / (a b) + (A - B)^2 / (A B)
               + |Delta|^2 (1 / A + 1 / B)},

A, B the variances along Delta of the two classes, a, b those across, noise
included. That is the paper's objective / 2 - D, without its cancellation.
"""

from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from labelleak import validate
from labelleak.base import InputError
from labelleak.defenses import extra_args
from labelleak.defenses.defense import Defense, transform

_POINTS = 65  # of a search grid; each round narrows it 32 times
_ROUNDS = 6


class Moments(NamedTuple):
  """Second moments of the cut gradients of classes 0 and 1."""

  share: chex.Array  # of the rows, [2]
  along: chex.Array  # variance along Delta, [2]
  across: chex.Array  # mean variance of the other D - 1 directions, [2]
  gap: chex.Array  # |Delta|^2, []
  width: int  # D


class Noise(NamedTuple):
  """Variances of the noise, by class; along >= across >= 0."""

  along: chex.Array  # along Delta, [2]
  across: chex.Array  # in each of the other D - 1 directions, [2]


def marvell(*, s: float, isotropic: bool = True) -> Defense:
  """Adds the noise of least sumKL with a power of s |Delta|^2, batch by batch.

  The power is the mean over rows of E |noise|^2. Two classes; needs `key=` and
  `labels=` [B, 2]. A batch of one class, or whose classes have the same mean,
  has no Delta: its power is 0 and it is sent as it is.

  Args:
    s: at least 0; how much more power than the square of Delta.
    isotropic: as published, the variance is taken to be the same in all D
      directions. It is not where rows lie on one line, as behind a sum of
      logits: noise across that line, given to one class only, tells the
      classes apart. False measures the variance along and across Delta.

  Raises:
    InputError: s is negative. At trace time: labels of more than two classes.
  """
  validate.at_least('marvell: s', s, 0, '0 adds no noise')

  def update(cut, key=None, labels=None, mask=None, **extra):
    del extra
    real = extra_args.row_mask('marvell', cut, mask)
    extra_args.require('marvell', key=key, labels=labels)
    size = jnp.abs(cut).max()
    size = jnp.where(size > 0, size, 1.0)  # whose square might underflow
    delta, moments = measure(cut / size, labels, mask, isotropic=isotropic)
    noise = solve(moments, s * moments.gap)
    sample = _draw(key, noise, _direction(delta), labels.argmax(-1))
    return cut + sample * size * real

  return transform(extra_args.stateless(update), 'marvell', s)


def _draw(key, noise, direction, label):
  """Draws [B, D] of each row's class: on the line of Delta, and everywhere."""
  line_key, key = jax.random.split(key)
  shape = *label.shape, *direction.shape
  line = jax.random.normal(line_key, (*label.shape, 1), direction.dtype)
  everywhere = jax.random.normal(key, shape, direction.dtype)
  along = jnp.sqrt(jnp.maximum(noise.along - noise.across, 0.0))
  across = jnp.sqrt(noise.across)
  on_line = along[label, None] * line * direction[None]
  return on_line + across[label, None] * everywhere


def _direction(delta):
  """Scales Delta [D] to a unit vector; zeros stay zeros."""
  norm = jnp.linalg.norm(delta)
  return delta / jnp.where(norm > 0, norm, 1.0)


def measure(
  cut: chex.Array,
  labels: chex.Array,
  mask: Optional[chex.Array] = None,
  *,
  isotropic: bool = True,
) -> tuple[chex.Array, Moments]:
  """Measures Delta [D] and the moments of a cut gradient [B, D].

  Delta is 0 where one of the two classes of the labels [B, 2] is missing. For
  `isotropic` see `marvell`; rows whose mask [B] is 0 do not count.

  Raises:
    InputError: labels of more than two classes.
  """
  if labels is None or labels.ndim != 2 or labels.shape[-1] != 2:
    raise InputError(
      f'marvell tells two classes apart; labels of shape'
      f' {jnp.shape(labels)} must be [B, 2].'
    )
  real = extra_args.row_mask('marvell', cut, mask)
  member = jax.nn.one_hot(labels.argmax(-1), 2, dtype=cut.dtype) * real
  count = member.sum(0)
  rows = jnp.maximum(count, 1.0)[:, None]
  with jax.default_matmul_precision('highest'):
    means = member.T @ cut / rows  # [2, D]
    delta = jnp.where(jnp.all(count > 0), means[1] - means[0], 0.0)
    gap, width = jnp.square(delta).sum(), cut.shape[1]
    deviation = cut - member @ means
    unit = _direction(delta)
    line = deviation @ unit
    # Not total less line: rounding there would be noise for one class.
    off = jnp.square(deviation - line[:, None] * unit[None]).sum(-1)
    along, across = (v @ member / rows[:, 0] for v in (jnp.square(line), off))
  if isotropic:
    along = across = (along + across) / width
  else:
    across = across / max(width - 1, 1)
  share = count / jnp.maximum(count.sum(), 1.0)
  return delta, Moments(share, along, across, gap, width)


def sum_kl(moments: Moments, noise: Noise) -> chex.Array:
  """Returns KL(1 || 0) + KL(0 || 1) of the two normals that are sent, []."""
  along, across = moments.along + noise.along, moments.across + noise.across
  apart = (moments.width - 1) * _contrast(across[0], across[1])
  ends = (1 / along).sum(0) * moments.gap
  return 0.5 * (apart + _contrast(along[0], along[1]) + _nan_to_zero(ends))


def solve(moments: Moments, power: chex.Array) -> Noise:
  """Finds the noise of least sumKL with a mean power of `power`.

  Only the class of smaller variance across gets noise across, z (Theorem 2 of
  the paper). Given z, the best noise along is a ratio in closed form
  (`_noise_along`), and what is left is a search over z alone. All is relative
  to the largest of the variances, so that float32 serves.
  """
  scale = jnp.maximum(
    jnp.concatenate([moments.along, moments.across]).max(),
    jnp.maximum(moments.gap, power),
  )
  scale = jnp.where(scale > 0, scale, 1.0)
  swap = moments.across[0] / scale > moments.across[1] / scale
  flip = lambda pair: jnp.where(swap, pair[::-1], pair)
  # In `unit` class 0 is the one of smaller variance across.
  unit = moments._replace(
    share=flip(jnp.maximum(moments.share, 1e-6)),  # a batch of one class
    along=flip(moments.along / scale),
    across=flip(moments.across / scale),
    gap=moments.gap / scale,
  )
  noise = _search(unit, power / scale)
  return Noise(flip(noise.along) * scale, flip(noise.across) * scale)


def _search(moments, power):
  """Finds the best noise across for class 0, z, and what goes with it.

  The objective is convex in z where no constraint binds: a grid over
  [0, highest z] is narrowed round by round.
  """

  def noise(z):
    across = jnp.stack([z, jnp.zeros_like(z)])
    return Noise(_noise_along(moments, power, z), across)

  highest = jnp.minimum(
    moments.across[1] - moments.across[0],
    power / (moments.share[0] * moments.width),
  )
  grid = jnp.linspace(0.0, 1.0, _POINTS)

  def narrow(_, ends):
    low, high = ends
    z = low + (high - low) * grid
    best = jax.vmap(lambda z: sum_kl(moments, noise(z)))(z).argmin()
    return z[jnp.maximum(best - 1, 0)], z[jnp.minimum(best + 1, _POINTS - 1)]

  ends = jnp.zeros_like(highest), highest
  low, high = jax.lax.fori_loop(0, _ROUNDS, narrow, ends)
  return noise((low + high) / 2 if moments.width > 1 else low * 0)


def _noise_along(moments, power, z):
  """Finds the best noise along Delta [2], given noise z across for class 0.

  On the budget q0 A + q1 B = C the objective is, up to a constant,
  (1 + q0 g / C) A/B + (1 + q1 g / C) B/A, least at
  A / B = sqrt((C + q1 g) / (C + q0 g)); the noise of class 0 lies in
  [z, all that is left].
  """
  (q0, q1), (a, b) = moments.share, moments.along
  left = jnp.maximum(power - q0 * (moments.width - 1) * z, 0.0)
  budget = left + q0 * a + q1 * b
  ratio = jnp.sqrt((budget + q1 * moments.gap) / (budget + q0 * moments.gap))
  ratio = jnp.where(budget > 0, ratio, 1.0)
  best = ratio * budget / (q0 * ratio + q1) - a
  first = jnp.clip(best, z, jnp.maximum(left / q0, z))
  second = jnp.maximum(left - q0 * first, 0.0) / q1
  return jnp.stack([first, second])


def _contrast(a, b):
  """Returns a/b + b/a - 2 of two variances; 0 where both are 0."""
  return _nan_to_zero((a - b) ** 2 / (a * b))


def _nan_to_zero(value):
  """Returns 0 for 0 / 0 and 0 * inf: neither a spread nor a gap."""
  return jnp.where(jnp.isnan(value), 0.0, value)
