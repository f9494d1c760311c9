"""CINIC-10: folders, laziness and refusals."""

from absl.testing import absltest
import numpy as np

from labelleak import base, data
from tests.data import samples

CINIC = 'airplane automobile bird cat deer dog frog horse ship truck'


class Cinic10Test(samples.FilesTest):
  def cinic(self):
    """Writes an image of each class and part, part -> [10, 32, 32, 3]."""
    return {
      part: np.stack([self.cinic_image(part, name) for name in CINIC.split()])
      for part in ('train', 'valid', 'test')
    }

  def cinic_image(self, part, name):
    pixels = self.noise(32)
    self.image(f'{part}/{name}/{part}-0.png', pixels)
    return pixels

  def test_cinic_merges_train_and_valid(self):
    images = self.cinic()
    mean = np.array([0.47889522, 0.47227842, 0.43047404])
    std = np.array([0.24205776, 0.23828046, 0.25874835])
    for split, parts in (('train', ('train', 'valid')), (None, ('test',))):
      source = data.load('cinic10', path=str(self.root), split=split)
      x = np.concatenate([images[part] for part in parts]) / 255
      self.assertEqual((source.shape, source.num_classes), ((32, 32, 3), 10))
      self.assertEqual(source.y.tolist(), [*range(10)] * len(parts))
      taken = source.take(np.arange(len(x)))
      self.assertEqual(taken.dtype, np.float32)
      np.testing.assert_allclose(taken, (x - mean) / std, atol=1e-5)
    plain = data.load('cinic10', path=str(self.root), normalise=False)
    np.testing.assert_allclose(plain.take(np.array([3])), x[3:4], atol=1e-6)

  def test_data_dir_is_where_relative_paths_start(self):
    self.cinic()
    source = data.load(
      'cinic10', path=self.root.name, data_dir=str(self.root.parent)
    )
    same = data.load('cinic10', path=str(self.root), data_dir='/elsewhere')
    np.testing.assert_array_equal(
      source.take(np.arange(10)), same.take(np.arange(10))
    )

  def test_images_are_decoded_when_taken(self):
    self.cinic()
    self.write('test/dog/test-0.png', 'no image')
    source = data.load('cinic10', path=str(self.root))
    self.assertEqual(source.take(np.array([0, 9])).shape, (2, 32, 32, 3))
    with self.assertRaisesRegex(base.InputError, r'test/dog/test-0.png is no'):
      source.take(np.array([5]))

  def test_pixels_of_16_bits_are_not_clipped(self):
    self.cinic()
    deep = self.rng.integers(0, 65536, (32, 32)).astype(np.uint16)
    self.image('test/frog/test-0.png', deep)
    self.image('test/ship/test-0.png', self.noise(32)[..., 0])  # 8 bits, grey
    source = data.load('cinic10', path=str(self.root))
    self.assertEqual(source.take(np.array([8])).shape, (1, 32, 32, 3))
    with self.assertRaisesRegex(base.InputError, 'frog.*I;16.*8 bits'):
      source.take(np.array([6]))

  def test_cinic_refusals(self):
    name = 'cinic10'
    self.refuses('test/airplane does not exist; fetch', name)
    self.cinic()
    self.refuses("split='.*' is unknown", name, split='valid')
    self.image('test/cat/test-0.png', self.noise(31, 32))
    self.refuses('test/cat.*expected 32 x 32 pixels, found 32 x 31', name)
    (self.root / 'test/cat/test-0.png').unlink()
    self.refuses(r'test/cat holds no \*\.png', name)


if __name__ == '__main__':
  absltest.main()
