"""The data of a config: what the attacker holds, and what clients keep."""

import contextlib
import io

from absl.testing import absltest, parameterized
import numpy as np

from labelleak import experiments
from labelleak.base import InputError
from labelleak.experiments import sources
from labelleak.experiments.hfl.build import build
from tests.experiments import samples


def _round(**fields):
  """A round whose config grants labelled examples."""
  return build(samples.horizontal(known=('labelled',), **fields))


class AuxiliaryTest(parameterized.TestCase):
  def test_held_out_examples_never_reach_a_client(self):
    setup = _round(aux__per_class=10)
    source, labelled = setup.source, setup.known['labelled']
    np.testing.assert_array_equal(labelled.y.sum(0), 10)
    self.assertLen(setup.rows, len(source.y) - 100)
    batch = setup.draw(np.arange(20))
    self.assertLessEqual(set(batch.index.ravel()), set(setup.rows))
    held = np.setdiff1d(np.arange(len(source.y)), setup.rows)
    taken = source.take(held)[np.argsort(source.y[held], kind='stable')]
    self.assertEqual(
      {row.tobytes() for row in taken}, {row.tobytes() for row in labelled.x}
    )

  def test_overlap_leaves_all_rows_to_the_clients(self):
    setup = _round(aux__per_class=10, aux__overlap=True)
    self.assertLen(setup.rows, len(setup.source.y))
    first = np.flatnonzero(setup.source.y == 0)[:10]
    np.testing.assert_array_equal(
      setup.known['labelled'].x[:10], setup.source.take(first)
    )

  def test_a_split_of_its_own_leaves_all_rows_to_the_clients(self):
    setup = _round(aux__split='train', aux__per_class=10)
    self.assertLen(setup.rows, len(setup.source.y))
    config = samples.horizontal()
    own = sources.load(config.dataset, None, 'train')
    rows = {row.tobytes() for row in own.take(np.arange(len(own.y)))}
    x = setup.known['labelled'].x
    self.assertContainsSubset({row.tobytes() for row in x}, rows)

  def test_holding_out_too_much_is_refused(self):
    with self.assertRaisesRegex(InputError, 'aux.per_class=44 leaves'):
      _round(aux__per_class=44)

  def test_no_examples_are_drawn_where_none_are_granted(self):
    setup = build(samples.horizontal(aux__per_class=44))
    self.assertIsNone(setup.known['labelled'])
    self.assertLen(setup.rows, len(setup.source.y))


class LoadTest(parameterized.TestCase):
  def test_points_share_what_was_loaded(self):
    config = samples.horizontal()
    one, again = (sources.load(config.dataset, None) for _ in range(2))
    self.assertIs(one, again)
    self.assertIsNot(sources.load(config.dataset, None, 'train'), one)

  def test_a_run_says_which_data_stand_for_which(self):
    spec = dict(name='synthetic', shape=(8, 8, 3), num_classes=10)
    for stands_for, expected in (
      (None, 'data: synthetic 8x8x3/10, 1000 x (8, 8, 3)'),
      ('synthetic', 'data: synthetic 8x8x3/10, 1000 x (8, 8, 3)'),
      (
        'cifar10',
        'data: synthetic 8x8x3/10, 1000 x (8, 8, 3), which stand for cifar10',
      ),
    ):
      text = sources.describe(spec, None, stands_for=stands_for)
      self.assertEqual(text, expected)
    config = samples.horizontal(trials=1, stands_for__data='cifar10')
    config.sweep = (('batch_size', (10, 20)),)
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
      experiments.run(config)
    lines = [x for x in stderr.getvalue().splitlines() if 'data: ' in x]
    self.assertEqual(
      lines, ['data: digits, 450 x (8, 8, 1), which stand for cifar10']
    )


if __name__ == '__main__':
  absltest.main()
