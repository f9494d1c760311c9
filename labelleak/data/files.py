"""What the sources of hand-fetched files share: where files are, which split.

Nothing is downloaded: a source names the layout of the original distribution
and, where a file is missing, the place to get it.
"""

from collections.abc import Callable
import pathlib
from typing import Optional

from labelleak.base import InputError


def finder(path: str, data_dir: Optional[str], home: str) -> Callable:
  """find(*parts) -> an existing file or directory below `path`.

  Args:
    path: directory of the distribution; relative to `data_dir`, if given.
    data_dir: see `data.load`.
    home: where the distribution is to be had.

  Raises:
    InputError: (find) there is no such file.
  """
  root = pathlib.Path(data_dir or '').expanduser()
  root /= pathlib.Path(path).expanduser()

  def find(*parts):
    file = root.joinpath(*parts)
    if not file.exists():
      raise InputError(
        f'{file.absolute()} does not exist; fetch the data from {home}, or'
        f' change path={path!r}.'
      )
    return file

  return find


def evaluates(name: str, split: Optional[str]) -> bool:
  """Whether `split` is the test split, as None is, or the training split.

  Raises:
    InputError: it is neither.
  """
  if split not in (None, 'train', 'test'):
    raise InputError(f'{name} has no split {split!r}; use one of: train, test.')
  return split != 'train'
