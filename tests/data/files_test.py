"""Sources of hand-fetched files, on small samples in the original layouts."""

import csv
import itertools
import pathlib
import sys
from unittest import mock
import zlib

from absl.testing import absltest, parameterized
import numpy as np
from PIL import Image

from labelleak import base, data, registry
from labelleak.data import hashed

WIDTHS = dict(CH=64, CM55=225, CORR=144, EDH=73, WT=128)
CINIC = 'airplane automobile bird cat deer dog frog horse ship truck'


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


def lines(rows, separator):
  """Rows as the lines of a file that ends each column with the separator."""
  return ''.join(
    ''.join(f'{value}{separator}' for value in row) + '\n' for row in rows
  )


class NusWideTest(FilesTest):
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
      'tables.nus_wide', path=str(self.root), split=split, classes=2, **options
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
      'data', 'vertical.features', shape=source.shape, sizes=(1000, 634)
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
      'tables.nus_wide', path=str(self.root), split='train', classes=81
    )
    self.assertEqual(source.num_classes, 81)
    np.testing.assert_array_equal(source.y, np.arange(81))
    truth = self.root / 'Groundtruth' / 'TrainTestLabels'
    (truth / 'Labels_concept07_Train.txt').unlink()
    self.refuses(
      'labels of 80 concepts', 'tables.nus_wide', split='train', classes=81
    )

  def test_refusals(self):
    name, options = 'tables.nus_wide', dict(split='train', classes=2)
    self.refuses(
      r'Labels_clouds_Train\.txt does not exist; fetch', name, **options
    )
    self.both()
    self.refuses('no split', name, split='all')
    self.refuses('classes=3 must be 2, 5 or 81', name, classes=3)
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


class CriteoTest(FilesTest):
  def criteo(self, labels):
    """Writes rows of random columns, some missing; returns label and values."""
    values = self.rng.integers(0, 50, (len(labels), 39)).astype(str)
    values[self.rng.random(values.shape) < 0.2] = ''
    rows = [[str(y), *row] for y, row in zip(labels, values)]
    self.write('train.txt', ''.join('\t'.join(row) + '\n' for row in rows))
    return values

  def test_counts_are_tokens_and_xors_of_their_pairs(self):
    labels = self.rng.integers(0, 2, 60)
    values = self.criteo(labels)
    kept, wanted = [], 0  # labels alternate from 0
    for row, label in zip(values, labels):
      if label == wanted and len(kept) < 20:
        kept.append(row)
        wanted = 1 - wanted
    names = [f'I{i + 1}' for i in range(13)] + [f'C{i + 1}' for i in range(26)]
    expected = np.zeros((20, 8192))
    for counts, row in zip(expected, kept):
      tokens = [
        zlib.crc32(f'{name}={value}'.encode()) % 8192
        for name, value in zip(names, row)
      ]
      for token in tokens:
        counts[token] += 1
      for one, other in itertools.combinations(tokens, 2):
        counts[one ^ other] += 1
    options = dict(path=str(self.root), rows=20)
    train = data.load('hashed.criteo', split='train', **options)
    test = data.load('hashed.criteo', **options)
    self.assertEqual((train.shape, train.num_classes), ((8192,), 2))
    self.assertEqual(train.y.tolist(), [0, 1] * 8)
    self.assertEqual(test.y.tolist(), [0, 1] * 2)  # disjoint: no leak
    for source, rows in ((train, expected[:16]), (test, expected[16:])):
      x = source.take(np.arange(len(rows)))
      self.assertEqual(x.dtype, np.float32)
      np.testing.assert_array_equal(x, rows)
      np.testing.assert_array_equal(x.sum(1), 780)
      np.testing.assert_array_equal(source.take(np.array([1, 0])), rows[[1, 0]])
    with mock.patch.object(hashed, '_CHUNK', 3):
      np.testing.assert_array_equal(train.take(np.arange(16)), expected[:16])

  def test_refusals(self):
    name = 'hashed.criteo'
    self.refuses(r'train\.txt does not exist; fetch the data from', name)
    self.criteo([0, 1, 1, 1, 0, 1])
    self.refuses('has 4 rows of alternating labels, rows=100000', name)
    self.refuses('rows=4 must be at least 5', name, rows=4)
    self.refuses('no split', name, split='validation')
    self.write('train.txt', '0' + '\t1' * 39 + '\n1' + '\t1' * 38 + '\n')
    self.refuses("line 2: .* 39 columns, found '1' and 38", name)
    self.write('train.txt', '2' + '\t1' * 39 + '\n')
    self.refuses("line 1: .* found '2' and 39", name)


