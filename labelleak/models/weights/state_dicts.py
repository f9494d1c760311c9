"""Files of a PyTorch state_dict: tensors by name, nothing pickled."""

from collections.abc import Iterable
import os
import re
from typing import Union

import jax.numpy as jnp
import numpy as np
import safetensors.flax

from labelleak.base import InputError

Path = Union[str, os.PathLike]
State = dict[str, np.ndarray]

# Counters that no layer reads, and what BERT was pretrained with.
_IGNORED = re.compile(
  r'(.*\.)?(num_batches_tracked|position_ids)|n_averaged'
  r'|(bert\.)?pooler\..*|cls\.(predictions|seq_relationship)\..*'
)
# Modules that wrap another one: DistributedDataParallel and averaging, compile,
# Opacus.
_WRAPPERS = re.compile(r'(^|(?<=\.))(module|_orig_mod|_module)\.')
# Released BERTs stand below a prefix, and bear TensorFlow's names of a norm.
_NAMES = (
  (_WRAPPERS, ''),
  (re.compile(r'^bert\.'), ''),
  (re.compile(r'LayerNorm\.gamma$'), 'LayerNorm.weight'),
  (re.compile(r'LayerNorm\.beta$'), 'LayerNorm.bias'),
)


def read(path: Path) -> State:
  """Reads the tensors of a file by the names that they have there.

  Raises:
    InputError: neither format, or a file that cannot be read.
  """
  path = os.fspath(path)
  if not path.endswith(('.npz', '.safetensors')):
    raise InputError(
      f'{path} is neither .npz nor .safetensors; save the state_dict as one'
      ' (see labelleak/models/weights).'
    )
  try:
    if path.endswith('.npz'):
      with np.load(path, allow_pickle=False) as file:
        if len(set(file.files)) < len(file.files):
          raise ValueError('two of its tensors have one name')
        state = dict(file)
    else:  # Flax's reader, because NumPy's knew no bfloat16
      state = safetensors.flax.load_file(path)
  except Exception as e:  # zip, zlib, NumPy and safetensors raise many kinds
    reason = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise InputError(
      f'{path} cannot be read ({reason}); it must hold plain arrays, not'
      ' pickled objects: save it again.'
    ) from e
  return {name: np.asarray(value) for name, value in state.items()}


def of_torch(path: Path, state: State) -> State:
  """Gives tensors the names of the bare model, without what no model needs.

  Raises:
    InputError: two tensors have one name then.
  """
  tensors = {}
  for name, value in state.items():
    bare = _rename(name)
    if _IGNORED.fullmatch(bare) or _IGNORED.fullmatch(name):
      continue
    if bare in tensors:
      raise InputError(
        f'{path} holds {bare} twice, once as {name}; save one of them.'
      )
    tensors[bare] = value
  return tensors


def unwrap(name: str) -> str:
  """Returns a tensor's name without those of modules that wrap the model."""
  return _WRAPPERS.sub('', name)


def check_values(path: Path, name: str, tensor: np.ndarray) -> None:
  """Refuses a tensor that holds no finite floats.

  Raises:
    InputError: integers, complex numbers or 8-bit floats, as quantisation
      leaves them, or values that are not finite in float32.
  """
  floats = jnp.issubdtype(tensor.dtype, jnp.floating)
  if not floats or tensor.dtype.itemsize < 2:
    raise InputError(
      f'{path}: {name} {tensor.shape} holds {tensor.dtype}, not floats of 16'
      ' bits or more; save it dense and dequantised, as float32.'
    )
  with np.errstate(over='ignore'):
    finite = np.isfinite(np.asarray(tensor, np.float32))
  wrong = tensor.size - finite.sum()
  if wrong:
    raise InputError(
      f'{path}: {name} {tensor.shape} has {wrong} of {tensor.size} values that'
      ' are not finite in float32; save finite ones.'
    )


def abbreviate(names: Iterable[str]) -> str:
  """Lists a few names and counts the others."""
  names = sorted(names)
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return ', '.join(names[:3]) + more


def describe(state: State) -> str:
  """Lists tensors with type and shape, the first dozen of them."""
  listed = [f'{k} {v.dtype}{list(v.shape)}' for k, v in state.items()]
  more = f' and {len(listed) - 12} more' if len(listed) > 12 else ''
  return (', '.join(listed[:12]) or 'nothing') + more


def _rename(name: str) -> str:
  """Returns the name that torch gives a tensor of the bare model."""
  for old, new in _NAMES:
    name = old.sub(new, name)
  return name
