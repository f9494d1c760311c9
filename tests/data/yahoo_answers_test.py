"""Yahoo Answers: pieces, tokens, records and refusals."""

import csv
import sys
from unittest import mock
import zlib

from absl.testing import absltest
import numpy as np

from labelleak import data, registry
from tests.data import samples


class YahooAnswersTest(samples.FilesTest):
  name = 'yahoo_answers'

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
    split = registry.load('data', 'splits.features', shape=source.shape)
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

  def test_counts_are_those_of_the_tokens(self):
    """Of every part on its own; neither padding nor order counts."""
    self.yahoo(
      [(1, 'aa bb', 'aa', 'cc aa'), (2, 'bb', '', ''), (3, ',', '', '')]
    )
    for parts in (1, 2):
      options = dict(parts=parts, length=6, buckets=5)
      tokens = self.load(**options).take(np.arange(3)).reshape(-1, 6)
      source = self.load(**options, counts=True)
      self.assertEqual(source.shape, (parts * 5,))
      self.assertEqual(source.name, 'yahoo_answers counts')
      bags = source.take(np.arange(3))
      self.assertEqual((bags.dtype, bags.shape), (np.float32, (3, parts * 5)))
      bags = bags.reshape(-1, 5)
      np.testing.assert_array_equal(bags[:, 0], 0)
      for bag, row in zip(bags, tokens):
        self.assertEqual(
          bag[1:].tolist(), [(row == token).sum() for token in range(1, 5)]
        )
    vocab = self.write('vocab.txt', '[PAD]\n[UNK]\n')
    self.refuses('leave vocab=.* out', self.name, counts=True, vocab=vocab)

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
    self.refuses("split='.*' is unknown", self.name, split='all')
    self.refuses('buckets=1 must be .* at least 2', self.name, buckets=1)
    self.refuses('length=0 must be .* at least 1', self.name, length=0)


if __name__ == '__main__':
  absltest.main()
