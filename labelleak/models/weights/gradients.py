"""A classifier's gradient from a file, for attacks on updates made anywhere.

Names say what a tensor is, before shapes do: 'fc.weight' [K, H] and 'fc.bias'
[K] (torch), 'logits/kernel:0' [H, K] (Keras), 'linear/w' [H, K] and 'linear/b'
(Haiku). A bias is never paired with the kernel of another module.
"""

import re
from typing import Optional

import chex
import jax.numpy as jnp
import numpy as np

from labelleak.base import InputError
from labelleak.models.weights import state_dicts
from labelleak.models.weights.state_dicts import Path, State

# 'module.leaf'; a letter is a leaf below a module alone. Keras adds ':0'.
_NAME = re.compile(
  r'(?:(.*)[\W_])?(kernel|weight|bias)(?::\d+)?\W*|(.+)[\W_]([wb])'
)
BIASES = 'bias', 'b'


def head(
  path: Path,
  *,
  kernel: Optional[str] = None,
  bias: Optional[str] = None,
) -> dict[str, chex.Array]:
  """Reads a classifier's gradient, made anywhere, for `hfl.View(grads=...)`.

  Torch's weight [K, H] is told from a kernel [H, K] by the length of the bias.
  Where that cannot tell, since H = K or there is no bias, the name does: a
  tensor called 'kernel', '...kernel' or '.../w' is [H, K], one called 'weight'
  or '...weight' [K, H]. A convolution of 1 x 1 is read as that matrix.

  Args:
    path: an .npz or .safetensors file.
    kernel: name of the weight's tensor, such as 'fc.weight'.
    bias: name of the bias's tensor. With neither name given, the one matrix of
      the file that is called so is read with the bias of its module, else its
      one bias without a module's weight. With one name given, only that tensor
      is read.

  Returns:
    {'kernel': [H, K], 'bias': [K]} in float32, without what is absent.

  Raises:
    InputError: the file cannot be read, a name is not in it, more than one
      tensor may be meant or none by its name, the shapes are not those of a
      linear layer, or values are no floating point or not finite.
  """
  state = state_dicts.read(path)
  if kernel is None and bias is None:
    kernel, bias = _find(path, state)
  leaves = {}
  if bias is not None:
    leaves['bias'] = tensor(path, state, 'bias', bias, ndim=1)
  if kernel is not None:
    matrix = tensor(path, state, 'kernel', kernel, ndim=2)
    num_classes = len(leaves['bias']) if bias is not None else None
    if num_classes not in (None, *matrix.shape):
      raise InputError(
        f'{path}: {kernel} {matrix.shape} does not fit {bias} [{num_classes}];'
        ' one side must be the number of classes: set kernel= and bias= alike.'
      )
    torch = is_torch(path, kernel, matrix.shape, num_classes)
    leaves['kernel'] = matrix.T if torch else matrix
  return {k: jnp.asarray(v, jnp.float32) for k, v in leaves.items()}


def parse(name: str) -> tuple[str, Optional[str]]:
  """Returns the module and the leaf of a name, None of one that says none."""
  match = _NAME.fullmatch(name)
  if match is None:
    return name, None
  stem, leaf, letter_stem, letter = match.groups()
  return stem or letter_stem or '', leaf or letter


def _find(path: Path, state: State) -> tuple[Optional[str], Optional[str]]:
  """Finds the names of the head's kernel and bias, None where absent."""
  kernels, biases = {}, {}  # names by module
  for name in state:
    module, leaf = parse(name)
    if leaf is not None:
      by_module = biases if leaf in BIASES else kernels
      by_module.setdefault(module, []).append(name)
  names = [n for group in kernels.values() for n in group]
  pointwise = [n for n in names if squeeze(n, state[n]).ndim < state[n].ndim]
  # A stack of clients, [C, K, H], must not leave the field to its biases.
  linear = [n for n in names if state[n].ndim in (2, 3)]
  if linear:
    pointwise = [n for n in pointwise if parse(n)[0] in biases]
  # The classifier itself may have been saved, beside what belongs to it.
  linear = [n for n in linear if not parse(n)[0]] or linear + pointwise
  if linear:
    kernel = _only(path, 'kernel', linear)
    beside = biases.get(parse(kernel)[0])
    return kernel, _only(path, 'bias', beside) if beside else None
  alone = [n for m, group in biases.items() if m not in kernels for n in group]
  if alone:
    return None, _only(path, 'bias', alone)
  raise InputError(
    f'{path} holds no matrix and no vector of a head by their names (such as'
    ' fc.weight, fc.bias, logits/kernel); set kernel= or set bias= to one of'
    f' {state_dicts.describe(state)}.'
  )


def _only(path, leaf, names):
  """Returns the one name that a leaf may have."""
  if len(names) > 1:
    beside = ', and bias= to that beside it' if leaf == 'kernel' else ''
    raise InputError(
      f'{path} holds {state_dicts.abbreviate(names)}, each of which may be the'
      f' {leaf}; set {leaf}= to one of them{beside}.'
    )
  return names[0]


def squeeze(name: str, tensor: np.ndarray) -> np.ndarray:
  """Turns a convolution of 1 x 1 to a matrix; leaves other tensors alone."""
  leaf = parse(name)[1]
  if tensor.ndim != 4:
    return tensor
  if leaf not in ('kernel', 'w') and tensor.shape[2:] == (1, 1):
    return tensor[:, :, 0, 0]
  if leaf != 'weight' and tensor.shape[:2] == (1, 1):
    return tensor[0, 0]
  return tensor


def tensor(path, state, leaf, name, *, ndim):
  """Returns the tensor of a leaf, if it is there and has its rank."""
  if name not in state:
    raise InputError(
      f'{path} holds no {name!r}; set {leaf}= to one of'
      f' {state_dicts.describe(state)}.'
    )
  tensor = squeeze(name, state[name])
  if tensor.ndim != ndim or not tensor.size:
    raise InputError(
      f'{path}: {name} {state[name].shape} must have {ndim} dimensions to be'
      f' the {leaf} of a linear layer; save that of one client, as the layer'
      f' has it, or set {leaf}= to another tensor.'
    )
  state_dicts.check_values(path, name, tensor)
  return tensor


def is_torch(
  path: Path,
  kernel: str,
  shape: tuple[int, int],
  num_classes: Optional[int] = None,
) -> bool:
  """Tells whether a matrix is torch's weight [K, H] and not a kernel [H, K].

  Raises:
    InputError: neither the shape nor the name says it.
  """
  if num_classes is not None and shape[0] != shape[1]:
    return shape[0] == num_classes
  leaf = parse(kernel)[1]
  if leaf is None or leaf in BIASES:
    raise InputError(
      f'{path}: {kernel!r} {shape} may be a weight [K, H] or a kernel [H, K];'
      ' add bias=, or call it weight or kernel in the file.'
    )
  return leaf == 'weight'
