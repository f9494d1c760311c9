"""Multi-layer perceptrons on flattened inputs: classifiers and bottoms.

`mlp`: LLBG paper, Section 5.1 and Table 8: 3 hidden layers of 1024, 5,348,452
parameters for 32x32x3 and 100 classes. Submodules: linear0, linear1, linear2,
head. PyTorch's default initialisation, weights and biases.

`mlp2` and `linear` are the bottom models of the vertical FL papers (VFLAIR),
`fcnn` those of Fu et al. on tables; `bn_mlp` is their trainable top and
`inference_head` what completes a stolen bottom.
"""

from typing import Optional

import chex
from flax import linen as nn
import jax
from jax.nn.initializers import Initializer
import jax.numpy as jnp

from labelleak import validate
from labelleak.base import InputError
from labelleak.models.layers import (
  Activation,
  BatchNorm,
  Dense,
  he_normal,
  torch_default,
)

_ACTIVATIONS = {
  'relu': nn.relu,
  'sigmoid': nn.sigmoid,
  'leaky': lambda x: nn.leaky_relu(x, 0.01),
  'tanh': jnp.tanh,
}
_HEAD_ACTIVATIONS = _ACTIVATIONS | {'none': lambda x: x}
_HEAD_INITS = {
  'ones': nn.initializers.ones,
  'he': he_normal,
  'torch': torch_default,
}


class Mlp(nn.Module):
  """Flattens [B, ...] channels first, hidden layers, `head` [width, K]."""

  num_classes: int
  width: int
  depth: int
  activation: str  # of the last hidden layer; the others are ReLU
  head_bias: bool
  kernel_init: Initializer = torch_default  # of hidden layers
  bias_init: Optional[Initializer] = None  # of hidden layers; None: torch's
  head_init: Optional[Initializer] = None  # None: torch's, and its bias

  @nn.compact
  def __call__(self, x: chex.Array, train: bool = False) -> chex.Array:
    x = jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)
    for i in range(self.depth):
      last = i == self.depth - 1
      act = _ACTIVATIONS[self.activation if last else 'relu']
      init = dict(kernel_init=self.kernel_init, bias_init=self.bias_init)
      x = act(Dense(self.width, **init, name=f'linear{i}')(x))
    init = {}
    if self.head_init:
      init = dict(kernel_init=self.head_init, bias_init=nn.initializers.zeros)
    head = Dense(self.num_classes, use_bias=self.head_bias, **init, name='head')
    return head(x)


def mlp(
  *,
  num_classes: int,
  width: int = 1024,
  depth: int = 3,
  activation: str = 'relu',
  head_bias: bool = True,
) -> Mlp:
  """Builds an MLP; the last hidden `activation`: relu sigmoid leaky tanh.

  Raises:
    InputError: no such activation.
  """
  validate.one_of('activation', activation, _ACTIVATIONS)
  return Mlp(num_classes, width, depth, activation, head_bias)


def mlp2(*, num_classes: int, width: int = 32) -> Mlp:
  """Builds VFLAIR's MLP2: one hidden ReLU layer, Xavier-uniform, zero bias."""
  xavier, zeros = nn.initializers.xavier_uniform(), nn.initializers.zeros
  return Mlp(num_classes, width, 1, 'relu', True, xavier, zeros)


def linear(
  *,
  num_classes: int,
  bias: bool = True,
  start: Optional[tuple[float, float]] = None,
) -> Mlp:
  """Builds logistic regression: the head alone.

  Args:
    num_classes: outputs.
    bias: whether it has an intercept.
    start: ends of the interval that weights are drawn from, evenly; (0, 0):
      zeros, as is an intercept then. None: PyTorch's default.

  Raises:
    InputError: an interval whose ends do not ascend.
  """
  if start is None:
    return Mlp(num_classes, 0, 0, 'relu', bias)
  if len(start) != 2 or not start[0] <= start[1]:
    raise InputError(f'linear: start={start} must be (low, high) that ascend.')
  low, high = start

  def draw(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, low, high)

  return Mlp(num_classes, 0, 0, 'relu', bias, head_init=draw)


