"""BERT as a bottom: tokens to logits, and hidden states mixed for MixText.

Devlin et al., 'BERT' (https://arxiv.org/abs/1810.04805): post-norm blocks,
exact GELU, learned positions. Fu et al.'s Yahoo bottom (USENIX Security 2022)
reads the 256 tokens of half a text without [CLS] and [SEP], attends to the
padding, too, and ends in the mean over all positions, a tanh layer and the
classifier.

Submodules bear the released checkpoint's names (see `weights`); its blocks,
'encoder.layer.0' and so on, are one scanned module, so that XLA compiles a
single block.
"""

from typing import NamedTuple, Optional

import chex
from flax import linen as nn
import jax.numpy as jnp

from labelleak import validate
from labelleak.base import InputError
from labelleak.models import layers

_NORMAL = nn.initializers.normal(0.02)
_EPSILON = 1e-12
_POSITIONS = 512
_DROP = 0.1
_NECK = 128  # width of the tanh layer


class Mix(NamedTuple):
  """TMix (Chen et al., 2020): two texts' hidden states become one.

  Past block `layer` (from 1), h = share * h + (1 - share) * h of `tokens`.
  """

  tokens: chex.Array  # [B, L] of the partners
  share: chex.Array  # [] in [0, 1]
  layer: chex.Array  # [] from 1 to the depth; may be drawn under jit
  last: int = 1  # the largest that `layer` may be, which is checked


class _Attention(nn.Module):
  """Self-attention without a mask, [B, L, width] -> [B, L, width]."""

  heads: int
  drop: float

  @nn.compact
  def __call__(self, x, train):
    project = lambda name: nn.Dense(
      x.shape[-1], kernel_init=_NORMAL, name=name
    )(x).reshape(*x.shape[:2], self.heads, -1)
    q, k, v = map(project, ('query', 'key', 'value'))
    dropping = train and self.drop > 0
    mixed = nn.dot_product_attention(
      q,
      k,
      v,
      broadcast_dropout=False,
      dropout_rng=self.make_rng('dropout') if dropping else None,
      dropout_rate=self.drop,
      deterministic=not dropping,
    )
    return mixed.reshape(x.shape)


class _Output(nn.Module):
  """Projection, dropout, and the norm of the sum with what it adds to."""

  drop: float

  @nn.compact
  def __call__(self, h, x, train):
    h = nn.Dense(x.shape[-1], kernel_init=_NORMAL, name='dense')(h)
    h = nn.Dropout(self.drop, deterministic=not train)(h)
    return nn.LayerNorm(epsilon=_EPSILON, name='LayerNorm')(x + h)


class _AttentionBlock(nn.Module):
  heads: int
  drop: float

  @nn.compact
  def __call__(self, x, train):
    h = _Attention(self.heads, self.drop, name='self')(x, train)
    return _Output(self.drop, name='output')(h, x, train)


class _Intermediate(nn.Module):
  """The wide layer, ratio 4."""

  @nn.compact
  def __call__(self, x):
    width = 4 * x.shape[-1]
    h = nn.Dense(width, kernel_init=_NORMAL, name='dense')(x)
    return nn.gelu(h, approximate=False)


class _Block(nn.Module):
  """One block on x and its partner, as a scan's (carry, xs) -> (carry, _)."""

  heads: int
  drop: float
  train: bool

  @nn.compact
  def __call__(self, carry, here):
    attend = _AttentionBlock(self.heads, self.drop, name='attention')
    widen = _Intermediate(name='intermediate')
    output = _Output(self.drop, name='output')

    def block(x):
      x = attend(x, self.train)
      return output(widen(x), x, self.train)

    x, partner, share = carry
    x = block(x)
    if partner is not None:
      # The partner goes on past where it is read: one program for all layers.
      partner = block(partner)
      x = jnp.where(here, share * x + (1 - share) * partner, x)
    return (x, partner, share), None


class _Embeddings(nn.Module):
  """Words, positions and the one segment, [B, L] -> [B, L, width]."""

  vocab: int
  width: int
  drop: float

  @nn.compact
  def __call__(self, tokens, train):
    embed = lambda num, name: nn.Embed(
      num, self.width, embedding_init=_NORMAL, name=name
    )
    x = embed(self.vocab, 'word_embeddings')(tokens)
    position = jnp.arange(tokens.shape[1])
    x = x + embed(_POSITIONS, 'position_embeddings')(position)[None]
    x = x + embed(2, 'token_type_embeddings')(jnp.zeros_like(position))[None]
    x = nn.LayerNorm(epsilon=_EPSILON, name='LayerNorm')(x)
    return nn.Dropout(self.drop, deterministic=not train)(x)


class Bert(nn.Module):
  """Tokens [B, L] to logits [B, K]; training drops a tenth of each layer.

  With `mix`, the logits of two texts' mixed hidden states.
  """

  num_classes: int
  vocab: int
  width: int
  depth: int
  heads: int
  drop: float = _DROP

  @nn.compact
  def __call__(
    self,
    tokens: chex.Array,
    train: bool = False,
    mix: Optional[Mix] = None,
  ) -> chex.Array:
    chex.assert_rank(tokens, 2)
    if tokens.shape[1] > _POSITIONS:
      raise InputError(
        f'{tokens.shape[1]} tokens exceed the {_POSITIONS} positions of BERT;'
        ' set the data field `length`.'
      )
    if mix is not None and mix.last > self.depth:
      raise InputError(
        f'there is no block {mix.last} to mix past in a BERT of {self.depth}'
        ' blocks; lower mix_layers.'
      )
    embed = _Embeddings(self.vocab, self.width, self.drop, name='embeddings')
    tokens = tokens.astype(jnp.int32)  # parties' features may be floats
    x, partner, share, here = embed(tokens, train), None, None, None
    if mix is not None:
      partner, share = embed(mix.tokens.astype(jnp.int32), train), mix.share
      here = jnp.arange(1, self.depth + 1) == mix.layer
    blocks = nn.scan(
      _Block,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      length=self.depth,
    )(self.heads, self.drop, train, name='encoder')
    (x, _, _), _ = blocks((x, partner, share), here)
    h = nn.tanh(layers.Dense(_NECK, name='head_neck')(x.mean(1)))
    return layers.Dense(self.num_classes, name='head')(h)


def bert(
  *,
  num_classes: int,
  width: int,
  heads: int,
  depth: int,
  vocab: int = 30522,
  drop: float = _DROP,
) -> Bert:
  """Builds a BERT of any size.

  Raises:
    InputError: heads do not divide the width, `drop` is outside [0, 1), or a
      size is below 1.
  """
  sizes = dict(width=width, heads=heads, depth=depth, vocab=vocab)
  for name, size in sizes.items():
    validate.whole(f'bert: {name}', size, 1)
  if width % heads:
    raise InputError(
      f'width={width} does not split into heads={heads}; use a multiple.'
    )
  validate.within('bert: drop', drop, '[0, 1)')
  return Bert(num_classes=num_classes, drop=drop, **sizes)


def base(*, num_classes: int, drop: float = _DROP) -> Bert:
  """Builds bert-base-uncased: 108,891,648 parameters before the head."""
  return bert(num_classes=num_classes, width=768, heads=12, depth=12, drop=drop)
