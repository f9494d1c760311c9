"""The trade-off plot: lines of defenses, the ideal corner, labels."""

import itertools

from absl.testing import absltest, parameterized
from matplotlib import figure
import numpy as np

from labelleak.report import ranking, tradeoff
from tests.report import sample


class TradeoffTest(parameterized.TestCase):
  def _rows(self, strengths=(0.1, 0.001, 0.01)):
    mains = {None: 0.97, 0.001: 0.96, 0.01: 0.9, 0.1: 0.8}
    attacks = {None: 1.0, 0.001: 0.8, 0.01: 0.4, 0.1: 0.1}
    return [
      sample.vertical(
        name, attacks[s], mains[s], [sample.gaussian(s)] if s else []
      )
      for s in (None, *strengths)
      for name in ('linear.full', 'scores.direct')
    ]

  def _draw(self, rows):
    fig = tradeoff.draw(ranking.comparisons(rows))
    return [ax for ax in fig.axes if ax.get_visible()]

  def _lines(self, ax):
    return {line.get_label(): line for line in ax.get_lines()} | {
      c.get_label(): c.lines[0] for c in ax.containers
    }

  def test_a_panel_an_attack_with_the_ideal_corner(self):
    axes = self._draw(self._rows())
    titles = [ax.get_title('left') for ax in axes]
    self.assertEqual(titles, ['linear.full', 'direct'])
    for ax in axes:
      (at,) = self._lines(ax)['ideal'].get_xydata()
      np.testing.assert_allclose(at, [97, 0])

  def test_a_line_a_defense_in_the_order_of_its_strength(self):
    ax = self._draw(self._rows())[0]
    line = self._lines(ax)['gaussian: stddev'].get_xydata()
    np.testing.assert_allclose(line, [[96, 80], [90, 40], [80, 10]])
    bare = self._lines(ax)['none'].get_xydata()
    np.testing.assert_allclose(bare, [[97, 100]])
    texts = {text.get_text() for text in ax.texts}
    self.assertContainsSubset({'0.001', '0.01', '0.1'}, texts)

  def test_numbers_are_sorted_as_numbers(self):
    rows = [
      sample.vertical('linear.full', 0.5, main, [sample.gaussian(s)])
      for s, main in ((10.0, 0.7), (9, 0.8), ('auto', 0.6))
    ]
    (ax,) = self._draw([*rows, *self._rows(())[:1]])
    line = self._lines(ax)['gaussian: stddev'].get_xydata()
    np.testing.assert_allclose(line[:, 0], [80, 70, 60])

  def test_with_two_arguments_a_line_varies_one(self):
    chain = lambda c, s: [
      dict(name='clip', max_norm=c),
      dict(name='noise', scale=s),
    ]
    rows = [
      sample.vertical('linear.full', 0.5, 0.9, chain(c, s))
      for c, s in ((0.1, 1), (1.0, 1), (0.5, 1), (1.0, 2))
    ]
    (ax,) = self._draw([*rows, *self._rows(())[:1]])
    lengths = sorted(
      len(c.lines[0].get_xydata())
      for c in ax.containers
      if c.get_label() == 'clip+noise: max_norm, scale'
    )
    self.assertEqual(lengths, [1, 3])

  def test_published_points_stand_beside_ours(self):
    sparsify = [dict(name='sparsify', drop=0.99)]
    rows = [
      sample.vertical('inversion.batch', 0.9, 0.95),
      sample.vertical('inversion.batch', 0.3, 0.9, sparsify),
    ]
    (ax,) = self._draw(rows)
    places = [
      line.get_xydata()[0]
      for line in ax.get_lines()
      if line.get_label() == 'published'
    ]
    np.testing.assert_allclose(places, [[97.46, 99.65], [94.71, 18.69]])
    left, right = ax.get_xlim()
    for x, _ in places:
      self.assertBetween(x, left, right)

  @parameterized.parameters((0.0, '0.1 ‡'), (0.3, '0.1'))
  def test_a_leak_below_chance_is_marked_and_explained(self, rate, label):
    rows = [
      sample.vertical(
        'scores.direct', each, 0.9, [sample.gaussian(s)] if s else []
      )
      for s, each in ((None, 1.0), (0.01, 0.5), (0.1, rate))
    ]
    fig = tradeoff.draw(ranking.comparisons(rows))
    texts = {text.get_text() for ax in fig.axes for text in ax.texts}
    self.assertContainsSubset({'0.01', label}, texts)
    (legend,) = fig.legends
    notes = [text.get_text() for text in legend.get_texts() if '‡' in str(text)]
    self.assertLen(notes, label.count('‡'))

  def test_without_an_undefended_model_there_is_no_ideal(self):
    rows = [row for row in self._rows() if row['setting']['defense']]
    for ax in self._draw(rows):
      self.assertNotIn('ideal', self._lines(ax))

  @parameterized.parameters(
    ((10, 60), 0.5, (6, 64)),  # 8 % of the range on both sides
    ((10, 60), 0.9, (3.6, 96.4)),  # the ideal, too
    ((10, 60), 0.05, (0.6, 64.4)),
    ((50, 50), None, (49.75, 50.25)),
    ((50, 50.4), None, (49.95, 50.45)),  # half a point at least
  )
  def test_all_points_and_the_ideal_lie_inside(self, ends, best, limits):
    ax = figure.Figure().subplots()
    ax.plot(ends, (0, 1))
    tradeoff._limit(ax, best)
    np.testing.assert_allclose(ax.get_xlim(), limits)

  @parameterized.parameters(
    ((0, 4), (-5, 18, 5, 22)),  # above, in the middle
    ((4, 0), (8, 8, 18, 12)),  # to the right
    ((-4, -4), (-18, -2, -8, 2)),  # to the left, below
  )
  def test_the_box_of_a_label_is_where_it_is_drawn(self, offset, box):
    size, at = np.array([10.0, 4.0]), np.array([0.0, 10.0])
    found = tradeoff._box(at, np.array(offset), size, 2.0)
    np.testing.assert_allclose(found, box)

  def test_labels_may_stand_on_all_sides(self):
    """But right below, where the marker's own error bar ends."""
    sides = {tuple(np.sign(offset)) for offset in tradeoff._AROUND}
    self.assertEqual(
      sides, {*itertools.product((-1, 0, 1), repeat=2)} - {(0, 0), (0, -1)}
    )
    self.assertLen(set(tradeoff._AROUND), 3 * len(sides))

  def test_labels_keep_off_each_other(self):
    near = [
      tradeoff.Label(50.0 + i / 100, 50.0, 'strength', 'k') for i in range(6)
    ]
    fig = figure.Figure()
    ax = fig.subplots()
    ax.set(xlim=(0, 100), ylim=(0, 100))
    tradeoff.annotate(ax, near)
    self.assertLen({text.get_position() for text in ax.texts}, 6)


if __name__ == '__main__':
  absltest.main()
