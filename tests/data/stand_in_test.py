"""What stands for CIFAR-100 and ImageNet, and where it is looked for."""

import numpy as np
import pytest

from labelleak import data
from tests.data import tfds_test

_OPTIONS = dict(size=4, classes=100, copies=2)


def _prepare(root):
  """The sample in a folder, every image of one shade."""
  shade = np.full((4, 4, 3), len(root.name), np.uint8)
  examples = [(shade, label) for label in range(1000)]
  tfds_test.write(
    root / 'imagenet_sample' / '1.0.0',
    dict(validation=examples),
    shape=(4, 4, 3),
    num_classes=1000,
  )


def _shade(**options):
  """Whose sample is read: the length of its folder's name; 0: synthetic."""
  source = data.load('stand_in', **_OPTIONS, **options)
  np.testing.assert_array_equal(np.bincount(source.y), np.full(100, 20))
  assert source.shape == (4, 4, 3)
  if source.name == 'synthetic 4x4x3/100':
    return 0
  assert source.name == 'imagenet_sample/100 x2'
  std, mean = np.array([0.229, 0.224, 0.225]), np.array([0.485, 0.456, 0.406])
  return round(float((source.take([0]) * std + mean).mean() * 255))


def test_the_first_place_that_has_the_sample(tmp_path, monkeypatch):
  """data_dir, TFDS_DATA_DIR, home, beside the current folder, nowhere."""
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
  (tmp_path / 'checkout').mkdir()
  monkeypatch.chdir(tmp_path / 'checkout')
  asked, environment = tmp_path / 'asked', tmp_path / 'environment'
  assert _shade() == _shade(data_dir=str(asked)) == 0
  for root in (
    tmp_path / 'shared' / 'tfds',
    tmp_path / 'home' / 'tensorflow_datasets',
    environment,
    asked,
  ):
    _prepare(root)
  monkeypatch.setenv('TFDS_DATA_DIR', str(environment))
  assert _shade(data_dir=str(asked)) == len('asked')
  assert _shade(data_dir=str(tmp_path / 'empty')) == len('environment')
  assert _shade() == len('environment')
  monkeypatch.delenv('TFDS_DATA_DIR')
  assert _shade() == len('tensorflow_datasets')
  monkeypatch.setenv('HOME', str(tmp_path / 'nobody'))
  assert _shade() == len('tfds')
  monkeypatch.chdir(tmp_path)
  assert _shade() == 0


def test_a_prepared_set_is_looked_for_alike(tmp_path, monkeypatch):
  environment, asked = tmp_path / 'environment', tmp_path / 'asked'
  monkeypatch.setenv('TFDS_DATA_DIR', str(environment))
  _prepare(environment)
  assert data.load('imagenet_sample').num_classes == 1000
  # Who says where is not answered from elsewhere.
  with pytest.raises(data.base.InputError, match='asked: nothing; '):
    data.load('imagenet_sample', data_dir=str(asked))
