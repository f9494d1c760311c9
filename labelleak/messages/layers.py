"""Linear layers of an update: their tensors, layout and behaviour.

Under softmax cross entropy each example's gradient of the logits sums to zero,
so the update of a bias [K], and of every row of a kernel [H, K], sums to zero
over the classes, whatever the number of steps of SGD, its momentum and its
batches. Adam, weight decay, sigmoid outputs and noise break it.
"""

import itertools
import math
from typing import NamedTuple, Optional

import numpy as np

from labelleak.base import InputError
from labelleak.messages import files
from labelleak.models.weights import gradients
from labelleak.models.weights.state_dicts import State


class Layer(NamedTuple):
  """A linear layer of a file.

  Attributes:
    kernel: name of its matrix, or None.
    bias: name of its bias, or None.
    widths: what K may be; two numbers where the layout is not known.
  """

  kernel: Optional[str]
  bias: Optional[str]
  widths: tuple[int, ...]

  def __str__(self):
    names = ' + '.join(name for name in self[:2] if name)
    return f'{names} (K={" or ".join(map(str, self.widths)) or "?"})'


def parse(update: State) -> list[Layer]:
  """Lists the layers of an update in its order, heads or not."""
  return _listed(update) if files.is_listed(update) else _named(update)


def imbalance(tensor: np.ndarray) -> float:
  """Measures how far a leaf [..., K] is from summing to zero over classes.

  Returns:
    The sizes of the sums over those of the entries: 0 under softmax cross
    entropy, about 1 / sqrt(K) for random entries, 1 where signs agree.
  """
  tensor = np.float64(tensor)
  size = np.abs(tensor).sum()
  return float(np.abs(tensor.sum(-1)).sum() / size) if size else 1.0


def tolerance(num_classes: int) -> float:
  """Returns the largest `imbalance` of K classes that rounding makes.

  A fifth of what random entries have, of many classes.
  """
  return min(0.02, 0.2 / math.sqrt(num_classes))


def orient(
  path: str,
  update: State,
  layer: Layer,
  num_classes: Optional[int] = None,
) -> bool:
  """Tells whether the layer's matrix is torch's [K, H] and not [H, K].

  A square one without a name of its layout is told by what sums to zero.

  Raises:
    InputError: nothing tells it.
  """
  if layer.kernel is None:
    return False
  matrix = gradients.squeeze(layer.kernel, update[layer.kernel])
  if layer.bias is not None:
    num_classes = update[layer.bias].size
  try:
    return gradients.is_torch(path, layer.kernel, matrix.shape, num_classes)
  except InputError as e:
    sums = imbalance(matrix), imbalance(matrix.T)
    square = matrix.shape[0] == matrix.shape[1]
    most = tolerance(matrix.shape[0])
    if square and min(sums) < most and max(sums) > 5 * most:
      return sums[1] < sums[0]
    raise InputError(
      f'{path}: {layer.kernel} {matrix.shape} may be a weight [K, H] or a'
      ' kernel [H, K]; give num_classes=, or names= that end in either.'
    ) from e


def leaves(state: State, layer: Layer, torch: bool) -> State:
  """Returns {'kernel' [H, K]?, 'bias' [K]?} of a layer, as `orient` told."""
  values = {}
  if layer.kernel is not None:
    matrix = gradients.squeeze(layer.kernel, state[layer.kernel])
    values['kernel'] = matrix.T if torch else matrix
  if layer.bias is not None:
    values['bias'] = state[layer.bias]
  return values


def is_balanced(
  update: State, layer: Layer, num_classes: Optional[int]
) -> bool:
  """Tells whether what moved of a layer sums to zero over classes."""
  try:
    torch = orient('', update, layer, num_classes)
  except InputError:
    return False
  moved = [v for v in leaves(update, layer, torch).values() if v.any()]
  return bool(moved) and all(
    imbalance(v) < tolerance(v.shape[-1]) for v in moved
  )


def count_outputs(
  update: State, kernel: Optional[str], bias: Optional[str]
) -> tuple[int, ...]:
  """Returns what K may be for a kernel and a bias; nothing if they misfit."""
  if bias is not None and update[bias].ndim != 1:
    return ()
  if kernel is None:
    return (update[bias].size,)
  shape = gradients.squeeze(kernel, update[kernel]).shape
  if len(shape) != 2:
    return ()
  if bias is not None:
    return (update[bias].size,) if update[bias].size in shape else ()
  leaf = gradients.parse(kernel)[1]
  if leaf is None:
    return tuple(dict.fromkeys(shape))
  return shape[:1] if leaf == 'weight' else shape[1:]


def _named(update: State) -> list[Layer]:
  """Groups tensors to layers by the names of their modules."""
  modules = {}
  for name in update:
    module, leaf = gradients.parse(name)
    if leaf is not None:
      kernels, biases = modules.setdefault(module, ([], []))
      (biases if leaf in gradients.BIASES else kernels).append(name)
  layers = [
    Layer(kernel, bias, count_outputs(update, kernel, bias))
    for kernels, biases in modules.values()
    for kernel, bias in itertools.product(kernels or [None], biases or [None])
  ]
  return [layer for layer in layers if layer.widths]


def _listed(update: State) -> list[Layer]:
  """Pairs each matrix of a list with the vector after it, if that fits."""
  names = [*update, None]
  layers = []
  for kernel, bias in itertools.pairwise(names):
    if gradients.squeeze(kernel, update[kernel]).ndim == 2:
      beside = count_outputs(update, kernel, bias) if bias else ()
      widths = beside or count_outputs(update, kernel, None)
      layers.append(Layer(kernel, bias if beside else None, widths))
  return layers
