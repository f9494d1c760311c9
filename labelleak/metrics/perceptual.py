"""LPIPS: distance of images in the features of AlexNet, weights from a file.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric" (2018), version 0.1, net='alex'. The weights are not ours to ship; made
once where torch and the package `lpips` are at hand:

  state = lpips.LPIPS(net='alex').state_dict().items()
  kept = {k: v.numpy() for k, v in state if k.startswith(('net.', 'lin'))}
  np.savez('lpips.npz', **{k: v for k, v in kept.items() if 'lins' not in k})
"""

import os
from typing import Union

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from labelleak.base import InputError
from labelleak.models import weights as files
from labelleak.models.layers import MaxPool

_SMALLEST = 31  # pixels that three strides leave something of
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
# Of AlexNet: name, channels, kernel, stride, padding, pooled before.
_LAYERS = (
  ('slice1_0', 64, 11, 4, 2, False),
  ('slice2_3', 192, 5, 1, 2, True),
  ('slice3_6', 384, 3, 1, 1, True),
  ('slice4_8', 256, 3, 1, 1, False),
  ('slice5_10', 256, 3, 1, 1, False),
)


class _AlexNet(nn.Module):
  """Five maps after ReLU, of images [B, H, W, 3] in [-1, 1]."""

  @nn.compact
  def __call__(self, x: chex.Array) -> list[chex.Array]:
    x = (x - jnp.array(_SHIFT)[None, None, None]) / jnp.array(_SCALE)[
      None, None, None
    ]
    maps = []
    for name, channels, kernel, stride, padding, pooled in _LAYERS:
      x = MaxPool(3, 2)(x) if pooled else x
      size, strides = (kernel, kernel), (stride, stride)
      conv = nn.Conv(channels, size, strides, padding, name=name)
      x = nn.relu(conv(x))
      maps.append(x)
    return maps


class _Linear(nn.Module):
  """Weighted sum over channels, as the released 1x1 convolution stores it."""

  @nn.compact
  def __call__(self, x):
    return nn.Conv(1, (1, 1), use_bias=False, name='model_1')(x)


class _Lpips(nn.Module):
  """Distance of pairs of images in [-1, 1], 2 x [B, H, W, 3] -> [B]."""

  @nn.compact
  def __call__(self, a: chex.Array, b: chex.Array) -> chex.Array:
    net = _AlexNet(name='net')
    total = jnp.zeros(a.shape[:1])
    for i, (x, y) in enumerate(zip(net(a), net(b))):
      off = (_unit(x) - _unit(y)) ** 2
      total += _Linear(name=f'lin{i}')(off).mean((1, 2, 3))
    return total


def _unit(x):
  """Scales features to unit length over the channels."""
  return x / (jnp.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10)


def load(path: Union[str, os.PathLike]) -> chex.ArrayTree:
  """Loads weights of `lpips`, from an .npz or .safetensors made as above.

  Raises:
    InputError: the file is missing, or is not such a state_dict.
  """
  if not os.path.isfile(path):
    raise InputError(
      f'lpips={os.fspath(path)!r} is no file; make it as the head of'
      ' labelleak/metrics/perceptual.py says, or leave lpips unset.'
    )
  return files.load(path, _variables())


def check(shape: tuple) -> None:
  """Refuses images that AlexNet cannot take.

  Raises:
    InputError: fewer than 31 pixels a side, or channels other than 1 or 3.
  """
  if min(shape[:2]) < _SMALLEST or shape[2] not in (1, 3):
    raise InputError(
      f'LPIPS of images of shape {shape}: AlexNet needs {_SMALLEST} pixels a'
      ' side and 1 or 3 channels; leave lpips unset.'
    )


def lpips(weights: chex.ArrayTree, a: chex.Array, b: chex.Array) -> chex.Array:
  """Computes LPIPS of pairs of images in [0, 1], 2 x [B, H, W, C] -> [B]."""
  return _Lpips().apply(weights, 2 * _to_colour(a) - 1, 2 * _to_colour(b) - 1)


def distances(
  weights: chex.ArrayTree, a: chex.Array, b: chex.Array
) -> chex.Array:
  """Computes LPIPS of every pair, [B, ...] x [B, ...] -> [B, B]."""
  return jax.lax.map(
    lambda one: lpips(weights, jnp.broadcast_to(one[None], b.shape), b), a
  )


def _to_colour(x: chex.Array) -> chex.Array:
  """Repeats the channel of grey images."""
  return jnp.repeat(x, 3, -1) if x.shape[-1] == 1 else x


def _variables():
  """Returns the shapes of the weights, as zeros."""
  image = jnp.zeros((1, 64, 64, 3))
  shapes = jax.eval_shape(_Lpips().init, jax.random.key(0), image, image)
  return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
