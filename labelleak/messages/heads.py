"""Which tensors of an update are the classifier's: by name, shape, behaviour.

Under softmax cross entropy each example's gradient of the logits sums to zero,
so the update of a bias [K], and of every row of a kernel [H, K], sums to zero
over the classes, whatever the number of steps of SGD, its momentum and its
batches. Adam, weight decay, sigmoid outputs and noise break it. A linear layer
before layer norm has it too, so that it decides among layers of K outputs only,
or where names do not.
"""

from collections.abc import Callable
import itertools
import re
from typing import NamedTuple, Optional

import numpy as np

from labelleak.base import InputError
from labelleak.messages import files
from labelleak.models.weights import gradients, state_dicts
from labelleak.models.weights.state_dicts import State

# What heads are called, before what they may be called.
_NAMES = (
  re.compile(
    r'(.*[\W_])?(fc|head|heads|classifier|logits|score|lm_head|cls'
    r'|classification_head)([._]\d+)*'
  ),
  re.compile(r'(.*[\W_])?(fc|linear|out|output|predictions|dense)[._]?\d*'),
)
BALANCE = 0.02  # sums over classes beside sums of sizes, at rounding


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


Test = Callable[[Layer], bool]  # whether a layer may be the head


def find(
  path: str,
  update: State,
  *,
  num_classes: Optional[int] = None,
  kernel: Optional[str] = None,
  bias: Optional[str] = None,
  ordered: bool = True,
) -> tuple[Layer, tuple[str, ...]]:
  """Finds the head of an update, and says why it was taken for it.

  Args:
    path: the file to name.
    update: by name, in the order of the file.
    num_classes: K, where it is told.
    kernel: name of the head's matrix; the bias of its module is read, too.
    bias: name of the head's bias, alike.
    ordered: whether the order of `update` is that of the model.

  Raises:
    InputError: no layer may be the head, more than one may, or the one that has
      K outputs is less like a head than another.
  """
  layers = _listed(update) if files.is_listed(update) else _parsed(update)
  if kernel is not None or bias is not None:
    return _pair(path, update, layers, kernel, bias, num_classes), ()
  candidates = _classifiers(update, layers, num_classes)
  if not candidates:
    told = '' if num_classes is None else f' of {num_classes=}'
    raise InputError(
      f'{path} holds no linear layer{told}, but {_abbreviate(layers)}; set'
      ' num_classes= as it was trained, or kernel= and bias=.'
    )
  balanced = lambda layer: _is_balanced(update, layer, num_classes)
  layer, notes = _choose(
    path, update, candidates, num_classes, balanced, ordered
  )
  others = [
    layer for layer in _classifiers(update, layers) if layer not in candidates
  ]
  rivals = [layer for layer in others if balanced(layer)]
  if rivals and not balanced(layer):
    raise InputError(
      f'{path}: {layer} does not sum to zero over classes, as a head does'
      f' under softmax cross entropy, but {_abbreviate(rivals)} does; set'
      ' num_classes= to that, or kernel= and bias=.'
    )
  return layer, notes


def imbalance(tensor: np.ndarray) -> float:
  """Measures how far a leaf [..., K] is from summing to zero over classes.

  Returns:
    The sizes of the sums over those of the entries: 0 under softmax cross
    entropy, about 1 / sqrt(K) for random entries, 1 where signs agree.
  """
  tensor = np.float64(tensor)
  size = np.abs(tensor).sum()
  return float(np.abs(tensor.sum(-1)).sum() / size) if size else 1.0


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
  except InputError:
    sums = imbalance(matrix), imbalance(matrix.T)
    square = matrix.shape[0] == matrix.shape[1]
    if not square or min(sums) > BALANCE or max(sums) < 5 * BALANCE:
      raise
    return sums[1] < sums[0]


def leaves(state: State, layer: Layer, torch: bool) -> State:
  """Returns {'kernel' [H, K]?, 'bias' [K]?} of a layer, as `orient` told."""
  values = {}
  if layer.kernel is not None:
    matrix = gradients.squeeze(layer.kernel, state[layer.kernel])
    values['kernel'] = matrix.T if torch else matrix
  if layer.bias is not None:
    values['bias'] = state[layer.bias]
  return values


