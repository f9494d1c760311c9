"""Data and models of all parties: nothing of Flower, or of labelleak."""

import numpy as np
from sklearn import datasets
import torch
from torch import nn

BATCH_SIZE = 128
NUM_FEATURES = 4  # of an embedding


def load_columns(partition: int, num_partitions: int) -> torch.Tensor:
  """Returns the columns of all rows that a client has, scaled."""
  x, _ = datasets.load_breast_cancer(return_X_y=True)
  x = np.array_split((x - x.mean(0)) / x.std(0), num_partitions, axis=1)
  return torch.tensor(x[partition], dtype=torch.float32)


def load_labels() -> torch.Tensor:
  """Returns the labels of all rows, which the server has."""
  _, y = datasets.load_breast_cancer(return_X_y=True)
  return torch.tensor(y)


def draw_batches(num_rows: int, num_steps: int) -> list[list[int]]:
  """Draws the rows of each step, each row once an epoch."""
  rng = np.random.default_rng(0)
  size = num_rows // BATCH_SIZE * BATCH_SIZE
  epochs = -(-num_steps * BATCH_SIZE // size)
  rows = np.concatenate(
    [rng.permutation(num_rows)[:size] for _ in range(epochs)]
  )
  return rows.reshape(-1, BATCH_SIZE)[:num_steps].tolist()


def make_bottom(num_columns: int) -> nn.Module:
  """Makes a client's model, as Flower's vertical example has it."""
  return nn.Linear(num_columns, NUM_FEATURES)


def make_top(num_clients: int) -> nn.Module:
  """Makes the server's model, to one logit."""
  return nn.Linear(num_clients * NUM_FEATURES, 1)
