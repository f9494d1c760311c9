"""Residual networks (He et al., 2016): the CIFAR family, ResNet-18 and -50.

The CIFAR form has a 3x3 stem, three stages of basic blocks and a projection
(1x1 convolution and batch norm) where the shape changes: 472,756 parameters for
ResNet-32 and 100 classes, 46,429,060 for ResNet-32-10, which is ten times as
wide. ResNet-50 is torchvision's, 25,557,032 parameters for 1000 classes.
Convolutions are kaiming normal over fan_out without bias, batch norms one and
zero (the last of a block too), the head PyTorch's default. Untrained, in
evaluation mode, batch norm does nothing: activations grow from block to block
and the softmax is confident and wrong (LLBG paper, Section 6.1).

Vertical FL papers (VFLAIR, Fu et al.) have ResNet-20 with parameter-free
shortcuts (`shortcut='pad'`; 269,722 parameters for 10 classes) and ResNet-18
for small images with leaky ReLUs and dropout before the head. Fu et al. have
ResNet-56, too (865,368 for 200 classes), and initialise everything He-normal
over fan_in (`init='fan_in'`).

Submodules: conv1, bn1, `layer<stage>_<block>` {conv1, bn1, conv2, bn2, (conv3,
bn3,) downsample_0, downsample_1} and head (torch: fc).
"""

import functools
from typing import Optional

import chex
from flax import linen as nn
from jax.nn.initializers import Initializer
import jax.numpy as jnp

from labelleak import validate
from labelleak.base import InputError
from labelleak.models.layers import (
  Activation,
  BatchNorm,
  Conv,
  Dense,
  MaxPool,
  he_normal,
  kaiming_normal,
  torch_default,
)

_leaky_relu = functools.partial(nn.leaky_relu, negative_slope=0.01)
_Conv = functools.partial(Conv, use_bias=False)
# Of convolutions, of the head.
_INITS = {
  'fan_out': (kaiming_normal, torch_default),
  'fan_in': (he_normal, he_normal),
}


