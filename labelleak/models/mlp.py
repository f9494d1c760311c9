"""Multi-layer perceptron: 3 hidden layers of 1024 on flattened inputs.

LLBG paper, Section 5.1 and Table 8: 5,348,452 parameters for 32x32x3 and 100
classes. Submodules: linear0, linear1, linear2, head. PyTorch's default
initialisation, weights and biases.
"""

import chex
from flax import linen as nn
import jax.numpy as jnp

from labelleak.base import InputError
from labelleak.models.layers import Dense

_ACTIVATIONS = {
  'relu': nn.relu,
  'sigmoid': nn.sigmoid,
  'leaky': lambda x: nn.leaky_relu(x, 0.01),
  'tanh': jnp.tanh,
}


class Mlp(nn.Module):
  """Flattens [B, ...] channels first, hidden layers, `head` [width, K]."""

  num_classes: int
  width: int
  depth: int
  activation: str  # of the last hidden layer; the others are ReLU
  head_bias: bool

  @nn.compact
  def __call__(self, x: chex.Array, train: bool = False) -> chex.Array:
    x = jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)
    for i in range(self.depth):
      last = i == self.depth - 1
      act = _ACTIVATIONS[self.activation if last else 'relu']
      x = act(Dense(self.width, name=f'linear{i}')(x))
    return Dense(self.num_classes, use_bias=self.head_bias, name='head')(x)


def mlp(
  *,
  num_classes: int,
  width: int = 1024,
  depth: int = 3,
  activation: str = 'relu',
  head_bias: bool = True,
) -> Mlp:
  """MLP; `activation` of the last hidden layer: relu sigmoid leaky tanh.

  Raises:
    InputError: no such activation.
  """
  if activation not in _ACTIVATIONS:
    raise InputError(
      f'activation={activation!r} is unknown; use one of'
      f' {", ".join(_ACTIVATIONS)}.'
    )
  return Mlp(num_classes, width, depth, activation, head_bias)
