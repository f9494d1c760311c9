"""NUS-WIDE (Chua et al., 2009), tags and image features, fetched by hand."""

from collections.abc import Sequence
import pathlib
from typing import Optional

import numpy as np

from labelleak import validate
from labelleak.base import InputError
from labelleak.data import Source
from labelleak.data.reading import files
from labelleak.data.reading.files import Find

_HOME = (
  'https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/'
  'NUS-WIDE.html'
)

_TAGS = 1000
_IMAGE = dict(CH=64, CM55=225, CORR=144, EDH=73, WT=128)  # 634 in all
_CONCEPTS = {  # as VFLAIR chooses them
  2: ('clouds', 'person'),
  5: ('buildings', 'grass', 'animal', 'water', 'person'),
  81: None,  # all, in alphabetical order
}


def nus_wide(
  *,
  path: str,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  classes: int = 5,
  normalise: bool = True,
) -> Source:
  """Loads NUS-WIDE: 1000 tags, then 634 image features, [1634].

  Tags are the passive party's and image features the active one's in VFLAIR:
  splits.features with sizes=(1000, 634). Rows are the photos with exactly one
  of the chosen concepts. Layout of the archives, one photo a line:

    Groundtruth/TrainTestLabels/Labels_<concept>_<Train|Test>.txt: 0 or 1
    NUS_WID_Tags/<Train|Test>_Tags1k.dat: 1000 columns
    Low_Level_Features/<Train|Test>_Normalized_<kind>.dat: 64 columns of kind
      CH, 225 of CM55, 144 of CORR, 73 of EDH, 128 of WT

  Args:
    path: directory of the three; relative to `data_dir`, if given.
    split: 'train' or 'test' (default).
    data_dir: see `data.load`.
    classes: 2 (clouds, person), 5 (buildings, grass, animal, water, person) or
      all 81 concepts.
    normalise: standardise with the mean and deviation of the training rows,
      which the test split reads for that.

  Raises:
    InputError: a file is missing, has another number of columns or of lines, or
      holds something else than finite numbers; no such split or classes; no
      row left.
  """
  test = files.is_test('nus_wide', split)
  validate.one_of('nus_wide: classes', classes, _CONCEPTS)
  find = files.finder(path, data_dir, _HOME)
  concepts = _CONCEPTS[classes] or _all_concepts(find)
  x, y = _photos(find, 'Test' if test else 'Train', concepts)
  if normalise:
    train = _photos(find, 'Train', concepts)[0] if test else x
    mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    std[np.ptp(train, 0) == 0] = 1  # a tag that no training row bears, say
    x = (x - mean.astype(np.float32)) / std.astype(np.float32)
  return Source(
    take=lambda index: x[np.asarray(index)],
    y=y,
    num_classes=classes,
    shape=x.shape[1:],
    name=f'nus_wide/{classes}',
  )


def _all_concepts(find: Find) -> list[str]:
  """Lists the 81 concepts, in alphabetical order."""
  labels = find('Groundtruth', 'TrainTestLabels').glob('Labels_*_Train.txt')
  concepts = sorted(
    file.name[len('Labels_') : -len('_Train.txt')] for file in labels
  )
  if len(concepts) != 81:
    raise InputError(
      f'Groundtruth/TrainTestLabels has labels of {len(concepts)} concepts, not'
      f' of 81; fetch it again from {_HOME}.'
    )
  return concepts


def _photos(
  find: Find, part: str, concepts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
  """Reads features [N, 1634], labels [N] of photos with one of the concepts."""
  truth = [
    _marks(find('Groundtruth', 'TrainTestLabels', f'Labels_{c}_{part}.txt'))
    for c in concepts
  ]
  if len({len(marks) for marks in truth}) > 1:
    raise InputError(
      f'Groundtruth/TrainTestLabels: the {part} labels of {", ".join(concepts)}'
      f' differ in length; fetch them again from {_HOME}.'
    )
  truth = np.stack(truth, 1)
  chosen = truth.sum(1) == 1
  if not chosen.any():
    raise InputError(
      f'nus_wide: no {part} photo has exactly one concept of'
      f' {", ".join(concepts)}; use other classes.'
    )
  tags = _matrix(find('NUS_WID_Tags', f'{part}_Tags1k.dat'), _TAGS, chosen)
  image = [
    _matrix(
      find('Low_Level_Features', f'{part}_Normalized_{kind}.dat'), width, chosen
    )
    for kind, width in _IMAGE.items()
  ]
  y = truth[chosen].argmax(1).astype(np.int32)
  return np.concatenate([tags, *image], 1), y


def _marks(file: pathlib.Path) -> np.ndarray:
  """Reads a column of 0 and 1 as bool [N]."""
  marks = np.array(file.read_bytes().split(), bytes)
  wrong = np.flatnonzero((marks != b'0') & (marks != b'1'))
  if len(wrong):
    raise InputError(
      f'{file}, line {wrong[0] + 1}: expected 0 or 1, found'
      f' {marks[wrong[0]].decode(errors="replace")!r}; fetch it again.'
    )
  return marks == b'1'


def _matrix(file: pathlib.Path, width: int, chosen: np.ndarray) -> np.ndarray:
  """Reads the chosen lines of a file of numbers, [n, width] float32."""

  def lines(rows):
    number = 0
    for number, line in enumerate(rows, 1):
      columns = len(line.split())
      if columns != width:
        raise InputError(
          f'{file}, line {number}: expected {width} columns, found {columns};'
          ' fetch it again.'
        )
      if number <= len(chosen) and chosen[number - 1]:
        yield line
    if number != len(chosen):
      raise InputError(
        f'{file}: expected {len(chosen)} lines, as many as there are labels,'
        f' found {number}; fetch it again.'
      )

  with file.open('rb') as rows:
    try:
      x = np.loadtxt(lines(rows), np.float32, comments=None, ndmin=2)
    except InputError:
      raise
    except ValueError as e:
      raise InputError(f'{file} holds no numbers ({e}); fetch it again.') from e
  wrong = np.flatnonzero(~np.isfinite(x).all(1))
  if len(wrong):
    number = np.flatnonzero(chosen)[wrong[0]] + 1
    raise InputError(
      f'{file}, line {number}: a number is not finite; fetch it again.'
    )
  return x
