"""A classifier's gradient from a file, for attacks on updates made anywhere."""

from typing import Optional

import chex
import jax.numpy as jnp

from labelleak.base import InputError
from labelleak.models.weights import state_dicts
from labelleak.models.weights.state_dicts import Path


def head(
  path: Path,
  *,
  kernel: Optional[str] = None,
  bias: Optional[str] = None,
) -> dict[str, chex.Array]:
  """Reads a classifier's gradient, made anywhere, for `hfl.View(grads=...)`.

  Torch's weight [K, H] is told from a kernel [H, K] by the length of the bias.
  Where that cannot tell, since H = K or there is no bias, the name does: a
  tensor called 'kernel' or '...kernel' is [H, K], any other one [K, H].

  Args:
    path: an .npz or .safetensors file.
    kernel: name of the weight's tensor, such as 'fc.weight'.
    bias: name of the bias's tensor. With neither name given, tensors called
      'kernel' or 'weight', and 'bias', are read; else the only matrix and the
      only vector of the file. With one name given, only that tensor is read.

  Returns:
    {'kernel': [H, K], 'bias': [K]} in float32, without what is absent.

  Raises:
    InputError: the file cannot be read, a name is not in it, more than one
      tensor may be meant, or the shapes are not those of a linear layer.
  """
  state = state_dicts.read(path)
  if kernel is None and bias is None:
    kernel = _find(path, state, 2, 'kernel', ('kernel', 'weight'))
    bias = _find(path, state, 1, 'bias', ('bias',))
  leaves = {}
  if kernel is not None:
    leaves['kernel'] = _tensor(path, state, 'kernel', kernel, ndim=2)
  if bias is not None:
    leaves['bias'] = _tensor(path, state, 'bias', bias, ndim=1)
  if not leaves:
    raise InputError(
      f'{path} holds no matrix and no vector; save the gradient of the head.'
    )
  if 'kernel' in leaves and _is_torch(path, leaves, kernel, bias):
    leaves['kernel'] = leaves['kernel'].T
  return leaves


def _tensor(path, state, leaf, name, *, ndim):
  """Returns the tensor of a leaf, if it is there and has its rank."""
  if name not in state:
    raise InputError(
      f'{path} holds no {name!r}; set {leaf}= to one of'
      f' {state_dicts.abbreviate(state)}.'
    )
  if state[name].ndim != ndim:
    raise InputError(
      f'{path}: {name} {state[name].shape} must have {ndim} dimensions to be'
      f' the {leaf} of a linear layer; set {leaf}= to another tensor.'
    )
  return jnp.asarray(state[name], jnp.float32)


def _is_torch(path, leaves, kernel, bias):
  """Whether a matrix is torch's weight [K, H] and not a kernel [H, K]."""
  shape = leaves['kernel'].shape
  if 'bias' in leaves:
    num_classes = leaves['bias'].size
    if num_classes not in shape:
      raise InputError(
        f'{path}: {kernel} {shape} does not fit {bias} [{num_classes}]; one'
        ' side must be the number of classes: set kernel= and bias= alike.'
      )
    if shape[0] != shape[1]:
      return shape[0] == num_classes
  return not kernel.endswith('kernel')


def _find(path, state, ndim, leaf, defaults):
  """Finds the name of the head's `leaf`, None where none has `ndim` axes."""
  for name in defaults:
    if name in state:
      return name
  names = [name for name, value in state.items() if value.ndim == ndim]
  if len(names) > 1:
    raise InputError(
      f'{path} holds {state_dicts.abbreviate(names)}, each of which may be the'
      f' {leaf}; set {leaf}= to one of them.'
    )
  return names[0] if names else None
