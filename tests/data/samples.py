"""Small samples of hand-fetched files, written in the original layouts."""

import pathlib

from absl.testing import parameterized
import numpy as np
from PIL import Image
import pytest

from labelleak import base, data


def nearest_mean_accuracy(train, test):
  """Accuracy on `test` of the class means of `train`."""
  x = train.take(np.arange(len(train.y))).reshape(len(train.y), -1)
  means = np.stack([x[train.y == c].mean(0) for c in range(train.num_classes)])
  z = test.take(np.arange(len(test.y))).reshape(len(test.y), -1)
  distance = (means**2).sum(1) - 2 * z @ means.T
  return (distance.argmin(1) == test.y).mean()


def refusal(name, **options):
  """Returns why `data.load` refuses, one line."""
  with pytest.raises(base.InputError) as caught:
    data.load(name, **options)
  text = str(caught.value)
  assert '\n' not in text
  return text


class FilesTest(parameterized.TestCase):
  """Tests that write files below `self.root`."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.rng = np.random.default_rng(0)

  def write(self, name, content):
    """A file of text below the root."""
    file = self.root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return str(file)

  def image(self, name, pixels):
    Image.fromarray(pixels).save(self.write(name, ''))

  def noise(self, height, width=None):
    return self.rng.integers(0, 256, (height, width or height, 3), np.uint8)

  def refuses(self, message, name, **options):
    """Loading, and taking every example, ends in one clear line."""
    with self.assertRaisesRegex(base.InputError, message) as raised:
      source = data.load(name, path=str(self.root), **options)
      source.take(np.arange(len(source.y)))
    self.assertNotIn('\n', str(raised.exception))
