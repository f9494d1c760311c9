"""Loading by name, and the sources that need no files."""

from absl.testing import absltest, parameterized
import numpy as np

from labelleak import base, data, registry
from tests.data import samples


class InMemoryTest(parameterized.TestCase):
  @parameterized.parameters(
    ('digits', 1797, 10, (8, 8, 1), 0.8),
    ('breast_cancer', 569, 2, (30,), 0.85),
  )
  def test_splits_are_real_and_disjoint(self, name, num, k, shape, accuracy):
    train = data.load(name, split='train')
    test = data.load(name, split='test')
    self.assertEqual(len(train.y) + len(test.y), num)
    self.assertLen(data.load(name, split='all').y, num)
    for source in (train, test):
      self.assertEqual((source.num_classes, source.shape), (k, shape))
      self.assertEqual(set(source.y), set(range(k)))
      x = source.take([0, 3, 3])
      self.assertEqual((x.shape, x.dtype), ((3, *shape), np.float32))
      np.testing.assert_array_equal(x[1], x[2])
    rows = lambda s: {x.tobytes() for x in s.take(np.arange(len(s.y)))}
    self.assertEmpty(rows(train) & rows(test))
    self.assertGreater(samples.nearest_mean_accuracy(train, test), accuracy)

  def test_normalisation(self):
    train = data.load('breast_cancer', split='train')
    x = train.take(np.arange(len(train.y)))
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-5)
    digits = lambda normalise: data.load('digits', normalise=normalise).take(
      np.arange(99)
    )
    self.assertEqual((digits(False).min(), digits(False).max()), (0, 1))
    np.testing.assert_allclose(digits(True), 2 * digits(False) - 1)


class SyntheticTest(parameterized.TestCase):
  @parameterized.parameters((16, 24, 3), (5, 1), (40,))
  def test_classes_can_be_learned(self, *shape):
    make = lambda split, n: data.load(
      'synthetic', split=split, shape=shape, num_classes=20, noise=n
    )
    train, test = make('train', 2.0), make('test', 2.0)
    self.assertEqual(test.take([0]).shape, (1, *shape))
    # Chance is .05 with standard error .005 over the 2000 test rows.
    self.assertGreater(samples.nearest_mean_accuracy(train, test), 0.1)
    self.assertEqual(
      samples.nearest_mean_accuracy(make('train', 0), make('a', 0)), 1
    )

  def test_an_example_depends_on_seed_split_and_index_only(self):
    make = lambda **options: data.load('synthetic', **options)
    x = make().take(np.arange(1000))
    np.testing.assert_array_equal(make().take([7, 999, 7]), x[[7, 999, 7]])
    self.assertFalse(np.allclose(make(seed=1).take([7]), x[7]))
    self.assertFalse(np.allclose(make(split='train').take([7]), x[7]))
    # Unit variance: patterns and noise share it.
    self.assertLess(abs(x.std() - 1), 0.1)

  @parameterized.parameters(
    (dict(num_classes=1), 'num_classes'),
    (dict(shape=()), 'shape'),
    (dict(shape=(3, 0)), 'shape'),
    (dict(noise=-1.0), 'noise'),
    (dict(seed=-1), 'seed'),
    (dict(per_class=0), 'per_class'),
    (dict(sise=3), 'sise'),
  )
  def test_refusals(self, options, expected):
    self.assertIn(expected, samples.refusal('synthetic', **options))


class NamesTest(parameterized.TestCase):
  def test_a_data_set_is_its_file(self):
    self.assertContainsSubset(
      ['breast_cancer', 'cinic10', 'criteo', 'digits', 'synthetic'],
      data.names(),
    )
    self.assertNoCommonElements(
      ['plans', 'poison', 'reading', 'splits', 'tfds', 'triggers'], data.names()
    )
    self.assertNotIn('names', registry.names('data'))
    for name in data.names():
      self.assertIn(f'{name}.{name}', registry.names('data'))
    np.testing.assert_array_equal(
      data.load('digits').y, data.load('digits.digits').y
    )

  def test_other_bare_names_are_of_tensorflow_datasets(self):
    for name in ('splits', 'plans', 'mnist'):
      with self.assertRaisesRegex(base.InputError, 'prepared in /nowhere'):
        data.load(name, data_dir='/nowhere')
    with self.assertRaisesRegex(base.InputError, "criteo needs 'path'"):
      data.load('criteo')  # ours, though tfds has one of this name
    with self.assertRaisesRegex(base.InputError, 'prepared in /nowhere'):
      data.load('criteo:1.0.0', data_dir='/nowhere')


if __name__ == '__main__':
  absltest.main()
