"""ShuffleNetV2 x1.0 (Ma et al., 2018), torchvision's `shufflenet_v2_x1_0`.

2,278,604 parameters at 1000 classes. Convolutions and head have PyTorch's
default initialisation.

Submodules bear torch's names: `branch1_0` is `branch1.0`; see `weights`.
"""

import chex
from flax import linen as nn
import jax.numpy as jnp

from labelleak.models.layers import BatchNorm, Conv, Dense, MaxPool

# (features, repeats) of stages 2, 3 and 4.
_STAGES = ((116, 4), (232, 8), (464, 4))


def _conv_norm(x, name, index, features, train, kernel=1, stride=1, groups=1):
  """Applies layers `index` (convolution), `index + 1` (norm) of a sequence."""
  x = Conv(
    features,
    kernel,
    stride,
    kernel // 2,
    groups,
    use_bias=False,
    name=f'{name}_{index}',
  )(x)
  return BatchNorm(not train, name=f'{name}_{index + 1}')(x)


class Unit(nn.Module):
  """Two branches, concatenated and shuffled; half of x passes at stride 1."""

  features: int
  stride: int

  @nn.compact
  def __call__(self, x: chex.Array, train: bool) -> chex.Array:
    half = self.features // 2
    if self.stride == 1:
      passed, x = jnp.split(x, 2, axis=-1)
    else:
      channels = x.shape[-1]
      passed = _conv_norm(
        x, 'branch1', 0, channels, train, 3, self.stride, channels
      )
      passed = nn.relu(_conv_norm(passed, 'branch1', 2, half, train))
    x = nn.relu(_conv_norm(x, 'branch2', 0, half, train))
    x = _conv_norm(x, 'branch2', 3, half, train, 3, self.stride, half)
    x = nn.relu(_conv_norm(x, 'branch2', 5, half, train))
    # Channels of the two branches alternate.
    return jnp.stack([passed, x], -1).reshape(*x.shape[:3], self.features)


class ShuffleNet(nn.Module):
  """[B, H, W, C] -> logits [B, K], any image size."""

  num_classes: int

  @nn.compact
  def __call__(self, x: chex.Array, train: bool = False) -> chex.Array:
    x = nn.relu(_conv_norm(x, 'conv1', 0, 24, train, kernel=3, stride=2))
    x = MaxPool(3, 2, 1)(x)
    for stage, (features, repeats) in enumerate(_STAGES, 2):
      for i in range(repeats):
        stride = 2 if i == 0 else 1
        x = Unit(features, stride, name=f'stage{stage}_{i}')(x, train)
    x = nn.relu(_conv_norm(x, 'conv5', 0, 1024, train)).mean((1, 2))
    return Dense(self.num_classes, name='head')(x)


def shufflenet_v2(*, num_classes: int) -> ShuffleNet:
  """Builds ShuffleNetV2 x1.0."""
  return ShuffleNet(num_classes)
