"""Image metrics: restored batches against the victim's, pixels in [0, 1].

One batch is the unit, [B, H, W, C]. A reconstruction comes without an order:
`match` first pairs it with the originals as favourably as possible. Pixel
metrics are dm-pix's.
"""

from typing import Optional

import chex
import dm_pix as pix
import jax
import jax.numpy as jnp
import optax

from labelleak.metrics import perceptual, wavelets

_WINDOW = 11  # of SSIM, where the image has room for it


def pixels(
  x: chex.Array, pixel_range: tuple[chex.Array, chex.Array]
) -> chex.Array:
  """Scales normalised images [B, H, W, C] back to [0, 1], clipped.

  Args:
    x: in the model's input space.
    pixel_range: black and white there, 2 x [C] or [1].
  """
  black, white = (jnp.broadcast_to(b, x.shape[1:])[None] for b in pixel_range)
  return jnp.clip((x - black) / (white - black), 0.0, 1.0)


def match(cost: chex.Array) -> chex.Array:
  """Assigns optimally, cost [B, B] of original i and restored j -> j [B].

  Hungarian matching. Costs that are not finite count as the worst.
  """
  chex.assert_rank(cost, 2)
  finite = jnp.isfinite(cost)
  worst = jnp.max(cost, initial=0.0, where=finite) + 1.0
  cost = jnp.where(finite, cost, worst)
  rows, columns = optax.assignment.hungarian_algorithm(cost)
  return columns[jnp.argsort(rows)]


def squared_errors(truth: chex.Array, restored: chex.Array) -> chex.Array:
  """Computes mean squared errors of all pairs, 2 x [B, ...] -> [B, B]."""
  return jax.vmap(
    lambda one: jax.vmap(lambda other: pix.mse(one, other))(restored)
  )(truth)


def ssim(a: chex.Array, b: chex.Array) -> chex.Array:
  """Computes SSIM, Gaussian windows of 11 pixels (Wang et al. 2004), -> [B].

  Smaller images have the largest odd window that fits.
  """
  window = min(_WINDOW, *a.shape[1:3])
  return pix.ssim(a, b, filter_size=window - 1 + window % 2)


def similarity(
  restored: chex.Array,
  truth: chex.Array,
  weights: Optional[chex.ArrayTree] = None,
) -> tuple[dict[str, chex.Array], chex.Array]:
  """Computes all metrics, means over the batch, and orders the restored images.

  Images are matched by LPIPS where there are weights, as in the published runs,
  else by squared error.

  Args:
    restored: [B, H, W, C] in [0, 1].
    truth: alike, the victim's.
    weights: of LPIPS, `perceptual.load`.

  Returns:
    {'mse', 'psnr', 'ssim', 'cw_ssim', 'lpips' with weights}, each [], and the
    restored images [B, H, W, C] in the order of `truth`.
  """
  chex.assert_equal_shape([restored, truth])
  cost = squared_errors(truth, restored)
  if weights is not None:
    cost = perceptual.distances(weights, truth, restored)
  restored = restored[match(cost)]
  values = dict(
    mse=pix.mse(restored, truth),
    psnr=pix.psnr(restored, truth),
    ssim=ssim(restored, truth),
    cw_ssim=wavelets.cw_ssim(restored, truth),
  )
  if weights is not None:
    values['lpips'] = perceptual.lpips(weights, restored, truth)
  return {name: value.mean() for name, value in values.items()}, restored
