"""Data sets, one a file, splits among parties, batch plans and triggers.

A `Source` is a labelled data set on the host (NumPy). `data.load('digits')` is
`digits.digits` here; what this package does not have is a data set that
tensorflow_datasets prepared.
"""

from collections.abc import Sequence
import functools
import importlib
import pkgutil
import re
from typing import Any, NamedTuple, Optional

import numpy as np

from labelleak import base, lazy, registry
from labelleak.base import Take

__getattr__, __dir__ = lazy.modules(__name__)


class Source(NamedTuple):
  """A labelled data set, or one split of it, on the host.

  Attributes:
    take: index [n] -> examples [n, *shape], float32, text int32.
    y: [N] int32 labels in [0, K).
    num_classes: K.
    shape: of one example.
    name: what a row of results shows.
    pixel_range: what black and white became, 2 x [C] or [1]; None where nothing
      is a pixel.
  """

  take: Take
  y: np.ndarray
  num_classes: int
  shape: tuple[int, ...]
  name: str
  pixel_range: Optional[tuple[np.ndarray, np.ndarray]] = None


def load(
  name: str,
  *,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  **options: Any,
) -> Source:
  """Loads a split; labels are read at once, examples when they are taken.

  Args:
    name: a data set of this package ('digits', 'criteo', see `names`) or any
      constructor by its dotted name (`registry.load`; it takes `split` and
      `data_dir`); otherwise a data set of tensorflow_datasets ('cifar100',
      'imagenet2012', ...) or the directory of a prepared one
      ('../shared/tfds/imagenet_sample/1.0.0').
    split: None is the evaluation split, as in the published runs: 'test' where
      it exists and is labelled, otherwise 'validation'.
    data_dir: where prepared data sets live; None looks in `TFDS_DATA_DIR`, then
      ~/tensorflow_datasets, then ../shared/tfds. Sources without files ignore
      it.
    **options: of the constructor; `tfds.images` documents those of tfds.

  Raises:
    InputError: no such name, split or option; the data set is not prepared, or
      its files cannot be read.
  """
  if _is_own(name):
    name = f'{name}.{name}'
  elif not re.fullmatch(r'[A-Za-z_]\w*(\.[A-Za-z_]\w*)+', name):
    name, options = 'tfds.images', dict(options, dataset=name)
  try:
    return registry.load(
      'data', name, split=split, data_dir=data_dir, **options
    )
  except (OSError, UnicodeError) as e:  # a folder, binary, no permission
    raise base.InputError(
      f'{name}: a file cannot be read ({e}); fetch the data again.'
    ) from e
  except MemoryError as e:
    raise base.InputError(
      f'{name} does not fit into memory ({e}); ask for less of it.'
    ) from e


@functools.cache  # and so no constructor, which `registry` would list
def names() -> tuple[str, ...]:
  """Lists the data sets that this package has itself."""
  modules = (module.name for module in pkgutil.iter_modules(__path__))
  return tuple(sorted(name for name in modules if _is_own(name)))


def _is_own(name: str) -> bool:
  """Whether a name is a module here with a constructor of the same name."""
  if name not in {module.name for module in pkgutil.iter_modules(__path__)}:
    return False
  module = importlib.import_module(f'{__name__}.{name}')
  return callable(getattr(module, name, None))


def of_classes(source: Source, classes: Sequence[int]) -> Source:
  """Keeps the examples of some classes, relabelled 0, 1, ... as they are given.

  Raises:
    InputError: fewer than two classes, a class that the source lacks or one
      that is named twice.
  """
  classes = list(classes)
  valid = set(classes) <= set(range(source.num_classes))
  if len(classes) < 2 or len(set(classes)) < len(classes) or not valid:
    raise base.InputError(
      f'classes {classes} of {source.name} must be two or more different ones'
      f' of 0..{source.num_classes - 1}; change them.'
    )
  if classes == list(range(source.num_classes)):
    return source
  new = np.full(source.num_classes, -1)
  new[classes] = np.arange(len(classes))
  rows = np.flatnonzero(new[source.y] >= 0)
  return source._replace(
    take=lambda index: source.take(rows[np.asarray(index)]),
    y=new[source.y[rows]].astype(np.int32),
    num_classes=len(classes),
  )


# These import `Source`, and so come after it.
from labelleak.data.splits import Split  # noqa: E402
from labelleak.data.triggers import Trigger  # noqa: E402

KINDS = Source, Split, Trigger
