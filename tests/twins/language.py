"""A plain torch twin of BERT with the names of the released checkpoints.

Arithmetic is torch's own encoder layer, told to normalise last, so that it has
nothing in common with ours but the paper.
"""

import torch
from torch import nn


class _Self(nn.Module):
  def __init__(self, width):
    super().__init__()
    for name in ('query', 'key', 'value'):
      setattr(self, name, nn.Linear(width, width))


class _Dense(nn.Module):
  def __init__(self, fan_in, fan_out, norm=True):
    super().__init__()
    self.dense = nn.Linear(fan_in, fan_out)
    if norm:
      self.LayerNorm = nn.LayerNorm(fan_out, eps=1e-12)


class _Attention(nn.Module):
  def __init__(self, width):
    super().__init__()
    self.self = _Self(width)
    self.output = _Dense(width, width)


class _Layer(nn.Module):
  def __init__(self, width, heads):
    super().__init__()
    self.heads = heads
    self.attention = _Attention(width)
    self.intermediate = _Dense(width, 4 * width, norm=False)
    self.output = _Dense(4 * width, width)

  def forward(self, x):
    """By torch.nn.TransformerEncoderLayer, fed with these parameters."""
    theirs = nn.TransformerEncoderLayer(
      x.shape[-1],
      self.heads,
      4 * x.shape[-1],
      dropout=0.0,
      activation='gelu',
      layer_norm_eps=1e-12,
      batch_first=True,
    ).eval()
    parts = [getattr(self.attention.self, n) for n in ('query', 'key', 'value')]
    pairs = {
      'self_attn.in_proj_weight': torch.cat([p.weight for p in parts]),
      'self_attn.in_proj_bias': torch.cat([p.bias for p in parts]),
    }
    for name, layer in {
      'self_attn.out_proj': self.attention.output.dense,
      'norm1': self.attention.output.LayerNorm,
      'linear1': self.intermediate.dense,
      'linear2': self.output.dense,
      'norm2': self.output.LayerNorm,
    }.items():
      pairs |= {f'{name}.weight': layer.weight, f'{name}.bias': layer.bias}
    theirs.load_state_dict(pairs)
    return theirs(x)


class _Embeddings(nn.Module):
  def __init__(self, vocab, width):
    super().__init__()
    self.word_embeddings = nn.Embedding(vocab, width)
    self.position_embeddings = nn.Embedding(512, width)
    self.token_type_embeddings = nn.Embedding(2, width)
    self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

  def forward(self, tokens):
    place = torch.arange(tokens.shape[1])
    x = self.word_embeddings(tokens) + self.position_embeddings(place)
    return self.LayerNorm(x + self.token_type_embeddings(0 * place))


class _Encoder(nn.Module):
  def __init__(self, width, heads, depth):
    super().__init__()
    self.layer = nn.ModuleList([_Layer(width, heads) for _ in range(depth)])


class Bert(nn.Module):
  """With the head of Fu et al.'s Yahoo bottom, under our names of it."""

  def __init__(self, num_classes, vocab, width, depth, heads):
    super().__init__()
    self.embeddings = _Embeddings(vocab, width)
    self.encoder = _Encoder(width, heads, depth)
    self.head_neck = nn.Linear(width, 128)
    self.head = nn.Linear(128, num_classes)

  def forward(self, tokens, mix=None):
    """`mix`: (partners' tokens, share, block past which to mix)."""
    x = self.embeddings(tokens)
    if mix is not None:
      partner = self.embeddings(mix[0])
    for number, layer in enumerate(self.encoder.layer, 1):
      x = layer(x)
      if mix is not None and number <= mix[2]:
        partner = layer(partner)
        if number == mix[2]:
          x = mix[1] * x + (1 - mix[1]) * partner
    return self.head(torch.tanh(self.head_neck(x.mean(1))))
