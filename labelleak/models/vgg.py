"""VGG-11 and VGG-19 (Simonyan and Zisserman, 2015), in two forms.

'cifar', of the LLBG paper: convolutions with bias, batch norm, ReLU, one linear
head N(0, .01); 20,086,692 (VGG-19) and 9,277,284 (VGG-11) parameters for 100
classes. 'imagenet', of torchvision: no batch norm, adaptive pooling to 7x7, two
hidden layers of 4096, linear layers N(0, .01); VGG-19 has 143,667,240 for 1000.
Convolutions are kaiming normal over fan_out, biases zero.

Submodules: `features_<i>` with the index i of torch's `features` (convolutions
and batch norms), `classifier_0`, `classifier_3` (hidden, imagenet), and `head`
(torch: classifier, or classifier.6). Dropout acts in train mode only.
"""

import chex
from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from labelleak import validate
from labelleak.models.layers import (
  BatchNorm,
  Conv,
  Dense,
  MaxPool,
  kaiming_normal,
)

_ZEROS = nn.initializers.zeros
_NORMAL = nn.initializers.normal(0.01)
_PLANS = {
  11: (64, 'M', 128, 'M', *(256,) * 2, 'M', *(512,) * 2, 'M', *(512,) * 2),
  19: (
    *((64,) * 2 + ('M',)),
    *((128,) * 2 + ('M',)),
    *((256,) * 4 + ('M',)),
    *((512,) * 4 + ('M',)),
    *(512,) * 4,
  ),
}


def _adaptive(size: int, out: int) -> np.ndarray:
  """Builds the averaging matrix [out, size] of torch's AdaptiveAvgPool."""
  start = np.arange(out) * size // out
  end = -(-(np.arange(out) + 1) * size // out)
  slots = np.arange(size)
  inside = (slots >= start[:, None]) & (slots < end[:, None])
  return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


class Vgg(nn.Module):
  """[B, H, W, C] -> logits [B, K]; `plan` holds widths and 'M' for pooling."""

  num_classes: int
  plan: tuple
  form: str
  head_bias: bool

  @nn.compact
  def __call__(self, x: chex.Array, train: bool = False) -> chex.Array:
    cifar = self.form == 'cifar'
    index = 0
    for width in (*self.plan, 'M'):
      if width == 'M':
        x = MaxPool(2)(x)
        index += 1
        continue
      x = Conv(
        width,
        3,
        padding=1,
        kernel_init=kaiming_normal,
        bias_init=_ZEROS,
        name=f'features_{index}',
      )(x)
      if cifar:
        index += 1
        x = BatchNorm(not train, name=f'features_{index}')(x)
      x = nn.relu(x)
      index += 2
    x = x.mean((1, 2)) if cifar else self._hidden_layers(x, train)
    return Dense(
      self.num_classes,
      use_bias=self.head_bias,
      kernel_init=_NORMAL,
      bias_init=_ZEROS,
      name='head',
    )(x)

  def _hidden_layers(self, x, train):
    """Applies torchvision's classifier but its last layer, -> [B, H]."""
    h, w = x.shape[1:3]
    if (h, w) != (7, 7):
      x = jnp.einsum('ih,jw,bhwc->bijc', _adaptive(h, 7), _adaptive(w, 7), x)
    x = jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)  # torch's order
    for index in (0, 3):
      x = nn.relu(
        Dense(
          4096,
          kernel_init=_NORMAL,
          bias_init=_ZEROS,
          name=f'classifier_{index}',
        )(x)
      )
      x = nn.Dropout(0.5, deterministic=not train)(x)
    return x


def _vgg(depth, num_classes, form, head_bias):
  validate.one_of('form', form, ('cifar', 'imagenet'))
  return Vgg(num_classes, _PLANS[depth], form, head_bias)


def vgg11(
  *, num_classes: int, form: str = 'cifar', head_bias: bool = True
) -> Vgg:
  """Builds VGG-11; without `head_bias` the paper's VGG11n (no-bias defense)."""
  return _vgg(11, num_classes, form, head_bias)


def vgg19(
  *, num_classes: int, form: str = 'cifar', head_bias: bool = True
) -> Vgg:
  """Builds VGG-19."""
  return _vgg(19, num_classes, form, head_bias)
