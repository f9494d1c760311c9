"""EfficientNet-B0 (Tan and Le, 2019), torchvision's `efficientnet_b0`.

5,288,548 parameters at 1000 classes. Inverted residuals with squeeze and
excitation; SiLU throughout, so that the head sees slightly negative features
(LLBG paper, Table 2: LLG collapses). Convolutions are kaiming normal over
fan_out, the head U(+-1/sqrt(K)), biases zero. Stochastic depth (.2 at the last
block) and dropout (.2) act in train mode only and need a 'dropout' key.

Submodules bear torch's names: `features_0_0` is `features.0.0`; see `weights`.
"""

import functools

import chex
from flax import linen as nn

from labelleak.models import layers
from labelleak.models.layers import BatchNorm, Conv, Dense

_ZEROS = nn.initializers.zeros
_HEAD = nn.initializers.variance_scaling(1 / 3, 'fan_out', 'uniform')
_Conv = functools.partial(
  Conv, use_bias=False, kernel_init=layers.kaiming_normal
)
# Tan and Le, Table 1: (expansion, kernel, stride, features, repeats) by stage.
_STAGES = (
  (1, 3, 1, 16, 1),
  (6, 3, 2, 24, 2),
  (6, 5, 2, 40, 2),
  (6, 3, 2, 80, 3),
  (6, 5, 1, 112, 3),
  (6, 5, 2, 192, 4),
  (6, 3, 1, 320, 1),
)
_DROP_PATH = 0.2


class Excitation(nn.Module):
  """Squeeze and excitation: each channel times a gate in (0, 1)."""

  squeezed: int

  @nn.compact
  def __call__(self, x: chex.Array) -> chex.Array:
    # Convolutions on a 1x1 map in torch.
    dense = functools.partial(
      Dense, kernel_init=layers.kaiming_normal, bias_init=_ZEROS
    )
    gate = nn.silu(dense(self.squeezed, name='fc1')(x.mean((1, 2))))
    gate = nn.sigmoid(dense(x.shape[-1], name='fc2')(gate))
    return x * gate[:, None, None]


class Block(nn.Module):
  """MBConv: expand, depthwise, excite, project; residual where shapes allow."""

  expansion: int
  kernel: int
  stride: int
  features: int
  drop_path: float

  @nn.compact
  def __call__(self, x: chex.Array, train: bool) -> chex.Array:
    channels = x.shape[-1]
    wide = channels * self.expansion
    norm = functools.partial(BatchNorm, not train)
    y, i = x, 0
    if self.expansion > 1:
      y = _Conv(wide, 1, name='block_0_0')(y)
      y, i = nn.silu(norm(name='block_0_1')(y)), 1
    y = _Conv(
      wide,
      self.kernel,
      self.stride,
      self.kernel // 2,
      groups=wide,
      name=f'block_{i}_0',
    )(y)
    y = nn.silu(norm(name=f'block_{i}_1')(y))
    y = Excitation(channels // 4, name=f'block_{i + 1}')(y)
    y = _Conv(self.features, 1, name=f'block_{i + 2}_0')(y)
    y = norm(name=f'block_{i + 2}_1')(y)
    if self.stride > 1 or channels != self.features:
      return y
    # Drops the branch of whole examples: the mask spans their axes.
    y = nn.Dropout(
      self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train
    )(y)
    return x + y


class EfficientNet(nn.Module):
  """[B, H, W, C] -> logits [B, K], any image size."""

  num_classes: int

  @nn.compact
  def __call__(self, x: chex.Array, train: bool = False) -> chex.Array:
    norm = functools.partial(BatchNorm, not train)
    x = _Conv(32, 3, 2, 1, name='features_0_0')(x)
    x = nn.silu(norm(name='features_0_1')(x))
    total, done = sum(repeats for *_, repeats in _STAGES), 0
    for stage, (expansion, kernel, stride, features, repeats) in enumerate(
      _STAGES, 1
    ):
      for i in range(repeats):
        x = Block(
          expansion,
          kernel,
          stride if i == 0 else 1,
          features,
          _DROP_PATH * done / total,
          name=f'features_{stage}_{i}',
        )(x, train)
        done += 1
    x = _Conv(1280, 1, name='features_8_0')(x)
    x = nn.silu(norm(name='features_8_1')(x)).mean((1, 2))
    x = nn.Dropout(0.2, deterministic=not train)(x)
    return Dense(
      self.num_classes, kernel_init=_HEAD, bias_init=_ZEROS, name='head'
    )(x)


def b0(*, num_classes: int) -> EfficientNet:
  """Builds EfficientNet-B0."""
  return EfficientNet(num_classes)
