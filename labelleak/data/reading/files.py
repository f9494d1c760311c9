"""Files that were fetched by hand: where they are, and which split is meant.

Nothing is downloaded: a source names the layout of the original distribution
and, where a file is missing, the place to get it.
"""

from collections.abc import Callable
import pathlib
from typing import Optional

from labelleak import validate
from labelleak.base import InputError

# (*parts of a path) -> the file or directory; an InputError if there is none
Find = Callable[..., pathlib.Path]


def finder(path: str, data_dir: Optional[str], home: str) -> Find:
  """Returns what finds files below `path`.

  Args:
    path: directory of the distribution; relative to `data_dir`, if given.
    data_dir: see `data.load`.
    home: where the distribution is to be had.
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


def is_test(name: str, split: Optional[str]) -> bool:
  """Whether `split` is the test split, as None is, or the training split.

  Raises:
    InputError: it is neither.
  """
  validate.one_of(f'{name}: split', split, (None, 'train', 'test'))
  return split != 'train'
