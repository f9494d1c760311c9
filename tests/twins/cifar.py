"""PyTorch twins of the models for small images, with torch's default init.

Written after the LLBG paper's repository: MLP, `convnetsmall`, VGG with batch
norm, ResNet with projection shortcuts. Submodules are named so that a
state_dict converts by `labelleak.models.weights`.
"""

from torch import nn
import torch.nn.functional as F

PLANS = {
  11: [64, 'M', 128, 'M', 256, 256, 'M', 512, 512, 'M', 512, 512, 'M'],
  19: [64, 64, 'M', 128, 128, 'M', *[256] * 4, 'M', *[512] * 4, 'M']
  + [*[512] * 4, 'M'],
}


class Mlp(nn.Module):
  """Three hidden ReLU layers on a flattened image."""

  def __init__(self, num_classes, features=3072, width=1024):
    super().__init__()
    self.linear0 = nn.Linear(features, width)
    self.linear1 = nn.Linear(width, width)
    self.linear2 = nn.Linear(width, width)
    self.head = nn.Linear(width, num_classes)

  def forward(self, x):
    x = F.relu(self.linear0(x.flatten(1)))
    x = F.relu(self.linear1(x))
    return self.head(F.relu(self.linear2(x)))


class Cnn(nn.Module):
  """Four convolutions, a max pool before the last one."""

  def __init__(self, num_classes, width=256):
    super().__init__()
    self.conv0 = nn.Conv2d(3, width, 3, padding=1)
    self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1)
    self.conv2 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
    self.conv3 = nn.Conv2d(4 * width, 4 * width, 3, stride=2, padding=1)
    self.head = nn.Linear(4 * width, num_classes)

  def forward(self, x):
    x = F.relu(self.conv1(F.relu(self.conv0(x))))
    x = F.max_pool2d(F.relu(self.conv2(x)), 3)
    x = F.relu(self.conv3(x))
    return self.head(x.mean((2, 3)))


class Vgg(nn.Module):
  """Convolutions with bias and batch norm, one linear layer."""

  def __init__(self, depth, num_classes):
    super().__init__()
    layers, channels = [], 3
    for width in PLANS[depth]:
      if width == 'M':
        layers.append(nn.MaxPool2d(2))
        continue
      layers.append(nn.Conv2d(channels, width, 3, padding=1))
      layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
      channels = width
    self.features = nn.Sequential(*layers)
    self.classifier = nn.Linear(512, num_classes)

  def forward(self, x):
    return self.classifier(self.features(x).mean((2, 3)))


class Block(nn.Module):
  """Basic residual block."""

  def __init__(self, channels, width, stride):
    super().__init__()
    self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    self.downsample = nn.Sequential()
    if stride != 1 or channels != width:
      self.downsample = nn.Sequential(
        nn.Conv2d(channels, width, 1, stride, bias=False),
        nn.BatchNorm2d(width),
      )

  def forward(self, x):
    y = F.relu(self.bn1(self.conv1(x)))
    return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet(nn.Module):
  """Three stages of `blocks` basic blocks."""

  def __init__(self, blocks, num_classes, width=16):
    super().__init__()
    self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    channels = width
    for stage in range(3):
      layers = []
      for i in range(blocks):
        stride = 2 if stage and i == 0 else 1
        layers.append(Block(channels, width * 2**stage, stride))
        channels = width * 2**stage
      self.add_module(f'layer{stage + 1}', nn.Sequential(*layers))
    self.fc = nn.Linear(channels, num_classes)

  def forward(self, x):
    x = F.relu(self.bn1(self.conv1(x)))
    x = self.layer3(self.layer2(self.layer1(x)))
    return self.fc(x.mean((2, 3)))


def randomise_statistics(model: nn.Module) -> nn.Module:
  """Gives batch norms statistics and scales that a wrong mapping would show."""
  for module in model.modules():
    if isinstance(module, nn.BatchNorm2d):
      nn.init.uniform_(module.running_mean, -0.5, 0.5)
      nn.init.uniform_(module.running_var, 0.5, 1.5)
      nn.init.uniform_(module.weight, 0.5, 1.5)
      nn.init.uniform_(module.bias, -0.5, 0.5)
  return model.eval()
