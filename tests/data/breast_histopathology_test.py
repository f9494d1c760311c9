"""Breast histopathology: runs of patches, splits and parties."""

import itertools

from absl.testing import absltest
import numpy as np

from labelleak import data, registry
from tests.data import samples


class BreastHistopathologyTest(samples.FilesTest):
  name = 'breast_histopathology'

  def patients(self, counts, side=50):
    """counts: patient -> (negative, positive) patches, of a shade each."""
    shade = itertools.count()
    for patient, numbers in counts.items():
      for label, number in enumerate(numbers):
        for i in range(number):
          pixels = np.full((side, 50, 3), next(shade), np.uint8)
          file = f'{patient}_idx5_x{i:04}_y1_class{label}.png'
          self.image(f'{patient}/{label}/{file}', pixels)

  def shades(self, split, **options):
    """Shades [N, patches] and labels of a split."""
    source = data.load(
      self.name, path=str(self.root), split=split, normalise=False, **options
    )
    x = source.take(np.arange(len(source.y)))
    self.assertEqual(x.shape[1:], source.shape)
    return np.round(x[:, :, 0, 0, 0] * 255).astype(int), source.y

  def both(self, **options):
    """Shades and labels of all samples."""
    parts = [self.shades(split, **options) for split in ('train', 'test')]
    return (np.concatenate(part) for part in zip(*parts))

  def test_a_sample_is_a_run_of_one_patient_and_label(self):
    self.patients({'8863': (13, 9), '9000': (10, 8)})
    # Shades count on: 13 negative, 9 positive, 10 negative, 8 positive.
    x, y = self.both(patches=3)
    self.assertEqual(x.shape, (4 + 3 + 3 + 2, 3))
    np.testing.assert_array_equal(np.diff(x, axis=1), 1)
    starts = [0, 3, 6, 9, 13, 16, 19, 22, 25, 28, 32, 35]
    np.testing.assert_array_equal(np.sort(x[:, 0]), starts)
    positive = ((x >= 13) & (x < 22)) | (x >= 32)
    np.testing.assert_array_equal(positive, np.tile(y == 1, (3, 1)).T)

  def test_runs_may_straddle_patients(self):
    self.patients({'8863': (13, 9), '9000': (10, 8)})
    x, y = self.both(patches=3, straddle=True)
    self.assertLen(x, 23 // 3 + 17 // 3)
    self.assertIn([12, 22, 23], x.tolist())
    self.assertEqual(y.sum(), 5)

  def test_splits_are_stratified_and_disjoint(self):
    self.patients({'1': (40, 20), '2': (40, 20)})
    train, test = self.shades('train'), self.shades(None)
    self.assertEqual((len(train[1]), train[1].sum()), (48, 16))
    self.assertEqual((len(test[1]), test[1].sum()), (12, 4))
    self.assertEmpty(set(train[0].ravel()) & set(test[0].ravel()))
    again, other = self.shades('test'), self.shades('test', seed=2)
    np.testing.assert_array_equal(test[0], again[0])
    self.assertNotEqual(test[0].tolist(), other[0].tolist())

  def test_background_is_dropped(self):
    self.patients({'1': (20, 20)})
    for i, share in enumerate((0.2, 0.4)):
      pixels = np.zeros((50, 50, 3), np.uint8)
      pixels[: int(50 * share)] = 240
      self.image(f'2/0/2_x{i}_class0.png', pixels)
    for background, kept in ((None, 42), (0.3, 41), (0.1, 40)):
      x, _ = self.both(patches=1, background=background)
      self.assertLen(x, kept)

  def test_patches_go_to_parties(self):
    self.patients({'1': (20, 20)})
    source = data.load(self.name, path=str(self.root), patches=4)
    split = registry.load(
      'data', 'splits.patches', shape=source.shape, shared=2
    )
    x = source.take(np.arange(len(source.y)))
    parts = split(x)
    self.assertEqual(parts[0].shape[1:], (50, 150, 3))
    for part in parts[1:]:
      self.assertEqual(part.shape[1:], (50, 50, 3))
    self.assertBetween(x.min(), -1, 1)

  def test_a_patch_at_the_border_is_scaled(self):
    self.patients({'1': (10, 10)}, side=43)
    x, _ = self.both(patches=1)
    np.testing.assert_array_equal(np.sort(x[:, 0]), np.arange(20))

  def test_refusals(self):
    self.refuses(r'holds no \*/\[01\]/\*\.png', self.name)
    self.patients({'1': (6, 2)})
    self.refuses('4 samples of 2 patches, of which 1 are', self.name)
    self.refuses('patches=0 must be .* at least 1', self.name, patches=0)
    self.refuses('background=2 must be in .0, 1', self.name, background=2)
    self.image('1/1/1_x9_y1_class0.png', self.noise(50))
    self.refuses('lies in folder 1, but its name has no class1', self.name)


if __name__ == '__main__':
  absltest.main()