class FoldersTest(FilesTest):
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
      source = data.load('folders.cinic10', path=str(self.root), split=split)
      x = np.concatenate([images[part] for part in parts]) / 255
      self.assertEqual((source.shape, source.num_classes), ((32, 32, 3), 10))
      self.assertEqual(source.y.tolist(), [*range(10)] * len(parts))
      taken = source.take(np.arange(len(x)))
      self.assertEqual(taken.dtype, np.float32)
      np.testing.assert_allclose(taken, (x - mean) / std, atol=1e-5)
    plain = data.load('folders.cinic10', path=str(self.root), normalise=False)
    np.testing.assert_allclose(plain.take(np.array([3])), x[3:4], atol=1e-6)

  def test_data_dir_is_where_relative_paths_start(self):
    self.cinic()
    source = data.load(
      'folders.cinic10', path=self.root.name, data_dir=str(self.root.parent)
    )
    same = data.load(
      'folders.cinic10', path=str(self.root), data_dir='/elsewhere'
    )
    np.testing.assert_array_equal(
      source.take(np.arange(10)), same.take(np.arange(10))
    )

  def test_images_are_decoded_when_taken(self):
    self.cinic()
    self.write('test/dog/test-0.png', 'no image')
    source = data.load('folders.cinic10', path=str(self.root))
    self.assertEqual(source.take(np.array([0, 9])).shape, (2, 32, 32, 3))
    with self.assertRaisesRegex(base.InputError, r'test/dog/test-0.png is no'):
      source.take(np.array([5]))

  def test_cinic_refusals(self):
    name = 'folders.cinic10'
    self.refuses('test/airplane does not exist; fetch', name)
    self.cinic()
    self.refuses('no split', name, split='valid')
    self.image('test/cat/test-0.png', self.noise(31, 32))
    self.refuses('test/cat.*expected 32 x 32 pixels, found 32 x 31', name)
    (self.root / 'test/cat/test-0.png').unlink()
    self.refuses(r'test/cat holds no \*\.png', name)

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
    name, options = 'folders.tiny_imagenet', dict(path=str(self.root))
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
    name = 'folders.tiny_imagenet'
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


class PatchesTest(FilesTest):
  name = 'patches.breast_histopathology'

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
      'data', 'vertical.patches', shape=source.shape, shared=2
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
    self.refuses('patches=0 must be at least 1', self.name, patches=0)
    self.refuses('background=2 lie in 0..1', self.name, background=2)
    self.image('1/1/1_x9_y1_class0.png', self.noise(50))
    self.refuses('lies in folder 1, but its name has no class1', self.name)


