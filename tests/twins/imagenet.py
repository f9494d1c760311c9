"""Plain torch twins of torchvision's and timm's ImageNet networks.

State_dict names and arithmetic are those of torchvision 0.15 and timm 0.9, so
that a file saved from a twin stands for one saved from the library.
"""

import torch
from torch import nn
import torch.nn.functional as F


def _conv_norm(cin, cout, kernel=1, stride=1, groups=1, act=None):
  layers = [
    nn.Conv2d(
      cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False
    ),
    nn.BatchNorm2d(cout),
  ]
  return [*layers, act()] if act else layers


class _Bottleneck(nn.Module):
  def __init__(self, cin, inner, stride):
    super().__init__()
    out = 4 * inner
    self.conv1, self.bn1 = _conv_norm(cin, inner)
    self.conv2, self.bn2 = _conv_norm(inner, inner, 3, stride)
    self.conv3, self.bn3 = _conv_norm(inner, out)
    self.downsample = None
    if stride > 1 or cin != out:
      self.downsample = nn.Sequential(*_conv_norm(cin, out, 1, stride))

  def forward(self, x):
    y = F.relu(self.bn1(self.conv1(x)))
    y = F.relu(self.bn2(self.conv2(y)))
    y = self.bn3(self.conv3(y))
    return F.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet50(nn.Module):
  def __init__(self, num_classes):
    super().__init__()
    self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(64)
    cin = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
      inner, layers = 64 * 2**stage, []
      for i in range(blocks):
        stride = 2 if stage and i == 0 else 1
        layers.append(_Bottleneck(cin, inner, stride))
        cin = 4 * inner
      setattr(self, f'layer{stage + 1}', nn.Sequential(*layers))
    self.fc = nn.Linear(cin, num_classes)

  def forward(self, x):
    x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
    for stage in range(1, 5):
      x = getattr(self, f'layer{stage}')(x)
    return self.fc(x.mean((2, 3)))


class Vgg19(nn.Module):
  def __init__(self, num_classes):
    super().__init__()
    layers, cin = [], 3
    for width, repeats in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
      for _ in range(repeats):
        layers += [nn.Conv2d(cin, width, 3, padding=1), nn.ReLU()]
        cin = width
      layers.append(nn.MaxPool2d(2))
    self.features = nn.Sequential(*layers)
    self.classifier = nn.Sequential(
      nn.Linear(512 * 7 * 7, 4096),
      nn.ReLU(),
      nn.Dropout(),
      nn.Linear(4096, 4096),
      nn.ReLU(),
      nn.Dropout(),
      nn.Linear(4096, num_classes),
    )

  def forward(self, x):
    x = F.adaptive_avg_pool2d(self.features(x), 7)
    return self.classifier(x.flatten(1))


class _Excitation(nn.Module):
  def __init__(self, channels, squeezed):
    super().__init__()
    self.fc1 = nn.Conv2d(channels, squeezed, 1)
    self.fc2 = nn.Conv2d(squeezed, channels, 1)

  def forward(self, x):
    gate = self.fc1(F.adaptive_avg_pool2d(x, 1))
    return x * torch.sigmoid(self.fc2(F.silu(gate)))