def _pair(path, update, layers, kernel, bias, num_classes):
  """Returns the layer of the names that were told."""
  kernel, bias = (n and state_dicts.unwrap(n) for n in (kernel, bias))
  if kernel is not None:
    gradients.tensor(path, update, 'kernel', kernel, ndim=2)
  if bias is not None:
    gradients.tensor(path, update, 'bias', bias, ndim=1)
  fit = lambda layer: (
    kernel in (None, layer.kernel) and bias in (None, layer.bias)
  )
  layer = next(
    filter(fit, layers), Layer(kernel, bias, _widths(update, kernel, bias))
  )
  if not layer.widths or num_classes not in (None, *layer.widths):
    told = '' if num_classes is None else f' and {num_classes=}'
    raise InputError(
      f'{path}: the shapes of {layer}{told} do not fit; set kernel=, bias= and'
      ' num_classes= as the head has them.'
    )
  return layer


def _classifiers(update, layers, num_classes=None):
  """Selects the layers that may be a head [H, K]; matrices, if there are any.

  A bias may stand alone, where no tensor of the update has another axis.
  """
  fit = [layer for layer in layers if num_classes in (None, *layer.widths)]
  if all(tensor.ndim < 2 for tensor in update.values()):
    return fit
  linear = [layer for layer in fit if layer.kernel]
  matrices = [layer for layer in linear if update[layer.kernel].ndim == 2]
  return matrices or [layer for layer in linear if layer.bias]


def _parsed(update: State) -> list[Layer]:
  """Groups tensors to layers by the names of their modules."""
  modules = {}
  for name in update:
    module, leaf = gradients.parse(name)
    if leaf is not None:
      kernels, biases = modules.setdefault(module, ([], []))
      (biases if leaf in gradients.BIASES else kernels).append(name)
  layers = [
    Layer(kernel, bias, _widths(update, kernel, bias))
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
      beside = _widths(update, kernel, bias) if bias else ()
      widths = beside or _widths(update, kernel, None)
      layers.append(Layer(kernel, bias if beside else None, widths))
  return layers


def _widths(update, kernel, bias):
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


def _is_balanced(update, layer, num_classes):
  """Tells whether what moved of a layer sums to zero over classes."""
  try:
    torch = orient('', update, layer, num_classes)
  except InputError:
    return False
  moved = [v for v in leaves(update, layer, torch).values() if v.any()]
  return bool(moved) and all(imbalance(v) < BALANCE for v in moved)


def _choose(path, update, candidates, num_classes, balanced, ordered):
  """Narrows the candidates by one test after the other, down to one."""
  moved = lambda layer: any(update[name].any() for name in layer[:2] if name)
  sums = (balanced, 'because its update sums to zero over classes')
  names = [(_match(pattern), 'by its name') for pattern in _NAMES]
  tests = [names[0], sums]  # where K is not told, a vague name is none
  if num_classes:
    tests = [(moved, 'because no other moved'), sums, *names]
  layers, reason = candidates, ''
  while len(layers) > 1 and tests:
    test, reason = tests.pop(0)
    layers = [layer for layer in layers if test(layer)] or layers
  if len(layers) > 1 and num_classes:
    layers, reason = _last(layers, ordered), 'because it is the last'
  if len(layers) > 1:
    raise InputError(
      f'{path} holds {_abbreviate(layers)}, each of which may be the head; set'
      ' num_classes=, or kernel= and bias= to the names of one.'
    )
  if len(candidates) == 1:
    return layers[0], ()
  note = f'Of {len(candidates)} linear layers {layers[0]} was taken, {reason}.'
  return layers[0], (note,)


def _match(pattern) -> Test:
  module = lambda layer: gradients.parse(layer.kernel or layer.bias)[0]
  return lambda layer: bool(pattern.fullmatch(module(layer)))


def _last(layers, ordered):
  """Selects the last layer, if the order of names or of the file tells it."""
  if ordered:
    return layers[-1:]
  names = [layer.kernel or layer.bias for layer in layers]
  numbers = [[int(n) for n in re.findall(r'\d+', name)] for name in names]
  alike = len({re.sub(r'\d+', '', name) for name in names}) == 1
  return [layers[numbers.index(max(numbers))]] if alike else layers


def _abbreviate(layers):
  return state_dicts.abbreviate(map(str, layers)) or 'other tensors'
