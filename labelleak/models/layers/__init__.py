"""Layers that all families share, with PyTorch's conventions."""

from collections.abc import Callable
import math
from typing import Optional, Union

import chex
from flax import linen as nn
import jax
from jax.nn.initializers import Initializer

from labelleak.base import InputError
from labelleak.models.layers import convolution

Activation = Callable[[chex.Array], chex.Array]  # of every shape, to the same

# torch.nn's default: U(-1/sqrt(fan_in), 1/sqrt(fan_in)). Biases follow the same
# law, with the kernel's fan_in; `Conv` and `Dense` see to that.
torch_default = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
# kaiming_normal_(mode='fan_in', nonlinearity='relu'), not truncated.
he_normal = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')
# The same with mode='fan_out'.
kaiming_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def _pair(value: Union[int, tuple]) -> tuple:
  """Repeats a single number."""
  return (value, value) if isinstance(value, int) else tuple(value)


def _add_bias(module, y, init, fan_in):
  """Adds the bias of a Conv or Dense; init None is torch's default."""
  bound = 1 / math.sqrt(fan_in)
  uniform = lambda key, shape: jax.random.uniform(
    key, shape, minval=-bound, maxval=bound
  )
  bias = module.param('bias', init or uniform, (module.features,))
  return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class Conv(nn.Module):
  """2-D convolution, [B, H, W, C] -> [B, H', W', features], as torch's Conv2d.

  Kernel [kh, kw, C / groups, features]. `padding` is symmetric as in torch: p,
  (p_h, p_w) or ((p, p), (p, p)). The default initialisation is torch's.

  Raises:
    InputError: `groups` does not divide the channels, or the kernel is larger
      than the padded map.
  """

  features: int
  kernel_size: Union[int, tuple[int, int]]
  strides: Union[int, tuple[int, int]] = 1
  padding: Union[int, tuple] = 0
  groups: int = 1
  use_bias: bool = True
  kernel_init: Initializer = torch_default
  bias_init: Optional[Initializer] = None  # None: torch's default

  @nn.compact
  def __call__(self, x: chex.Array) -> chex.Array:
    chex.assert_rank(x, 4)
    size, strides = _pair(self.kernel_size), _pair(self.strides)
    padding = tuple(_pair(p) for p in _pair(self.padding))
    if x.shape[3] % self.groups or self.features % self.groups:
      raise InputError(
        f'groups={self.groups} must divide the {x.shape[3]} channels and the'
        f' {self.features} features.'
      )
    if min(map(convolution.out_size, x.shape[1:3], size, strides, padding)) < 1:
      raise InputError(
        f'a map of {x.shape[1:3]} is smaller than the kernel {size}; use'
        ' larger images.'
      )
    shape = (*size, x.shape[3] // self.groups, self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    y = convolution.convolve(x, kernel, strides, padding, self.groups)
    if self.use_bias:
      y = _add_bias(self, y, self.bias_init, math.prod(shape[:3]))
    return y


class Dense(nn.Module):
  """Linear layer, [..., in] -> [..., features], with torch's default init."""

  features: int
  use_bias: bool = True
  kernel_init: Initializer = torch_default
  bias_init: Optional[Initializer] = None  # None: torch's default

  @nn.compact
  def __call__(self, x: chex.Array) -> chex.Array:
    shape = (x.shape[-1], self.features)
    y = x @ self.param('kernel', self.kernel_init, shape)
    if self.use_bias:
      y = _add_bias(self, y, self.bias_init, shape[0])
    return y


class BatchNorm(nn.BatchNorm):
  """Batch norm over all but the last axis, as torch's: the running variance is
  an average of unbiased ones, n / (n - 1) of what normalises a batch.

  Called with use_running_average=not train. Torch's momentum .1 is .9 here.

  Raises:
    InputError: a batch has one value a channel, in training.
  """

  momentum: float = 0.9

  def __call__(
    self, x: chex.Array, use_running_average: Optional[bool] = None
  ) -> chex.Array:
    before = self.get_variable('batch_stats', 'var')
    y = super().__call__(x, use_running_average)
    evaluates = use_running_average or self.use_running_average
    if evaluates or self.is_initializing():
      return y
    count = x.size // x.shape[-1]
    if count < 2:
      raise InputError(
        f'batch norm of a batch {x.shape}: training needs two or more values a'
        ' channel; use a larger batch.'
      )
    after = self.get_variable('batch_stats', 'var')
    biased = after - self.momentum * before  # times 1 - momentum
    self.put_variable('batch_stats', 'var', after + biased / (count - 1))
    return y


class MaxPool(nn.Module):
  """Max pooling of [B, H, W, C] as torch's MaxPool2d, without ceil_mode."""

  window: int
  stride: Optional[int] = None  # None: the window
  padding: int = 0

  def __call__(self, x: chex.Array) -> chex.Array:
    k, stride, p = self.window, self.stride or self.window, self.padding
    if stride != k or p:
      return nn.max_pool(x, (k, k), (stride, stride), ((p, p), (p, p)))
    # Three times faster than a windowed reduction and its gradient on CPU.
    n, h, w, c = x.shape[0], x.shape[1] // k, x.shape[2] // k, x.shape[3]
    return x[:, : h * k, : w * k].reshape(n, h, k, w, k, c).max((2, 4))
