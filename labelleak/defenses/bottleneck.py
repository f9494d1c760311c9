"""MID: a variational bottleneck between the passive parties and the sum.

Zou, Liu and Zhang, "Mutual Information Regularization for Vertical Federated
Learning" (arXiv 2301.01142); layers and constants of VFLAIR. The active party
trains it as a top model, so that passive parties get the gradient that passed
through it.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from labelleak import validate
from labelleak.base import InputError
from labelleak.defenses.defense import Defense
from labelleak.models.layers import Dense


class Bottleneck(nn.Module):
  """One party's logits [B, D] -> (the same shape through z, KL(z) []).

  Attributes:
    scale, shift, sampled: see `mid`.
  """

  scale: int
  shift: float
  sampled: bool

  @nn.compact
  def __call__(self, h, train):
    width = h.shape[-1] * self.scale
    mean, spread = jnp.split(nn.relu(Dense(2 * width)(h)), 2, axis=-1)
    stddev = nn.softplus(spread - self.shift)
    z = mean
    if train or self.sampled:
      key = self.make_rng('dropout') if train else jax.random.key(0)
      z = mean + stddev * jax.random.normal(key, mean.shape)
    kl = 0.5 * (mean**2 + stddev**2 - 2 * jnp.log(stddev) - 1)
    out = nn.relu(Dense(5 * width)(z))
    return nn.relu(Dense(h.shape[-1])(out)), kl.sum(-1).mean()


class Mid(nn.Module):
  """Logits [B, P K] of all parties -> their sum, the passive ones through z.

  Sows `weight` times the mean KL divergence from N(0, I) into 'penalty'.

  Attributes:
    num_classes, weight, scale, shift, sampled: see `mid`.
  """

  num_classes: int
  weight: float
  scale: int
  shift: float
  sampled: bool

  @nn.compact
  def __call__(self, x, *, train=False):
    parties, remainder = divmod(x.shape[-1], self.num_classes)
    if remainder or parties < 2:
      raise InputError(
        f'embeddings of {x.shape[-1]} columns in all: mid adds logits of'
        f' {self.num_classes} classes; leave cut_width unset.'
      )
    *passive, total = jnp.split(x, parties, axis=-1)
    penalty = 0.0
    for h in passive:
      out, kl = Bottleneck(self.scale, self.shift, self.sampled)(h, train)
      total, penalty = total + out, penalty + self.weight * kl
    keep = dict(reduce_fn=lambda old, new: new, init_fn=lambda: 0.0)
    self.sow('penalty', 'kl', penalty, **keep)
    return total


def mid(
  *,
  num_classes: int,
  weight: float,
  scale: int = 1,
  shift: float = 5.0,
  sampled: bool = False,
) -> Defense:
  """Adds logits in a top model, those of passive parties through MID.

  Training uses a draw of z.

  Args:
    num_classes: K, the width of every embedding too.
    weight: lambda of the KL term; 0 still draws z.
    scale: width of z by K.
    shift: of the softplus that makes the deviation.
    sampled: predictions use a draw, too, as VFLAIR's do, and not the mean of z.

  Raises:
    InputError: a negative weight, a scale below 1.
  """
  validate.at_least('mid: weight', weight, 0)
  validate.whole('mid: scale', scale, 1)
  return Defense(top=Mid(num_classes, weight, scale, shift, sampled))
