"""TinyImageNet, fetched by hand."""

from collections.abc import Iterator, Mapping
import itertools
import re
from typing import Optional

from labelleak.base import InputError
from labelleak.data import Source
from labelleak.data.reading import files, images
from labelleak.data.reading.files import Find
from labelleak.data.reading.images import Example

_HOME = 'http://cs231n.stanford.edu/tiny-imagenet-200.zip'
# ImageNet's, by channel, as in the published runs.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tiny_imagenet(
  *,
  path: str,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  normalise: bool = True,
) -> Source:
  """Loads TinyImageNet, images [64, 64, 3], 200 classes in order of wnids.

  Layout: wnids.txt, a class a line; train/<wnid>/images/*.JPEG; val/images/ and
  val/val_annotations.txt, whose lines are file, wnid and a box of four numbers.
  'test' is the labelled val folder: the labels of the test folder are withheld.

  Args:
    path: directory of wnids.txt; relative to `data_dir`, if given.
    split: 'train' or 'test' (default).
    data_dir: see `data.load`.
    normalise: with ImageNet's constants; otherwise in [0, 1].

  Raises:
    InputError: a file is missing, a class is named twice or like a path, or a
      line of val_annotations.txt has other than six columns, an unknown class
      or a file that is named before or outside the folder; no such split.
      (take) An image cannot be decoded or has another size.
  """
  test = files.is_test('tiny_imagenet', split)
  find = files.finder(path, data_dir, _HOME)
  wnids = _wnids(find)
  labels = {wnid: label for label, wnid in enumerate(wnids)}
  if test:
    examples = list(_annotations(find, labels))
  else:
    examples = [
      ((file,), label)
      for wnid, label in labels.items()
      for file in images.list_files(find('train', wnid, 'images'), '*.JPEG')
    ]
  return images.source(
    'tiny_imagenet',
    examples,
    num_classes=len(wnids),
    shape=(64, 64, 3),
    scale=images.Scale(_MEAN, _STD) if normalise else images.UNSCALED,
  )


def _wnids(find: Find) -> list[str]:
  """Reads the names of the classes, sorted."""
  file = find('wnids.txt')
  wnids = sorted(file.read_text().split())
  strange = [name for name in wnids if not _is_name(name)]
  twice = [a for a, b in itertools.pairwise(wnids) if a == b]
  if len(wnids) < 2 or strange or twice:
    raise InputError(
      f'{file} must name two or more classes once each, such as n01443537,'
      f' found {len(wnids)}{[*strange, *twice][:1] or ""}; fetch it again.'
    )
  return wnids


def _is_name(text: str) -> bool:
  """Whether a text names a file of a folder, and no path leads elsewhere."""
  return re.fullmatch(r'\w[\w.-]*', text) is not None


def _annotations(find: Find, labels: Mapping[str, int]) -> Iterator[Example]:
  """Yields the examples of the val folder."""
  notes = find('val', 'val_annotations.txt')
  names = set()
  for number, line in enumerate(notes.read_text().splitlines(), 1):
    columns = line.split('\t')
    name = columns[0]
    valid = len(columns) == 6 and columns[1] in labels
    if not (valid and _is_name(name) and name not in names):
      raise InputError(
        f'{notes}, line {number}: expected 6 columns, a new file of the folder'
        f' in the first and a class of wnids.txt in the second, found'
        f' {len(columns)}: {line[:40]!r}; fetch it again.'
      )
    names.add(name)
    yield (find('val', 'images', name),), labels[columns[1]]
  if not names:
    raise InputError(f'{notes} is empty; fetch it again.')
