"""Breast histopathology (BHI), stacks of image patches, fetched by hand."""

from concurrent import futures
import os
import pathlib
from typing import Optional

import numpy as np
from sklearn import model_selection

from labelleak import validate
from labelleak.base import InputError
from labelleak.data import Source
from labelleak.data.reading import files, images, pixels

_HOME = (
  'https://www.kaggle.com/datasets/paultimothymooney/'
  'breast-histopathology-images'
)
_SCALE = images.Scale((0.5,) * 3, (0.5,) * 3)
_BRIGHT = 220  # mean over channels above which a pixel shows no tissue


def breast_histopathology(
  *,
  path: str,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  patches: int = 2,
  straddle: bool = False,
  background: Optional[float] = None,
  seed: int = 1,
  normalise: bool = True,
) -> Source:
  """Loads breast histopathology (IDC), [patches, 50, 50, 3], 2 classes.

  Layout: <patient>/<0|1>/*_class<0|1>.png. A sample is a run of patches of one
  patient and one label, in the order of the file names; leftovers are dropped.
  splits.patches deals it to the parties, which is the paper's round robin over
  a patient's patches. Four fifths of the samples, stratified by label, are the
  training split; patients are in both, as published. Patches cut off at the
  border of a slide are scaled to 50 x 50. Channels are red, green, blue (the
  release: blue first).

  Args:
    path: directory of the patients; relative to `data_dir`, if given.
    split: 'train' or 'test' (default).
    data_dir: see `data.load`.
    patches: of a sample, one for each party.
    straddle: whether a run may go on in the next patient, as in the release.
    background: drops patches of which a larger share than this is brighter than
      tissue; 0.3 in the release's preparation. It decodes every image at once.
    seed: of the split into training and test samples.
    normalise: to [-1, 1]; otherwise [0, 1].

  Raises:
    InputError: no image, a file name that contradicts its folder, an option out
      of range, too few samples to split; no such split. (take) An image cannot
      be decoded.
  """
  name = 'breast_histopathology'
  test = files.is_test(name, split)
  validate.whole(f'{name}: patches', patches, 1)
  validate.whole(f'{name}: seed', seed, 0)
  if background is not None:
    validate.within(f'{name}: background', background, '[0, 1]')
  find = files.finder(path, data_dir, _HOME)
  pngs = images.list_files(find(), '*/[01]/*.png')
  if background is not None:
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      shares = list(pool.map(_bright_share, pngs))
    pngs = [png for png, share in zip(pngs, shares) if share <= background]
  examples = _runs(pngs, patches, straddle)
  y = [label for _, label in examples]
  if min(sum(y), len(y) - sum(y)) < 2 or len(y) < 10:
    raise InputError(
      f'{name}: {len(y)} samples of {patches} patches, of which {sum(y)} are'
      ' positive, are too few to split; use fewer patches or more files.'
    )
  train_rows, test_rows = model_selection.train_test_split(
    np.arange(len(y)), test_size=0.2, stratify=y, random_state=seed
  )
  rows = sorted(test_rows if test else train_rows)
  return images.source(
    f'{name} x{patches}',
    [examples[i] for i in rows],
    num_classes=2,
    shape=(patches, 50, 50, 3),
    scale=_SCALE if normalise else images.UNSCALED,
    resize=True,
  )


def _runs(pngs, length, straddle):
  """Groups consecutive patches of a label, and of a patient or straddling."""
  by_source = {}
  for file in pngs:
    patient, label = file.parts[-3:-1]
    if not file.stem.endswith(f'class{label}'):
      raise InputError(
        f'{file} lies in folder {label}, but its name has no class{label};'
        ' fetch it again.'
      )
    key = (int(label), '' if straddle else patient)
    by_source.setdefault(key, []).append(file)
  return [
    (run[i : i + length], label)
    for (label, _), run in sorted(by_source.items())
    for i in range(0, len(run) - length + 1, length)
  ]


def _bright_share(file: pathlib.Path) -> float:
  """Returns the share of pixels brighter than tissue."""
  return (np.asarray(pixels.read(file)).mean(-1) > _BRIGHT).mean()
