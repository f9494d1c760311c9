"""Vision transformers, as timm's `vit_*_patch16_224` (0.9) builds them.

Dosovitskiy et al., 'An Image is Worth 16x16 Words'
(https://arxiv.org/abs/2010.11929): pre-norm blocks, a class token, learned
positions, exact GELU, and a head on the class token behind the last norm.

Submodules bear timm's names (see `weights`); the blocks are one scanned module
whose leaves are stacked on a leading axis, so that XLA compiles a single block.
"""

import chex
from flax import linen as nn
import jax.numpy as jnp

from labelleak import validate
from labelleak.base import InputError
from labelleak.models.layers import Dense

# timm's `trunc_normal_(std=.02)` cuts at -2 and 2, not at two deviations: the
# cut never acts and the deviation is not shrunk by it.
_NORMAL = nn.initializers.normal(0.02)


class Attention(nn.Module):
  """Multi-head self-attention, [B, N, width] -> [B, N, width]."""

  heads: int

  @nn.compact
  def __call__(self, x: chex.Array) -> chex.Array:
    width = x.shape[-1]
    qkv = nn.Dense(3 * width, kernel_init=_NORMAL, name='qkv')(x)
    qkv = qkv.reshape(*x.shape[:2], 3, self.heads, width // self.heads)
    q, k, v = (qkv[:, :, i] for i in range(3))
    mixed = nn.dot_product_attention(q, k, v)
    return nn.Dense(width, kernel_init=_NORMAL, name='proj')(
      mixed.reshape(x.shape)
    )


class Mlp(nn.Module):
  """Two layers of ratio 4, [B, N, width] -> [B, N, width]."""

  @nn.compact
  def __call__(self, x: chex.Array) -> chex.Array:
    width = x.shape[-1]
    h = nn.Dense(4 * width, kernel_init=_NORMAL, name='fc1')(x)
    h = nn.gelu(h, approximate=False)
    return nn.Dense(width, kernel_init=_NORMAL, name='fc2')(h)


class Block(nn.Module):
  """One pre-norm block, in the (carry, _) -> (carry, _) form of a scan."""

  heads: int

  @nn.compact
  def __call__(self, x: chex.Array, _: None) -> tuple[chex.Array, None]:
    h = nn.LayerNorm(epsilon=1e-6, name='norm1')(x)
    x = x + Attention(self.heads, name='attn')(h)
    h = nn.LayerNorm(epsilon=1e-6, name='norm2')(x)
    return x + Mlp(name='mlp')(h), None


class PatchEmbed(nn.Module):
  """Images [B, h*patch, w*patch, C] to tokens [B, h*w, width].

  timm's convolution with a stride of its kernel is this matmul; it leaves that
  at torch's initialisation.
  """

  width: int
  patch: int

  @nn.compact
  def __call__(self, x: chex.Array) -> chex.Array:
    b, height, width, channels = x.shape
    p = self.patch
    x = x.reshape(b, height // p, p, width // p, p, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, p * p * channels)
    return Dense(self.width, name='proj')(x)


class ViT(nn.Module):
  """A vision transformer: [B, H, W, C] -> logits [B, K]."""

  num_classes: int
  width: int
  depth: int
  heads: int
  patch: int

  @nn.compact
  def __call__(self, x: chex.Array, train: bool = False) -> chex.Array:
    del train  # timm's defaults drop nothing
    chex.assert_rank(x, 4)
    if x.shape[1] % self.patch or x.shape[2] % self.patch:
      raise InputError(
        f'images of {x.shape[1]}x{x.shape[2]} do not split into patches of'
        f' {self.patch}; use a multiple, or set the model field `patch`.'
      )
    x = PatchEmbed(self.width, self.patch, name='patch_embed')(x)
    token = self.param(
      'cls_token', nn.initializers.normal(1e-6), (1, 1, self.width)
    )
    x = jnp.concatenate(
      [jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], axis=1
    )
    x = x + self.param('pos_embed', _NORMAL, (1, *x.shape[1:]))
    blocks = nn.scan(
      Block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      length=self.depth,
    )
    x, _ = blocks(self.heads, name='blocks')(x, None)
    # Only the class token is read, so only it is normalised.
    x = nn.LayerNorm(epsilon=1e-6, name='norm')(x[:, 0])
    return nn.Dense(self.num_classes, kernel_init=_NORMAL, name='head')(x)


def vit(
  *,
  num_classes: int,
  width: int,
  heads: int,
  depth: int = 12,
  patch: int = 16,
) -> ViT:
  """Builds a ViT of any size, such as one with patches of 2 for digits of 8x8.

  Raises:
    InputError: heads do not divide the width, or a size below 1.
  """
  sizes = dict(
    num_classes=num_classes,
    width=width,
    depth=depth,
    heads=heads,
    patch=patch,
  )
  for name, size in sizes.items():
    validate.whole(f'vit: {name}', size, 1)
  if width % heads:
    raise InputError(
      f'width={width} does not split into heads={heads}; use a multiple.'
    )
  return ViT(**sizes)


def tiny(*, num_classes: int, depth: int = 12, patch: int = 16) -> ViT:
  """Builds ViT-Ti: 5,717,416 parameters at 1000 classes and 224 pixels."""
  return vit(
    num_classes=num_classes, width=192, heads=3, depth=depth, patch=patch
  )


def small(*, num_classes: int, depth: int = 12, patch: int = 16) -> ViT:
  """Builds ViT-S: 22,050,664 parameters at 1000 classes and 224 pixels."""
  return vit(
    num_classes=num_classes, width=384, heads=6, depth=depth, patch=patch
  )


def base(*, num_classes: int, depth: int = 12, patch: int = 16) -> ViT:
  """Builds ViT-B: 86,567,656 parameters at 1000 classes and 224 pixels."""
  return vit(
    num_classes=num_classes, width=768, heads=12, depth=depth, patch=patch
  )
