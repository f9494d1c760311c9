"""Files of a PyTorch state_dict: tensors by name, nothing pickled."""

from collections.abc import Iterable
import os
import re
from typing import Union
import zipfile

import numpy as np
import safetensors
import safetensors.flax

from labelleak.base import InputError

Path = Union[str, os.PathLike]
State = dict[str, np.ndarray]

# Counters that no layer reads, and what BERT was pretrained with.
_IGNORED = re.compile(
  r'.*(num_batches_tracked|position_ids)|(bert\.)?pooler\..*|cls\..*'
)
# Released BERTs stand below a prefix, and bear TensorFlow's names of a norm.
_NAMES = (
  (re.compile(r'^bert\.'), ''),
  (re.compile(r'LayerNorm\.gamma$'), 'LayerNorm.weight'),
  (re.compile(r'LayerNorm\.beta$'), 'LayerNorm.bias'),
)


def read(path: Path) -> State:
  """Reads the tensors of a file, without what no model needs.

  Raises:
    InputError: neither format, or a file that cannot be read.
  """
  path = os.fspath(path)
  if not path.endswith(('.npz', '.safetensors')):
    raise InputError(
      f'{path} is neither .npz nor .safetensors; save the state_dict as one'
      ' (see labelleak/models/weights.py).'
    )
  try:
    if path.endswith('.npz'):
      with np.load(path, allow_pickle=False) as file:
        state = dict(file)
    else:  # Flax's reader, because NumPy's knows no bfloat16
      state = safetensors.flax.load_file(path)
  except (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    safetensors.SafetensorError,
  ) as e:
    reason = str(e).splitlines()[0] if str(e) else type(e).__name__
    raise InputError(
      f'{path} cannot be read ({reason}); it must hold plain arrays, not'
      ' pickled objects.'
    ) from e
  return {
    _rename(name): np.asarray(value)
    for name, value in state.items()
    if not _IGNORED.fullmatch(name)
  }


def abbreviate(names: Iterable[str]) -> str:
  """Lists a few names and counts the others."""
  names = sorted(names)
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return ', '.join(names[:3]) + more


def _rename(name: str) -> str:
  """Returns the name that torch gives a tensor."""
  for old, new in _NAMES:
    name = old.sub(new, name)
  return name
