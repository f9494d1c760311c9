"""CINIC-10 (Darlow et al., 2018), fetched by hand."""

from typing import Optional

from labelleak.data import Source
from labelleak.data.reading import files, images

_HOME = 'https://datashare.ed.ac.uk/handle/10283/3192'
_CLASSES = (
  *('airplane', 'automobile', 'bird', 'cat', 'deer'),
  *('dog', 'frog', 'horse', 'ship', 'truck'),
)
# By channel, as in the published runs.
_MEAN = (0.47889522, 0.47227842, 0.43047404)
_STD = (0.24205776, 0.23828046, 0.25874835)


def cinic10(
  *,
  path: str,
  split: Optional[str] = None,
  data_dir: Optional[str] = None,
  normalise: bool = True,
) -> Source:
  """Loads CINIC-10, images [32, 32, 3], 10 classes.

  Layout: <train|valid|test>/<class>/*.png. As in Fu et al., train and valid
  together are the training split.

  Args:
    path: directory of the three; relative to `data_dir`, if given.
    split: 'train' or 'test' (default).
    data_dir: see `data.load`.
    normalise: with the data set's constants; otherwise in [0, 1].

  Raises:
    InputError: a class has no folder or no image; no such split. (take) An
      image cannot be decoded or has another size.
  """
  parts = ('test',) if files.is_test('cinic10', split) else ('train', 'valid')
  find = files.finder(path, data_dir, _HOME)
  examples = [
    ((file,), label)
    for part in parts
    for label, name in enumerate(_CLASSES)
    for file in images.list_files(find(part, name), '*.png')
  ]
  return images.source(
    'cinic10',
    examples,
    num_classes=10,
    shape=(32, 32, 3),
    scale=images.Scale(_MEAN, _STD) if normalise else images.UNSCALED,
  )
