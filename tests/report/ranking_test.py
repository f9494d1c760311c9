"""Defenses ranked by what they hide and what they cost."""

from absl.testing import absltest, parameterized
import numpy as np

from labelleak.metrics import significance
from labelleak.report import ranking
from tests.report import sample

_SPARSIFY = [dict(name='sparsify')]


def _gaussian(stddev):
  return [sample.gaussian(stddev)]


class RankingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.rows = [
      sample.vertical('linear.full', 1.0, 0.97),
      sample.vertical('scores.direct', 1.0, 0.97),
      sample.vertical('scores.random', 0.1, 0.97),
      sample.vertical('linear.full', 0.5, 0.96, _gaussian(0.01)),
      sample.vertical('scores.direct', 0.7, 0.96, _gaussian(0.01)),
      sample.vertical('linear.full', 0.1, 0.9, _gaussian(0.1)),
      sample.vertical('scores.direct', 0.2, 0.9, _gaussian(0.1)),
    ]

  def _one(self, rows):
    (comparison,) = ranking.comparisons(rows)
    return comparison

  def test_the_best_mean_score_comes_first(self):
    scores = ranking.judge(self._one(self.rows))
    self.assertEqual(
      [s.point.defense for s in scores], [_gaussian(0.1), _gaussian(0.01), []]
    )
    self.assertEqual([s.rank for s in scores], [1, 2, 3])
    self.assertEqual(list(scores[0].dcs), ['linear.full', 'direct'])  # no guess
    want = [significance.dcs(a, 0.9, 0.97) for a in (0.1, 0.2)]
    np.testing.assert_allclose(list(scores[0].dcs.values()), want)
    self.assertAlmostEqual(scores[0].total, np.mean(want))

  def test_of_an_attacks_variants_the_strongest_counts(self):
    other = dict(args=dict(rule='complement'))
    weak = sample.vertical('scores.direct', 0.0, 0.97, **other)
    strong = sample.vertical('scores.direct', 0.9, 0.9, _SPARSIFY, **other)
    failed = sample.vertical('scores.direct', 0.0, 0.9, _SPARSIFY)
    comparison = self._one([*self.rows, weak, failed, strong])
    scores = {str(s.point.defense): s for s in ranking.judge(comparison)}
    bare, coded = scores['[]'], scores[str(_SPARSIFY)]
    self.assertEqual(bare.counted, ('linear.full', 'direct'))
    self.assertAlmostEqual(bare.total, significance.dcs(1.0, 0.97, 0.97))
    self.assertEqual(coded.counted, ('direct(rule=complement)',))
    self.assertAlmostEqual(coded.total, significance.dcs(0.9, 0.9, 0.97))
    text = ranking.table(comparison)
    self.assertEqual(text.count('‡'), 2)  # the cells, not what they add up to

  def test_equal_scores_share_a_rank(self):
    rows = [r | dict(metrics=self.rows[0]['metrics']) for r in self.rows]
    self.assertEqual(
      [s.rank for s in ranking.judge(self._one(rows))], [1, 1, 1]
    )

  def test_the_table(self):
    text = ranking.table(self._one(self.rows))
    line = next(ln for ln in text.splitlines() if '0.01' in ln)
    score = significance.dcs(0.5, 0.96, 0.97)
    self.assertIn('96.00 ± 0.10', line)
    number = f'{score:.3f}'.removeprefix('0')
    self.assertIn(f'50.00 ± 0.00 ({number})', line)
    worst = f'{significance.dcs(0.7, 0.96, 0.97):.3f}'.removeprefix('0')
    self.assertIn(f' {worst} ', line)

  def test_relative_accuracy_needs_no_undefended_model(self):
    """Horizontal rows, through the same code; undefended costs nothing."""
    metrics = dict(
      count_accuracy=sample.summary(0.4),
      relative_accuracy=sample.summary(-0.3, 0.02),
    )
    noise = dict(defense=_gaussian(0.1), epsilon=3.0)  # epsilon follows from it
    rows = [
      sample.horizontal('counts.llbg', 0.99),
      sample.horizontal('counts.llbg', metrics=metrics, setting=noise),
    ]
    best, bare = ranking.judge(self._one(rows))
    self.assertAlmostEqual(best.dcs['llbg'], significance.dcs(0.4, 0.6, 0.9))
    self.assertAlmostEqual(bare.dcs['llbg'], significance.dcs(0.99, 0.9, 0.9))
    self.assertIn('-30.00 ± 2.00', ranking.table(self._one(rows)))

  def test_accuracy_of_the_setting_serves_trained_models(self):
    rows = [
      sample.vertical(
        'linear.full', a, defense=d, setting=dict(accuracy=m, step=9)
      )
      for d, m, a in (([], 0.95, 0.9), (_SPARSIFY, 0.94, 0.3))
    ]
    best, _ = ranking.judge(self._one(rows))
    self.assertAlmostEqual(best.total, significance.dcs(0.3, 0.94, 0.95))

  def test_without_an_undefended_model_nothing_is_scored(self):
    comparison = self._one([r for r in self.rows if r['setting']['defense']])
    self.assertIsNone(ranking.ideal(comparison))
    self.assertEqual([s.dcs for s in ranking.judge(comparison)], [{}, {}])
    self.assertIn('70.00', ranking.table(comparison))

  def test_only_what_defends_may_differ(self):
    code = [dict(name='smoothing', alpha=0.5)]
    bottleneck = [dict(name='mid', weight=1.0)]
    other = sample.vertical(
      'linear.full', 0.2, 0.9, _SPARSIFY, setting=dict(batch_size=7)
    )
    rows = [
      *self.rows,
      sample.vertical('linear.full', 0.2, 0.9, code),
      sample.vertical('linear.full', 0.2, 0.9, bottleneck),
      other,
    ]
    points = self._one(rows).points  # a lone point is no comparison
    self.assertEqual([p.defense for p in points][3:], [code, bottleneck])

  def test_attacks_of_two_sweep_points_meet_and_repetitions_do_not(self):
    more = sample.vertical('linear.last_layer', 0.3, 0.97)
    again = sample.vertical('linear.full', 0.8, 0.97, point={'lr': 1})
    points = self._one([*self.rows, more, again]).points
    self.assertLen(points, 4)
    self.assertIn('linear.last_layer', points[0].rows)
    self.assertEqual(list(points[3].rows), ['linear.full'])

  def test_rows_without_a_main_task_or_an_attack_are_left_out(self):
    bare = [
      sample.vertical('linear.full', 1.0),
      sample.vertical('a.b', 1.0, None, [dict(name='x')]),
    ]
    self.assertEmpty(ranking.comparisons(bare))
    none = sample.vertical('none', 0.0, 0.9)
    none['metrics'] = dict(main_accuracy=sample.summary(0.9))
    self.assertEmpty(ranking.comparisons([none]))
    self.assertEmpty(ranking.comparisons(self.rows[:3]))  # one defense
    guesses = [r | dict(attack=dict(name='scores.random')) for r in self.rows]
    self.assertEmpty(ranking.comparisons(guesses))

  def test_leaks_below_chance_are_marked_in_the_score(self):
    rounding = [dict(name='rounding')]
    rows = [*self.rows, sample.vertical('scores.direct', 0.0, 0.97, rounding)]
    text = ranking.markdown([self._one(rows)])
    line = next(ln for ln in text.splitlines() if 'rounding' in ln)
    cells = [cell.strip() for cell in line.split('|')[1:-1]]
    self.assertEqual(cells[0], '1')  # as published, and hence the mark
    self.assertEqual(cells[3], '1.000 ‡')
    self.assertIn('which is leakage', text)
    self.assertNotIn('‡', ranking.markdown([self._one(self.rows)]))

  def test_a_defense_is_ranked_against_the_training_not_attacked(self):
    coded = dict(setting=dict(defense=[dict(name='coae')]))
    rows = [
      sample.backdoor(main=0.9),
      sample.backdoor('none', main=0.95, rate=0.0),
      sample.backdoor(main=0.85, rate=0.1, **coded),
      sample.backdoor('none', main=0.86, rate=0.0, **coded),
    ]
    comparison = self._one(rows)
    self.assertEqual(ranking.ideal(comparison), 0.95)
    self.assertEqual(comparison.attacks, ['backdoor.backdoor'])
    best = ranking.judge(comparison)[0]
    self.assertEqual(best.point.defense, [dict(name='coae')])


if __name__ == '__main__':
  absltest.main()
