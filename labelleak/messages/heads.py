"""Which linear layer of an update is the head: by shape, behaviour and name.

What sums to zero over classes is a head, or a linear layer before layer norm.
So sums decide among layers of K outputs, and where K is not told, names do,
before them.
"""

from collections.abc import Callable
import re
from typing import Optional

from labelleak.base import InputError
from labelleak.messages import layers
from labelleak.messages.layers import Layer
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
  listed = layers.parse(update)
  if kernel is not None or bias is not None:
    return _pair(path, update, listed, kernel, bias, num_classes), ()
  candidates = _select(update, listed, num_classes)
  if not candidates:
    told = '' if num_classes is None else f' of {num_classes=}'
    raise InputError(
      f'{path} holds no linear layer{told}, but {_abbreviate(listed)}; set'
      ' num_classes= as it was trained, or kernel= and bias=.'
    )
  balanced = lambda layer: layers.is_balanced(update, layer, num_classes)
  layer, notes = _choose(
    path, update, candidates, num_classes, balanced, ordered
  )
  if not balanced(layer):
    _check_rivals(path, update, listed, layer, balanced, ordered)
  return layer, notes


def _pair(path, update, listed, kernel, bias, num_classes):
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
    filter(fit, listed),
    Layer(kernel, bias, layers.count_outputs(update, kernel, bias)),
  )
  if not layer.widths or num_classes not in (None, *layer.widths):
    told = '' if num_classes is None else f' and {num_classes=}'
    raise InputError(
      f'{path}: the shapes of {layer}{told} do not fit; set kernel=, bias= and'
      ' num_classes= as the head has them.'
    )
  return layer


def _select(update, listed, num_classes=None):
  """Selects the layers that may be a head [H, K]; matrices, if there are any.

  A bias may stand alone, where no tensor of the update has another axis.
  """
  fit = [layer for layer in listed if num_classes in (None, *layer.widths)]
  if all(tensor.ndim < 2 for tensor in update.values()):
    return fit
  linear = [layer for layer in fit if layer.kernel]
  matrices = [layer for layer in linear if update[layer.kernel].ndim == 2]
  return matrices or [layer for layer in linear if layer.bias]


def _choose(path, update, candidates, num_classes, balanced, ordered):
  """Narrows the candidates by one test after the other, down to one."""
  moved = lambda layer: any(update[name].any() for name in layer[:2] if name)
  sums = (balanced, 'because its update sums to zero over classes')
  names = [(_match(pattern), 'by its name') for pattern in _NAMES]
  tests = [names[0], sums]  # where K is not told, a vague name is none
  if num_classes:
    tests = [(moved, 'because no other moved'), sums, *names]
  left, reason = candidates, ''
  while len(left) > 1 and tests:
    test, reason = tests.pop(0)
    left = [layer for layer in left if test(layer)] or left
  if len(left) > 1 and num_classes:
    left, reason = _last(left, ordered), 'because it is the last'
  if len(left) > 1:
    raise InputError(
      f'{path} holds {_abbreviate(left)}, each of which may be the head; set'
      ' num_classes=, or kernel= and bias= to the names of one.'
    )
  if len(candidates) == 1:
    return left[0], ()
  note = f'Of {len(candidates)} linear layers {left[0]} was taken, {reason}.'
  return left[0], (note,)


def _check_rivals(path, update, listed, layer, balanced, ordered):
  """Refuses a layer that is no head by its update, beside one that may be.

  A rival sums to zero or takes the outputs of the layer for its inputs, and
  stands later, where the order can be told.
  """
  feeds = lambda r: (
    r.kernel and update[r.kernel].size == r.widths[0] * layer.widths[0]
  )
  later = lambda r: _last(sorted((layer, r), key=listed.index), ordered) == [r]
  rivals = [
    r
    for r in _select(update, listed)
    if r != layer
    and ((feeds(r) and later(r)) or (balanced(r) and (later(r) or not ordered)))
  ]
  called = _match(_NAMES[0])
  if called(layer):
    rivals = list(filter(called, rivals))
  if rivals:
    raise InputError(
      f'{path}: {layer} does not sum to zero over classes, as a head does'
      f' under softmax cross entropy, but {_abbreviate(rivals)} does, or takes'
      ' its outputs; set num_classes= to that, or kernel= and bias=.'
    )


def _match(pattern) -> Test:
  module = lambda layer: gradients.parse(layer.kernel or layer.bias)[0]
  return lambda layer: bool(pattern.fullmatch(module(layer)))


def _last(candidates, ordered):
  """Selects the last layer, if the order of names or of the file tells it."""
  if ordered:
    return candidates[-1:]
  names = [layer.kernel or layer.bias for layer in candidates]
  numbers = [[int(n) for n in re.findall(r'\d+', name)] for name in names]
  alike = len({re.sub(r'\d+', '', name) for name in names}) == 1
  return [candidates[numbers.index(max(numbers))]] if alike else candidates


def _abbreviate(listed):
  return state_dicts.abbreviate(map(str, listed)) or 'other tensors'
