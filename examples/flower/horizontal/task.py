"""Model, data and training of a client: nothing of Flower, or of labelleak."""

import numpy as np
from sklearn import datasets
import torch
from torch import nn

NUM_CLASSES = 10
NUM_EXAMPLES = 200  # of each client
BATCH_SIZE = 32  # leaves a last batch of 8
MOMENTUM = 0.9


class Net(nn.Module):
  """A small convolutional network for images of 8 x 8."""

  def __init__(self):
    super().__init__()
    self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
    self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
    self.fc = nn.Linear(512, NUM_CLASSES)

  def forward(self, x):
    x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
    return self.fc(self.conv2(x).relu().flatten(1))


def load_client(partition: int, num_partitions: int):
  """Draws a client's examples, of which some classes are many, others few."""
  x, y = _load_digits()
  own = np.arange(partition, len(y) * 3 // 4, num_partitions)
  rng = np.random.default_rng(partition)
  shares = rng.dirichlet(np.full(NUM_CLASSES, 0.5))[y[own]]
  rows = rng.choice(own, NUM_EXAMPLES, replace=False, p=shares / shares.sum())
  return torch.utils.data.TensorDataset(x[rows], y[rows])


def load_test():
  """Returns images and labels of the test split, of other writers."""
  x, y = _load_digits()
  return x[len(y) * 3 // 4 :], y[len(y) * 3 // 4 :]


def train(model: nn.Module, examples, lr: float) -> None:
  """Trains for one epoch, as a client does in a round."""
  loader = torch.utils.data.DataLoader(
    examples, batch_size=BATCH_SIZE, shuffle=True
  )
  optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM)
  for x, y in loader:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def accuracy(model: nn.Module) -> float:
  """Returns the share of the test examples that a model names."""
  x, y = load_test()
  with torch.no_grad():
    return float((model(x).argmax(1) == y).float().mean())


def _load_digits():
  x, y = datasets.load_digits(return_X_y=True)
  x = torch.tensor(x / 8 - 1, dtype=torch.float32)
  return x.view(-1, 1, 8, 8), torch.tensor(y)
