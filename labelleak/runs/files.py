"""Files of a workdir: written whole or not at all, and read with care."""

from collections.abc import Mapping
import io
import os
import pathlib
import zipfile
import zlib

import numpy as np

from labelleak.base import InputError

ANEW = 'restore it from a copy, or remove the folder to run anew'


def replace(path: pathlib.Path, contents: bytes) -> None:
  """Writes a file such that a kill leaves the old one or the new one."""
  temporary = path.with_name(path.name + '.tmp')
  with open(temporary, 'wb') as f:
    f.write(contents)
    f.flush()
    os.fsync(f.fileno())
  os.replace(temporary, path)


def save_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays as `replace` does."""
  file = io.BytesIO()
  np.savez_compressed(file, **arrays)
  replace(path, file.getvalue())


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a file; none where there is no file.

  Raises:
    InputError: the file is damaged.
  """
  try:
    with np.load(path, allow_pickle=False) as f:
      return dict(f)
  except FileNotFoundError:
    return {}
  except (
    *(ValueError, TypeError, KeyError, EOFError, OSError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
  ) as e:
    raise InputError(f'{path} is damaged ({type(e).__name__}); {ANEW}.') from e
