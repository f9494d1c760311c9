"""A passive party's logs: digits by halves, trained by hand in NumPy."""

from collections.abc import Callable, Sequence
import functools
from typing import Optional

import numpy as np

from labelleak import data

State = dict[str, np.ndarray]
_ROWS = 600


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
  source = data.load('digits', split='train')
  x = np.asarray(source.take(np.arange(_ROWS)), np.float64).reshape(_ROWS, 64)
  return x, np.asarray(source.y[:_ROWS], int)


def labels(num_classes: int = 10) -> np.ndarray:
  """Returns the labels of all rows that `log` may have; of two, 5 and above."""
  y = _digits()[1]
  return (y >= 5).astype(int) if num_classes == 2 else y % num_classes


def log(
  sizes: Sequence[int],
  *,
  num_classes: int = 10,
  loss: str = 'softmax',
  width: Optional[int] = None,
  lr: float = 0.5,
  sealed: bool = False,
  features: int = 32,
  start: float = 0.1,
  scale: Callable[[int], float] = lambda size: 1.0,
  order: Optional[np.ndarray] = None,
) -> State:
  """Makes the log of SGD on two linear bottoms, of one step a size.

  Args:
    sizes: rows of each step, taken in their order.
    num_classes: K.
    loss: 'softmax'; 'sigmoid' or 'taylor' of one logit.
    width: D below a linear top that is not trained; None: logits are added.
    lr: learning rate.
    sealed: whether parameters and their gradients are logged.
    features: of the passive party.
    start: deviation of its first weights.
    scale: of a step's size, that gradients are multiplied by.
    order: rows in the order of training.
  """
  rng = np.random.default_rng(0)
  x, y = _digits()[0], labels(num_classes)
  parts = x[:, :features], np.c_[x[:, features:], np.ones(_ROWS)]
  outputs = num_classes if loss == 'softmax' else 1
  wide = width or outputs
  weights = [start * rng.normal(size=(p.shape[1], wide)) for p in parts]
  weights[1][:] = 0
  top = rng.normal(size=(wide, outputs)) if width else np.eye(outputs)
  order = np.arange(sum(sizes)) % _ROWS if order is None else order
  lines = {name: [] for name in ('step', 'row', 'x', 'h', 'cut_grads')}
  params, grads, begin = [], [], 0
  for number, size in enumerate(sizes):
    rows = order[begin : begin + size]
    begin += size
    hs = [part[rows] @ weight for part, weight in zip(parts, weights)]
    cut = scale(size) * _residue(sum(hs) @ top, y[rows], loss) @ top.T / size
    gradients = [part[rows].T @ cut for part in parts]
    values = np.full(size, number), rows, parts[0][rows], hs[0], cut
    for name, value in zip(lines, values):
      lines[name].append(value)
    params.append(weights[0].T)
    grads.append(gradients[0].T)
    weights = [w - lr * g for w, g in zip(weights, gradients)]
  arrays = {n: np.concatenate(v) for n, v in lines.items()}
  for name in ('x', 'h', 'cut_grads'):
    arrays[name] = arrays[name].astype(np.float32)
  del arrays['cut_grads' if sealed else 'x']
  if sealed:
    arrays['params/fc.weight'] = np.stack(params).astype(np.float32)
    arrays['param_grads/fc.weight'] = np.stack(grads).astype(np.float32)
  return arrays


def _residue(z, y, loss) -> np.ndarray:
  """Returns dL/dz of every row, [B, K] or [B, 1]."""
  if loss == 'softmax':
    odds = np.exp(z - z.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True) - np.eye(z.shape[1])[y]
  if loss == 'sigmoid':
    return 1 / (1 + np.exp(-z)) - y[:, None]
  return 0.25 * z - 0.5 * (2 * y[:, None] - 1)