class _Block(nn.Module):
  """One residual block, basic (3x3, 3x3) or bottleneck (1x1, 3x3, 1x1)."""

  features: int  # of the output
  stride: int
  bottleneck: bool
  activation: Activation
  pad: bool
  kernel_init: Initializer

  @nn.compact
  def __call__(self, x: chex.Array, train: bool) -> chex.Array:
    conv = functools.partial(_Conv, kernel_init=self.kernel_init)
    inner = self.features // 4
    plan = ((self.features, 3, self.stride), (self.features, 3, 1))
    if self.bottleneck:  # torchvision strides in the 3x3 convolution
      plan = ((inner, 1, 1), (inner, 3, self.stride), (self.features, 1, 1))
    y = x
    for i, (width, kernel, stride) in enumerate(plan, 1):
      y = conv(width, kernel, stride, kernel // 2, name=f'conv{i}')(y)
      y = BatchNorm(not train, name=f'bn{i}')(y)
      if i < len(plan):
        y = self.activation(y)
    if x.shape != y.shape and self.pad:  # option A of He et al.
      more = self.features - x.shape[-1]
      x = x[:, :: self.stride, :: self.stride]
      x = jnp.pad(x, ((0, 0),) * 3 + ((more // 2, more - more // 2),))
    elif x.shape != y.shape:
      x = conv(self.features, 1, self.stride, name='downsample_0')(x)
      x = BatchNorm(not train, name='downsample_1')(x)
    return self.activation(x + y)


class ResNet(nn.Module):
  """[B, H, W, C] -> logits [B, K]; stage s has width 2^s `width`."""

  num_classes: int
  blocks: tuple[int, ...]  # in each stage
  width: int  # of the first stage's output
  imagenet: bool  # 7x7 stem with pooling and bottlenecks
  head_bias: bool
  activation: Activation = nn.relu
  pad: bool = False  # shortcuts subsample and pad channels with zeros
  dropout: float = 0.0  # before the head
  fan: str = 'fan_out'  # or 'fan_in'
  # Parts 0, the stem, 1.., the stages, and the classifier: those from `begin`
  # up to `end`, None for all; the others are another model's (see `depth`).
  begin: int = 0
  end: Optional[int] = None
  height: Optional[int] = None  # of the maps that it begins with

  @nn.compact
  def __call__(self, x: chex.Array, train: bool = False) -> chex.Array:
    init, head_init = _INITS[self.fan]
    conv = functools.partial(_Conv, kernel_init=init)
    parts = range(len(self.blocks) + 2)[self.begin : self.end]
    if self.begin:
      x = self._maps(x)
    elif self.imagenet:
      x = conv(self.width // 4, 7, 2, 3, name='conv1')(x)
    else:
      x = conv(self.width, 3, 1, 1, name='conv1')(x)
    if 0 in parts:
      x = self.activation(BatchNorm(not train, name='bn1')(x))
    if 0 in parts and self.imagenet:
      x = MaxPool(3, 2, 1)(x)
    for stage, blocks in enumerate(self.blocks):
      for i in range(blocks if stage + 1 in parts else 0):
        x = _Block(
          self.width * 2**stage,
          stride=2 if stage and i == 0 else 1,
          bottleneck=self.imagenet,
          activation=self.activation,
          pad=self.pad,
          kernel_init=init,
          name=f'layer{stage + 1}_{i}',
        )(x, train)
    if self.end is not None:  # parties' columns, one after another, are wider
      return x.swapaxes(1, 2).reshape(len(x), -1)  # maps
    x = nn.Dropout(self.dropout, deterministic=not train)(x.mean((1, 2)))
    return Dense(
      self.num_classes, self.head_bias, kernel_init=head_init, name='head'
    )(x)

  def _maps(self, h):
    """Columns [B, W h C] -> maps [B, h, W, C], h the `height`."""
    channels = self.width * 2 ** max(self.begin - 2, 0)
    if self.begin == 1 and self.imagenet:
      channels //= 4
    if h.ndim != 2 or h.shape[1] % (self.height * channels):
      raise InputError(
        f'embeddings of shape {h.shape} are no columns of {self.height} x'
        f' {channels}; set height to that of the images.'
      )
    return h.reshape(len(h), -1, self.height, channels).swapaxes(1, 2)


def resnet18(
  *, num_classes: int, width: int = 64, dropout: float = 0.5
) -> ResNet:
  """Builds VFLAIR's ResNet-18: small images, leaky ReLU (.01), dropout."""
  blocks = (2, 2, 2, 2)
  return ResNet(
    num_classes, blocks, width, False, True, _leaky_relu, dropout=dropout
  )


def resnet20(
  *,
  num_classes: int,
  width: int = 16,
  head_bias: bool = True,
  shortcut: str = 'projection',
  init: str = 'fan_out',
) -> ResNet:
  """Builds ResNet-20 for small images.

  Args:
    num_classes: K.
    width: of the first stage.
    head_bias: whether the head has one.
    shortcut: 'projection' or 'pad'.
    init: 'fan_out' or 'fan_in', of He-normal kernels; the latter, of the head,
      too.

  Raises:
    InputError: no such shortcut or initialisation.
  """
  return _small(num_classes, 3, width, head_bias, shortcut, init)


def resnet56(
  *,
  num_classes: int,
  width: int = 16,
  head_bias: bool = True,
  shortcut: str = 'projection',
  init: str = 'fan_out',
) -> ResNet:
  """Builds ResNet-56 for small images; arguments, errors as of `resnet20`."""
  return _small(num_classes, 9, width, head_bias, shortcut, init)


def _small(num_classes, blocks, width, head_bias, shortcut, init):
  """Builds ResNet-(6 blocks + 2) of the CIFAR form."""
  validate.one_of('shortcut', shortcut, ('projection', 'pad'))
  validate.one_of('init', init, _INITS)
  return ResNet(
    num_classes,
    (blocks,) * 3,
    width,
    False,
    head_bias,
    pad=shortcut == 'pad',
    fan=init,
  )


def resnet32(
  *, num_classes: int, width: int = 16, head_bias: bool = True
) -> ResNet:
  """Builds ResNet-32 for small images."""
  return ResNet(num_classes, (5, 5, 5), width, False, head_bias)


def resnet32_10(*, num_classes: int, head_bias: bool = True) -> ResNet:
  """Builds ResNet-32 at ten times the width: 160, 320 and 640."""
  return ResNet(num_classes, (5, 5, 5), 160, False, head_bias)


def resnet50(*, num_classes: int, head_bias: bool = True) -> ResNet:
  """Builds ResNet-50 of torchvision, with a freshly initialised head."""
  return ResNet(num_classes, (3, 4, 6, 3), 256, True, head_bias)
