"""The summary in the terminal: which classes it lists, and its columns."""

import dataclasses
import types

from absl.testing import absltest
import numpy as np

from labelleak.audit import summary
from labelleak.audit.assessment import Estimate, Score


def _assessment(counts, presences=None, truth=None):
  """A part of one: classes, and two attacks."""
  presences = presences or [1.0] * len(counts)
  truth = truth or [None] * len(counts)
  classes = tuple(
    Estimate(float(count), 1, 12, present, truth=true)
    for count, present, true in zip(counts, presences, truth)
  )
  scores = (
    Score('guessing', (), 0.25, 0.5, accuracy=None),
    Score('calibrated', (), 0.75, 1.0, accuracy=None),
  )
  return types.SimpleNamespace(
    classes=classes,
    scores=scores,
    leaked=0.75,
    guessing=0.25,
    num_examples=20,
    num_classes=len(counts),
  )


class SummaryTest(absltest.TestCase):
  def test_the_headline_sets_the_best_beside_guessing(self):
    text = summary.headline(_assessment([3, 2]))
    self.assertIn('names 75% of the 20 labels', text)
    self.assertEndsWith(text, 'all 2 classes are alike names 25%.')

  def test_the_largest_classes_are_listed_in_their_order(self):
    """Of equal counts the likelier one, then the first."""
    result = _assessment([1, 5, 1, 1, 9], [0.9, 1.0, 0.95, 0.9, 1.0])
    select = lambda limit: [
      i for i, _ in summary.select_classes(result, limit)[0]
    ]
    self.assertEqual(select(5), [0, 1, 2, 3, 4])
    self.assertEqual(select(4), [0, 1, 2, 4])
    self.assertEqual(select(3), [1, 2, 4])
    self.assertEqual(select(1), [4])
    self.assertEqual(summary.select_classes(result, 3)[1], 2)

  def test_bars_are_as_long_as_counts(self):
    title, *lines = summary._draw_classes(
      _assessment([2, 8, 0], None, [1, 9, 0])
    )
    self.assertEqual(
      title.split(), ['class', 'count', 'interval', 'present', 'truth']
    )
    self.assertEqual(lines[0].split()[:5], ['0', '2', '1..12', '100%', '1'])
    lengths = np.array([line.count('#') for line in lines])
    self.assertEqual(lengths[1], summary._BAR)
    np.testing.assert_allclose(lengths / lengths[1], [0.25, 1, 0], atol=0.02)

  def test_columns_stand_below_their_titles(self):
    result = _assessment([3, 2])
    title, first, _ = summary._tabulate_scores(result)
    self.assertLen(title, len(first))
    self.assertEqual(title.split(), ['expected', 'as', 'calibrated'])
    scores = tuple(dataclasses.replace(s, accuracy=0.5) for s in result.scores)
    result.scores = scores
    title, first, _ = summary._tabulate_scores(result)
    self.assertLen(title, len(first))
    self.assertEndsWith(title, 'in truth')
    self.assertEqual(first.split(), ['guessing', '25.0%', '50.0%', '50.0%'])


if __name__ == '__main__':
  absltest.main()
