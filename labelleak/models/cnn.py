"""Small CNN without batch norm: breaching's `convnetsmall` at width 256.

LLBG paper, Section 5.1: 15,447,652 parameters for 100 classes; maps of 32, 32,
16, 5, 3 and 1 pixels on 32x32 inputs. Submodules: conv0 to conv3, head.
PyTorch's default initialisation.
"""

import chex
from flax import linen as nn

from labelleak.models.layers import Conv, Dense, MaxPool


class Cnn(nn.Module):
  """Four 3x3 convolutions with ReLU, global average pool, `head` [4 w, K]."""

  num_classes: int
  width: int
  head_bias: bool

  @nn.compact
  def __call__(self, x: chex.Array, train: bool = False) -> chex.Array:
    factors, strides = (1, 2, 4, 4), (1, 1, 2, 2)
    for i, (factor, stride) in enumerate(zip(factors, strides)):
      if i == 3:
        x = MaxPool(3)(x)
      x = Conv(factor * self.width, 3, stride, 1, name=f'conv{i}')(x)
      x = nn.relu(x)
    x = x.mean((1, 2))
    return Dense(self.num_classes, use_bias=self.head_bias, name='head')(x)


def cnn(*, num_classes: int, width: int = 256, head_bias: bool = True) -> Cnn:
  """Builds a CNN of `width`, 2 `width`, 4 `width` and 4 `width` channels."""
  return Cnn(num_classes, width, head_bias)
