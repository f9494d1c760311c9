"""NUS-WIDE: which photos, which columns, whose scale."""

from absl.testing import absltest
import numpy as np

from labelleak import data, registry
from tests.data import samples

WIDTHS = dict(CH=64, CM55=225, CORR=144, EDH=73, WT=128)


def lines(rows, separator):
  """Rows as the lines of a file that ends each column with the separator."""
  return ''.join(
    ''.join(f'{value}{separator}' for value in row) + '\n' for row in rows
  )


class NusWideTest(samples.FilesTest):
  def nus_wide(self, part, truth, shift=0.0):
    """Writes a split; truth: concept -> 0 or 1 by photo. Returns [N, 1634]."""
    num = len(next(iter(truth.values())))
    for concept, marks in truth.items():
      self.write(
        f'Groundtruth/TrainTestLabels/Labels_{concept}_{part}.txt',
        ''.join(f'{mark}\n' for mark in marks),
      )
    tags = self.rng.integers(0, 2, (num, 1000))
    tags[:, 7] = 0  # a tag that nobody bears
    self.write(f'NUS_WID_Tags/{part}_Tags1k.dat', lines(tags, '\t'))
    columns = [tags]
    for kind, width in WIDTHS.items():
      values = np.round(self.rng.normal(size=(num, width)), 6)
      values[:, 0] = 0.1  # constant, and its mean is rounded
      values += shift
      columns.append(values)
      self.write(
        f'Low_Level_Features/{part}_Normalized_{kind}.dat', lines(values, ' ')
      )
    return np.concatenate(columns, 1)

  def both(self, shift=0.0):
    train = dict(clouds=[1, 0, 1, 0, 0, 1], person=[0, 1, 1, 0, 1, 0])
    test = dict(clouds=[0, 1, 0], person=[1, 1, 1])
    return self.nus_wide('Train', train), self.nus_wide('Test', test, shift)

  def load(self, split, **options):
    return data.load(
      'nus_wide', path=str(self.root), split=split, classes=2, **options
    )

  def test_photos_with_one_concept_tags_first(self):
    train, test = self.both()
    for split, x, rows, y in (
      ('train', train, [0, 1, 4, 5], [0, 1, 1, 0]),
      (None, test, [0, 2], [1, 1]),
    ):
      source = self.load(split, normalise=False)
      self.assertEqual((source.num_classes, source.shape), (2, (1634,)))
      self.assertEqual((source.y.dtype, source.y.tolist()), (np.int32, y))
      taken = source.take(np.arange(len(y)))
      self.assertEqual(taken.dtype, np.float32)
      np.testing.assert_allclose(taken, x[rows], rtol=1e-6)
    split = registry.load(
      'data', 'splits.features', shape=source.shape, sizes=(1000, 634)
    )
    tags, image = split(taken)
    np.testing.assert_array_equal(tags, test[[0, 2], :1000])
    self.assertEqual(image.shape, (2, 634))

  def test_scaling_is_the_training_rows(self):
    train, test = self.both()
    mean, std = train[[0, 1, 4, 5]].mean(0), train[[0, 1, 4, 5]].std(0)
    constant = std < 1e-9
    self.assertTrue(constant[7])
    self.assertTrue(constant[1000])
    for split, x in (('train', train[[0, 1, 4, 5]]), ('test', test[[0, 2]])):
      taken = self.load(split).take(np.arange(len(x)))
      expected = (x - mean) / np.where(constant, 1, std)
      np.testing.assert_allclose(taken, expected, rtol=1e-3, atol=1e-4)

  def test_test_rows_leave_the_scaling_as_it_was(self):
    self.both()
    train = self.load('train').take(np.arange(4))
    first = self.load('test').take(np.arange(2))
    scale = self.load('test', normalise=False).take(np.arange(2))
    self.rng = np.random.default_rng(0)
    self.both(shift=100.0)
    np.testing.assert_array_equal(train, self.load('train').take(np.arange(4)))
    # The same straight line maps raw to scaled: rows moved by 100 move with it.
    moved = self.load('test').take(np.arange(2))
    raw = self.load('test', normalise=False).take(np.arange(2))
    slope = (moved - first)[:, 1000:] / (raw - scale)[:, 1000:]
    deviation = self.load('train', normalise=False).take(np.arange(4)).std(0)
    deviation = np.where(deviation < 1e-7, 1, deviation)[1000:]
    np.testing.assert_allclose(slope, np.tile(1 / deviation, (2, 1)), rtol=1e-3)

  def test_all_81_concepts(self):
    marks = np.eye(81, dtype=int)
    truth = {f'concept{k:02}': marks[:, k] for k in range(81)}
    self.nus_wide('Train', truth)
    source = data.load(
      'nus_wide', path=str(self.root), split='train', classes=81
    )
    self.assertEqual(source.num_classes, 81)
    np.testing.assert_array_equal(source.y, np.arange(81))
    truth = self.root / 'Groundtruth' / 'TrainTestLabels'
    (truth / 'Labels_concept07_Train.txt').unlink()
    self.refuses('labels of 80 concepts', 'nus_wide', split='train', classes=81)

  def test_refusals(self):
    name, options = 'nus_wide', dict(split='train', classes=2)
    self.refuses(
      r'Labels_clouds_Train\.txt does not exist; fetch', name, **options
    )
    self.both()
    self.refuses("split='.*' is unknown", name, split='all')
    self.refuses('classes=3 is unknown; use one of: 2, 5, 81', name, classes=3)
    tags = 'NUS_WID_Tags/Train_Tags1k.dat'
    good = np.zeros((6, 1000), int)
    for rows, message in (
      (
        [*good[:2], good[2, :-1], *good[3:]],
        'line 3: expected 1000 .* found 999',
      ),
      (good[:5], 'expected 6 lines, .* found 5'),
      (np.zeros((7, 1000), int), 'expected 6 lines, .* found 7'),
      ([['x'] * 1000, *good[1:]], 'Tags1k.dat holds no numbers'),
    ):
      self.write(tags, lines(rows, '\t'))
      self.refuses(message, name, **options)
    labels = 'Groundtruth/TrainTestLabels/Labels_person_Train.txt'
    self.write(labels, '0\n1\n2\n0\n0\n0\n')
    self.refuses(r"line 3: expected 0 or 1, found '2'", name, **options)
    self.write(labels, '0\n1\n')
    self.refuses('differ in length', name, **options)
    self.write(labels, '1\n0\n1\n0\n0\n1\n')
    self.refuses('no Train photo has exactly one', name, **options)

  def test_numbers_are_finite(self):
    self.both()
    for file in (
      'NUS_WID_Tags/Train_Tags1k.dat',
      'Low_Level_Features/Train_Normalized_EDH.dat',
      'Low_Level_Features/Test_Normalized_WT.dat',
    ):
      text = (self.root / file).read_text()
      photo, *others = text.splitlines(keepends=True)  # the first one is chosen
      for value in ('nan', 'inf', '-inf', '1e39'):
        with self.subTest(file, value=value):
          columns = photo.split()
          broken = ' '.join([value, *columns[1:]]) + '\n'
          self.write(file, broken + ''.join(others))
          message = f'{file.split("/")[1]}, line 1: .* not finite'
          split = 'train' if 'Train' in file else 'test'
          self.refuses(message, 'nus_wide', classes=2, split=split)
      self.write(file, text)


if __name__ == '__main__':
  absltest.main()