class _MBConv(nn.Module):
  def __init__(self, cin, cout, kernel, stride, expansion):
    super().__init__()
    wide = cin * expansion
    layers = []
    if expansion > 1:
      layers.append(nn.Sequential(*_conv_norm(cin, wide, act=nn.SiLU)))
    layers += [
      nn.Sequential(*_conv_norm(wide, wide, kernel, stride, wide, nn.SiLU)),
      _Excitation(wide, max(1, cin // 4)),
      nn.Sequential(*_conv_norm(wide, cout)),
    ]
    self.block = nn.Sequential(*layers)
    self.residual = stride == 1 and cin == cout

  def forward(self, x):
    return self.block(x) + x if self.residual else self.block(x)


class EfficientNetB0(nn.Module):
  def __init__(self, num_classes):
    super().__init__()
    stages = [nn.Sequential(*_conv_norm(3, 32, 3, 2, act=nn.SiLU))]
    cin = 32
    for expansion, kernel, stride, cout, repeats in (
      (1, 3, 1, 16, 1),
      (6, 3, 2, 24, 2),
      (6, 5, 2, 40, 2),
      (6, 3, 2, 80, 3),
      (6, 5, 1, 112, 3),
      (6, 5, 2, 192, 4),
      (6, 3, 1, 320, 1),
    ):
      blocks = []
      for i in range(repeats):
        blocks.append(_MBConv(cin, cout, kernel, 1 if i else stride, expansion))
        cin = cout
      stages.append(nn.Sequential(*blocks))
    stages.append(nn.Sequential(*_conv_norm(cin, 1280, act=nn.SiLU)))
    self.features = nn.Sequential(*stages)
    self.classifier = nn.Sequential(
      nn.Dropout(0.2), nn.Linear(1280, num_classes)
    )

  def forward(self, x):
    return self.classifier(self.features(x).mean((2, 3)))


class _InvertedResidual(nn.Module):
  def __init__(self, cin, cout, kernel, stride, expansion):
    super().__init__()
    wide = cin * expansion
    self.layers = nn.Sequential(
      *_conv_norm(cin, wide, act=nn.ReLU),
      *_conv_norm(wide, wide, kernel, stride, wide, nn.ReLU),
      *_conv_norm(wide, cout),
    )
    self.residual = stride == 1 and cin == cout

  def forward(self, x):
    return self.layers(x) + x if self.residual else self.layers(x)


class MnasNet(nn.Module):
  def __init__(self, num_classes):
    super().__init__()
    layers = [
      *_conv_norm(3, 32, 3, 2, act=nn.ReLU),
      *_conv_norm(32, 32, 3, groups=32, act=nn.ReLU),
      *_conv_norm(32, 16),
    ]
    cin = 16
    for cout, kernel, stride, expansion, repeats in (
      (24, 3, 2, 3, 3),
      (40, 5, 2, 3, 3),
      (80, 5, 2, 6, 3),
      (96, 3, 1, 6, 2),
      (192, 5, 2, 6, 4),
      (320, 3, 1, 6, 1),
    ):
      stack = []
      for i in range(repeats):
        stack.append(
          _InvertedResidual(cin, cout, kernel, 1 if i else stride, expansion)
        )
        cin = cout
      layers.append(nn.Sequential(*stack))
    layers += _conv_norm(cin, 1280, act=nn.ReLU)
    self.layers = nn.Sequential(*layers)
    self.classifier = nn.Sequential(
      nn.Dropout(0.2), nn.Linear(1280, num_classes)
    )

  def forward(self, x):
    return self.classifier(self.layers(x).mean((2, 3)))


class _Shuffle(nn.Module):
  def __init__(self, cin, cout, stride):
    super().__init__()
    half = cout // 2
    self.stride = stride
    self.branch1 = nn.Sequential()
    if stride > 1:
      self.branch1 = nn.Sequential(
        *_conv_norm(cin, cin, 3, stride, cin),
        *_conv_norm(cin, half, act=nn.ReLU),
      )
    self.branch2 = nn.Sequential(
      *_conv_norm(cin if stride > 1 else half, half, act=nn.ReLU),
      *_conv_norm(half, half, 3, stride, half),
      *_conv_norm(half, half, act=nn.ReLU),
    )

  def forward(self, x):
    a, b = (x, x) if self.stride > 1 else x.chunk(2, dim=1)
    y = torch.cat((self.branch1(a), self.branch2(b)), dim=1)
    n, c, h, w = y.shape
    return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleNet(nn.Module):
  def __init__(self, num_classes):
    super().__init__()
    self.conv1 = nn.Sequential(*_conv_norm(3, 24, 3, 2, act=nn.ReLU))
    cin = 24
    for stage, (cout, repeats) in enumerate(((116, 4), (232, 8), (464, 4)), 2):
      units = []
      for i in range(repeats):
        units.append(_Shuffle(cin, cout, 1 if i else 2))
        cin = cout
      setattr(self, f'stage{stage}', nn.Sequential(*units))
    self.conv5 = nn.Sequential(*_conv_norm(cin, 1024, act=nn.ReLU))
    self.fc = nn.Linear(1024, num_classes)

  def forward(self, x):
    x = F.max_pool2d(self.conv1(x), 3, 2, 1)
    for stage in (2, 3, 4):
      x = getattr(self, f'stage{stage}')(x)
    return self.fc(self.conv5(x).mean((2, 3)))


class _Attention(nn.Module):
  def __init__(self, width, heads):
    super().__init__()
    self.heads = heads
    self.qkv = nn.Linear(width, 3 * width)
    self.proj = nn.Linear(width, width)

  def forward(self, x):
    b, n, width = x.shape
    qkv = self.qkv(x).reshape(b, n, 3, self.heads, width // self.heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    weight = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return self.proj((weight @ v).transpose(1, 2).reshape(b, n, width))


class _Mlp(nn.Module):
  def __init__(self, width):
    super().__init__()
    self.fc1 = nn.Linear(width, 4 * width)
    self.fc2 = nn.Linear(4 * width, width)

  def forward(self, x):
    return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
  def __init__(self, width, heads):
    super().__init__()
    self.norm1 = nn.LayerNorm(width, eps=1e-6)
    self.attn = _Attention(width, heads)
    self.norm2 = nn.LayerNorm(width, eps=1e-6)
    self.mlp = _Mlp(width)

  def forward(self, x):
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class _PatchEmbed(nn.Module):
  def __init__(self, channels, width, patch):
    super().__init__()
    self.proj = nn.Conv2d(channels, width, patch, patch)

  def forward(self, x):
    return self.proj(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
  def __init__(
    self, num_classes, width, depth, heads, patch, image_size, channels=3
  ):
    super().__init__()
    tokens = (image_size // patch) ** 2 + 1
    self.patch_embed = _PatchEmbed(channels, width, patch)
    self.cls_token = nn.Parameter(torch.randn(1, 1, width))
    self.pos_embed = nn.Parameter(torch.randn(1, tokens, width))
    self.blocks = nn.Sequential(*[_Block(width, heads) for _ in range(depth)])
    self.norm = nn.LayerNorm(width, eps=1e-6)
    self.head = nn.Linear(width, num_classes)

  def forward(self, x):
    token = self.cls_token.expand(len(x), -1, -1)
    x = torch.cat((token, self.patch_embed(x)), dim=1) + self.pos_embed
    return self.head(self.norm(self.blocks(x))[:, 0])
