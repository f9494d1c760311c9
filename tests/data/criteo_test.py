"""Criteo: tokens, pairs and buckets, counted by hand."""

import itertools
from unittest import mock
import zlib

from absl.testing import absltest
import numpy as np

from labelleak import data
from labelleak.data import criteo
from tests.data import samples


class CriteoTest(samples.FilesTest):
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
    train = data.load('criteo', split='train', **options)
    test = data.load('criteo', **options)
    self.assertEqual((train.shape, train.num_classes), ((8192,), 2))
    self.assertEqual(train.y.tolist(), [0, 1] * 8)
    self.assertEqual(test.y.tolist(), [0, 1] * 2)  # disjoint: no leak
    for source, rows in ((train, expected[:16]), (test, expected[16:])):
      x = source.take(np.arange(len(rows)))
      self.assertEqual(x.dtype, np.float32)
      np.testing.assert_array_equal(x, rows)
      np.testing.assert_array_equal(x.sum(1), 780)
      np.testing.assert_array_equal(source.take(np.array([1, 0])), rows[[1, 0]])
    with mock.patch.object(criteo, '_CHUNK', 3):
      np.testing.assert_array_equal(train.take(np.arange(16)), expected[:16])

  def test_refusals(self):
    name = 'criteo'
    self.refuses(r'train\.txt does not exist; fetch the data from', name)
    self.criteo([0, 1, 1, 1, 0, 1])
    self.refuses('has 4 rows of alternating labels, rows=100000', name)
    self.refuses('rows=4 must be .* at least 5', name, rows=4)
    self.refuses("split='.*' is unknown", name, split='validation')
    self.write('train.txt', '0' + '\t1' * 39 + '\n1' + '\t1' * 38 + '\n')
    self.refuses("line 2: .* 39 columns, found '1' and 38", name)
    self.write('train.txt', '2' + '\t1' * 39 + '\n')
    self.refuses("line 1: .* found '2' and 39", name)


if __name__ == '__main__':
  absltest.main()
