"""TinyImageNet: folders, annotations and refusals."""

from absl.testing import absltest
import numpy as np

from labelleak import data
from tests.data import samples


class TinyImagenetTest(samples.FilesTest):
  def tiny(self):
    """Three classes; two training images and one of val each."""
    wnids = ['n03', 'n01', 'n02']
    self.write('wnids.txt', '\n'.join(wnids) + '\n')
    notes = []
    for k, wnid in enumerate(wnids):
      shade = np.full((64, 64, 3), 50 * (k + 1), np.uint8)
      for i in range(2):
        self.image(f'train/{wnid}/images/{wnid}_{i}.JPEG', shade)
      self.image(f'val/images/val_{k}.JPEG', shade)
      notes.append(f'val_{k}.JPEG\t{wnid}\t0\t0\t62\t62\n')
    self.write('val/val_annotations.txt', ''.join(notes))

  def test_tiny_imagenet_tests_on_the_labelled_val_folder(self):
    self.tiny()
    name, options = 'tiny_imagenet', dict(path=str(self.root))
    train = data.load(name, split='train', **options, normalise=False)
    test = data.load(name, **options, normalise=False)
    self.assertEqual((train.shape, train.num_classes), ((64, 64, 3), 3))
    self.assertEqual(train.y.tolist(), [0, 0, 1, 1, 2, 2])  # n01, n02, n03
    self.assertEqual(test.y.tolist(), [2, 0, 1])
    shades = {0: 100 / 255, 1: 150 / 255, 2: 50 / 255}
    for source in (train, test):
      x = source.take(np.arange(len(source.y)))
      expected = np.array([shades[label] for label in source.y])
      np.testing.assert_allclose(x.mean((1, 2, 3)), expected, atol=0.01)
    scaled = data.load(name, **options).take(np.arange(3))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    np.testing.assert_allclose(scaled * std + mean, x, atol=1e-5)

  def test_tiny_imagenet_refusals(self):
    name = 'tiny_imagenet'
    self.refuses(r'wnids\.txt does not exist; fetch', name)
    self.tiny()
    good = 'val_0.JPEG\tn01\t0\t0\t62\t62\n'
    for line, message in (
      ('val_0.JPEG\tn01\t0\t0\t62\n', 'line 2: expected 6 columns, .* found 5'),
      ('val_0.JPEG\tn09\t0\t0\t62\t62\n', 'line 2: .* a class of wnids.txt'),
      ('val_9.JPEG\tn01\t0\t0\t62\t62\n', r'val_9\.JPEG does not exist'),
    ):
      self.write('val/val_annotations.txt', good + line)
      self.refuses(message, name)
    self.write('val/val_annotations.txt', '')
    self.refuses('annotations.txt is empty', name)

  def test_annotations_name_files_of_the_folder_once(self):
    self.tiny()
    self.image('elsewhere.JPEG', np.zeros((64, 64, 3), np.uint8))
    good = 'val_0.JPEG\tn01\t0\t0\t62\t62\n'
    for file in (
      '../elsewhere.JPEG',
      '../../elsewhere.JPEG',
      str(self.root / 'elsewhere.JPEG'),
      '../images/val_1.JPEG',
      '..',
      '',
      'val_0.JPEG',  # twice
    ):
      with self.subTest(file):
        self.write(
          'val/val_annotations.txt', good + good.replace('val_0.JPEG', file)
        )
        self.refuses('line 2: expected .* a new file', 'tiny_imagenet')

  def test_classes_are_named_once(self):
    self.tiny()
    for wnids in (
      'n01 n02 n01',
      'n01 n02 ../n03',
      'n01 /n02',
      '.. n01',
      '',
      'n',
    ):
      for split in ('train', 'test'):
        with self.subTest(wnids, split=split):
          self.write('wnids.txt', '\n'.join(wnids.split()))
          self.refuses('wnids.txt must name two', 'tiny_imagenet', split=split)


if __name__ == '__main__':
  absltest.main()
