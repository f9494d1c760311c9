"""MNASNet at depth multiplier 1 (Tan et al., 2019), torchvision's `mnasnet1_0`.

4,383,312 parameters at 1000 classes: the form without squeeze and excitation,
which torchvision, and so the LLBG paper ('MNASNet-A1', Table 2), measured.
Convolutions are kaiming normal over fan_out, the head kaiming uniform over
fan_out with sigmoid's gain, U(+-sqrt(3/K)); biases zero. Dropout (.2) acts in
train mode only and needs a 'dropout' key.

Submodules bear torch's names: `layers_8_0` is `layers.8.0`; see `weights`.
"""

import chex
from flax import linen as nn

from labelleak.models import layers
from labelleak.models.layers import BatchNorm, Conv, Dense

_HEAD = nn.initializers.variance_scaling(1.0, 'fan_out', 'uniform')
# (features, kernel, stride, expansion, repeats) by stack.
_STACKS = (
  (24, 3, 2, 3, 3),
  (40, 5, 2, 3, 3),
  (80, 5, 2, 6, 3),
  (96, 3, 1, 6, 2),
  (192, 5, 2, 6, 4),
  (320, 3, 1, 6, 1),
)


def _conv_norm(x, index, features, train, kernel=1, stride=1, groups=1):
  """Applies layers `index` (convolution), `index + 1` (norm) of a sequence."""
  x = Conv(
    features,
    kernel,
    stride,
    kernel // 2,
    groups,
    use_bias=False,
    kernel_init=layers.kaiming_normal,
    name=f'layers_{index}',
  )(x)
  # Torch's momentum is .0003: the paper's, made for TensorFlow.
  return BatchNorm(not train, momentum=0.9997, name=f'layers_{index + 1}')(x)


class Block(nn.Module):
  """Inverted residual: expand, depthwise, project."""

  features: int
  kernel: int
  stride: int
  expansion: int

  @nn.compact
  def __call__(self, x: chex.Array, train: bool) -> chex.Array:
    wide = x.shape[-1] * self.expansion
    y = nn.relu(_conv_norm(x, 0, wide, train))
    y = _conv_norm(y, 3, wide, train, self.kernel, self.stride, groups=wide)
    y = _conv_norm(nn.relu(y), 6, self.features, train)
    residual = self.stride == 1 and x.shape[-1] == self.features
    return x + y if residual else y


class MnasNet(nn.Module):
  """[B, H, W, C] -> logits [B, K], any image size."""

  num_classes: int

  @nn.compact
  def __call__(self, x: chex.Array, train: bool = False) -> chex.Array:
    x = nn.relu(_conv_norm(x, 0, 32, train, kernel=3, stride=2))
    x = nn.relu(_conv_norm(x, 3, 32, train, kernel=3, groups=32))
    x = _conv_norm(x, 6, 16, train)
    for stack, (features, kernel, stride, expansion, repeats) in enumerate(
      _STACKS, 8
    ):
      for i in range(repeats):
        x = Block(
          features,
          kernel,
          stride if i == 0 else 1,
          expansion,
          name=f'layers_{stack}_{i}',
        )(x, train)
    x = nn.relu(_conv_norm(x, 14, 1280, train)).mean((1, 2))
    x = nn.Dropout(0.2, deterministic=not train)(x)
    return Dense(
      self.num_classes,
      kernel_init=_HEAD,
      bias_init=nn.initializers.zeros,
      name='head',
    )(x)


def mnasnet(*, num_classes: int) -> MnasNet:
  """Builds MNASNet, depth multiplier 1."""
  return MnasNet(num_classes)