class YahooTest(FilesTest):
  name = 'text.yahoo_answers'

  def yahoo(self, records, file='test.csv'):
    """Writes records (class, title, question, answer), quoted as published."""
    path = self.write(file, '')
    with open(path, 'w', newline='') as out:
      csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator='\n').writerows(
        records
      )

  def load(self, **options):
    return data.load(self.name, path=str(self.root), **options)

  def test_halves_have_as_many_characters(self):
    self.yahoo([(5, 'aa bb', 'cc', 'dd ee'), (10, 'x', '', 'He said "No"!')])
    source = self.load(length=4)
    self.assertEqual((source.shape, source.num_classes), ((8,), 10))
    self.assertEqual(source.y.tolist(), [4, 9])
    x = source.take(np.arange(2))
    self.assertEqual(x.dtype, np.int32)

    def ids(*words):
      tokens = [1 + zlib.crc32(word.encode()) % 30521 for word in words]
      return tokens + [0] * (4 - len(tokens))

    # 'aa bb cc dd ee' and 'x  He said "No"!', 14 and 16 characters.
    np.testing.assert_array_equal(
      x,
      [
        ids('aa', 'bb', 'c') + ids('c', 'dd', 'ee'),
        ids('x', 'he', 'sa') + ids('id', '"', 'no', '"'),  # cut off after four
      ],
    )
    split = registry.load('data', 'vertical.features', shape=source.shape)
    passive, active = split(x)
    np.testing.assert_array_equal(np.concatenate([passive, active], 1), x)
    self.assertEqual(passive.shape, (2, 4))

  def test_more_parts_and_any_order(self):
    texts = [''.join(self.rng.choice(list('ab '), 40)) for _ in range(12)]
    self.yahoo([(1 + i % 10, text, '', '') for i, text in enumerate(texts)])
    source = self.load(parts=3, length=50)
    x = source.take(np.arange(12))
    self.assertEqual(x.shape, (12, 150))
    index = self.rng.permutation(12)
    np.testing.assert_array_equal(source.take(index), x[index])
    self.assertEqual(source.take(index[:0]).shape, (0, 150))
    whole = self.load(parts=1, length=50).take(np.arange(12))
    lengths = (x.reshape(12, 3, 50) > 0).sum((1, 2)) - (whole > 0).sum(1)
    # A word that a cut divides counts twice.
    self.assertBetween(lengths.min(), 0, 2)
    self.assertBetween(lengths.max(), 0, 2)

  def test_line_breaks_and_unicode(self):
    self.yahoo([(1, 'größe\\nzwei', 'line\u2028sep', 'ok'), (2, 'b', 'c', 'd')])
    with_break = self.load(parts=1, length=9).take(np.arange(2))
    self.yahoo([(1, 'größe zwei', 'line sep', 'ok'), (2, 'b', 'c', 'd')])
    np.testing.assert_array_equal(
      with_break, self.load(parts=1, length=9).take(np.arange(2))
    )

  def test_first_ones_of_each_class(self):
    records = [(1 + i % 10, f'word{i}', '', '') for i in range(50)]
    self.yahoo(records, 'train.csv')
    source = self.load(split='train', per_class=2, parts=1, length=1)
    self.assertEqual(source.y.tolist(), [*range(10)] * 2)
    every = self.load(split='train', parts=1, length=1)
    np.testing.assert_array_equal(
      source.take(np.arange(20)), every.take(np.arange(20))
    )
    few = self.load(split='train', buckets=3).take(np.arange(50))
    self.assertEqual(set(few.ravel()), {0, 1, 2})

  def test_word_pieces(self):
    try:
      import tokenizers  # noqa: F401
    except ImportError:
      self.skipTest("needs the extra: pip install 'labelleak[text]'")
    vocab = self.write('vocab.txt', '[PAD]\n[UNK]\nplay\n##ing\n!\nthe\n')
    self.yahoo([(3, 'Playing', 'THE', 'zzz!')])  # 'playing ' and 'the zzz!'
    x = self.load(vocab=vocab, length=4).take(np.arange(1))
    np.testing.assert_array_equal(x, [[2, 3, 0, 0, 5, 1, 4, 0]])
    self.write('vocab.txt', 'play\n[UNK]\n')
    self.refuses(r'must start with \[PAD\]', self.name, vocab=vocab)
    self.refuses('nowhere.txt does not exist', self.name, vocab='nowhere.txt')

  def test_without_the_extra(self):
    self.yahoo([(3, 'a', 'b', 'c')])
    vocab = self.write('vocab.txt', '[PAD]\n[UNK]\n')
    with mock.patch.dict(sys.modules, tokenizers=None):
      self.refuses(r"pip install 'labelleak\[text\]'", self.name, vocab=vocab)

  def test_refusals(self):
    self.refuses(r'test\.csv does not exist; fetch the data from', self.name)
    good = (1, 'a', 'b', 'c')
    for record, message in (
      ((1, 'a', 'b'), 'line 2: expected 4 columns, .* found 3'),
      ((11, 'a', 'b', 'c'), "line 2: .* class 1 to 10, found 4: .'11'"),
      (('0', 'a', 'b', 'c'), 'class 1 to 10'),
      ((1, 'a\nb', 'b', 'c'), 'line 2: no record of four quoted fields'),
    ):
      self.yahoo([good, record])
      self.refuses(message, self.name)
    self.write('test.csv', '"1","a","b","c"\n\n')
    self.refuses('line 2: expected 4 columns, .* found 0', self.name)
    self.write('test.csv', '')
    self.refuses('is empty', self.name)
    self.yahoo([good])
    self.refuses('no split', self.name, split='all')
    self.refuses('buckets=1 is below 2', self.name, buckets=1)
    self.refuses('length=0 is below 1', self.name, length=0)


if __name__ == '__main__':
  absltest.main()