class BnMlp(nn.Module):
  """Dense layers, each after batch norm (optional) and ReLU; [B, D] -> [B, K].

  The top models of Fu et al. (USENIX Security 2022): embeddings, too, are
  normalised and rectified first. A width of None is that of the embeddings.
  Submodules bn{i}, linear{i}, head.
  """

  widths: tuple[Optional[int], ...]
  batch_norm: bool
  activation: Activation = nn.relu
  kernel_init: Initializer = he_normal

  @nn.compact
  def __call__(self, x: chex.Array, train: bool = False) -> chex.Array:
    default = x.shape[-1]
    for i, width in enumerate(self.widths):
      if self.batch_norm:
        x = BatchNorm(not train, name=f'bn{i}')(x)
      name = 'head' if i == len(self.widths) - 1 else f'linear{i}'
      dense = Dense(width or default, kernel_init=self.kernel_init, name=name)
      x = dense(self.activation(x))
    return x


def bn_mlp(
  *,
  num_classes: int,
  widths: tuple[int, ...] = (20, 10, 10),
  batch_norm: bool = True,
) -> BnMlp:
  """Builds a top; the default is that of Fu et al. on CIFAR-10, two parties.

  With 20 inputs it has 970 parameters; `widths=(8, 4), batch_norm=False` is
  theirs for Criteo (118 parameters on 8 inputs).
  """
  return BnMlp((*widths, num_classes), batch_norm)


def inference_head(
  *,
  num_classes: int,
  layers: int = 1,
  activation: str = 'relu',
  batch_norm: bool = True,
  init: str = 'ones',
) -> BnMlp:
  """Builds what completes a trained bottom, [B, D] -> [B, K] (Fu et al.).

  Args:
    num_classes: K.
    layers: 1 to 5; all but the last are D wide.
    activation: before every layer: none, relu, sigmoid, leaky or tanh.
    batch_norm: before every activation.
    init: of kernels. 'ones', as released: all classes start equal but for the
      bias, which is PyTorch's. 'he' or 'torch' are random, as in the paper.

  Raises:
    InputError: an option that is none of these.
  """
  validate.whole('layers', layers, 1, 5)
  validate.one_of('activation', activation, _HEAD_ACTIVATIONS)
  validate.one_of('init', init, _HEAD_INITS)
  return BnMlp(
    (None,) * (layers - 1) + (num_classes,),
    batch_norm,
    _HEAD_ACTIVATIONS[activation],
    _HEAD_INITS[init],
  )


class Fcnn(nn.Module):
  """Dense layers with batch norm (optional) and ReLU between, [B, F] -> [B, K].

  Submodules linear{i}, bn{i}, head.
  """

  num_classes: int
  widths: tuple[int, ...]
  batch_norm: bool
  kernel_init: Initializer

  @nn.compact
  def __call__(self, x: chex.Array, train: bool = False) -> chex.Array:
    for i, width in enumerate(self.widths):
      x = Dense(width, kernel_init=self.kernel_init, name=f'linear{i}')(x)
      if self.batch_norm:
        x = BatchNorm(not train, name=f'bn{i}')(x)
      x = nn.relu(x)
    head = Dense(self.num_classes, kernel_init=self.kernel_init, name='head')
    return head(x)


def fcnn(
  *,
  num_classes: int,
  widths: tuple[int, ...] = (64, 16),
  batch_norm: bool = False,
) -> Fcnn:
  """Builds bottoms of Fu et al. on tables, as initialised there.

  The default is Criteo's: 263,316 parameters for 4096 features and a cut of 4,
  PyTorch's initialisation. `widths=(20, 20), batch_norm=True` is that of breast
  cancer, He-normal: 842 parameters for 14 features and a cut of 2.
  """
  init = he_normal if batch_norm else torch_default
  return Fcnn(num_classes, tuple(widths), batch_norm, init)
