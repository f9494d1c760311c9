"""Defense capability scores, and leaks below chance."""

from absl.testing import absltest, parameterized
import numpy as np
from scipy import stats

from labelleak.base import InputError
from labelleak.metrics import significance


class ScoreTest(parameterized.TestCase):
  def test_score_by_the_formula(self):
    rng = np.random.default_rng(0)
    for attack, main, best, beta, ideal in rng.random((50, 5)):
      distance = np.sqrt(
        (1 - beta) * (attack - ideal) ** 2 + beta * (main - best) ** 2
      )
      got = significance.dcs(attack, main, best, beta=beta, attack_ideal=ideal)
      np.testing.assert_allclose(got, 1 / (1 + distance), rtol=1e-12)

  def test_score_at_the_corners(self):
    self.assertEqual(significance.dcs(0.0, 0.9, 0.9), 1.0)
    self.assertEqual(
      significance.dcs(-0.3, 0.9, 0.9), 1.0
    )  # no attack is negative
    self.assertAlmostEqual(significance.dcs(1.0, 0.9, 0.9), 0.585786, 6)
    self.assertEqual(
      significance.dcs(0.0, 0.8, 0.9), significance.dcs(0.0, 1.0, 0.9)
    )
    self.assertEqual(significance.dcs(1.0, 0.1, 0.9, beta=0.0), 0.5)
    self.assertEqual(significance.dcs(1.0, 0.0, 1.0, beta=1.0), 0.5)
    falling = significance.dcs(np.linspace(0, 1, 9), 0.8, 0.9)
    self.assertTrue((np.diff(falling) < 0).all())
    with self.assertRaisesRegex(InputError, 'beta=1.5'):
      significance.dcs(0.0, 1.0, 1.0, beta=1.5)

  def test_means_over_attacks(self):
    self.assertAlmostEqual(significance.t_dcs([0.5, 0.7]), 0.6)
    with self.assertRaises(InputError):
      significance.t_dcs([])


class LeakTest(parameterized.TestCase):
  @parameterized.parameters(2, 5, 10, 100)
  def test_guesses_are_seldom_called_leaks(self, num_classes):
    rng = np.random.default_rng(num_classes)
    trials, size = 10, 64
    flagged = []
    for _ in range(400):
      hits = rng.binomial(size, 1 / num_classes, trials) / size
      stderr = hits.std(ddof=1) / np.sqrt(trials)
      flagged.append(
        significance.below_chance(
          hits.mean(), stderr, num_classes, rows=trials * size
        )
      )
    self.assertLess(np.mean(flagged), 0.01)

  def test_avoiding_the_label_is_a_leak_and_the_rarest_class_is_none(self):
    leak = significance.below_chance
    self.assertTrue(leak(0.0, 0.0, 10, rows=1024))
    self.assertTrue(leak(0.05, 0.005, 10, rows=1024))
    self.assertTrue(leak(0.2, 0.01, 2, rows=128))
    self.assertFalse(leak(0.37, 0.0, 2, rows=10**6))  # of an uneven data set
    self.assertFalse(leak(0.0902, 0.0, 10, rows=10**6))
    self.assertFalse(leak(0.0, 0.0, 10, rows=62))  # too few to tell
    self.assertTrue(leak(0.0, 0.0, 10, rows=63))  # .9^63 = .00131
    self.assertFalse(leak(0.0, 0.04, 10, rows=1024))


class GainTest(parameterized.TestCase):
  @parameterized.parameters(0.8, 0.95)
  def test_the_interval_is_scipys(self, level):
    values = np.random.default_rng(0).normal(0.3, 1.0, size=9)
    found = significance.gain(values, level)
    exact = stats.ttest_1samp(values, 0).confidence_interval(level)
    ends = found['low'], found['high']
    np.testing.assert_allclose(ends, exact, atol=1e-4)
    np.testing.assert_allclose(found['mean'], values.mean(), atol=1e-4)
    self.assertEqual(found['seeds'], 9)

  def test_the_verdict_is_that_of_the_test_and_of_its_side(self):
    rng = np.random.default_rng(1)
    verdicts = set()
    for mean in np.linspace(-2, 2, 21):
      values = rng.normal(mean, 1.0, size=6)
      found = significance.gain(values)['verdict']
      told = stats.ttest_1samp(values, 0).pvalue < 0.05
      side = 'gain' if values.mean() > 0 else 'loss'
      self.assertEqual(found, side if told else 'not told from 0')
      verdicts.add(found)
    self.assertLen(verdicts, 3)

  def test_one_seed_tells_nothing(self):
    found = significance.gain([0.5])
    self.assertEqual(found['verdict'], 'not told from 0')
    self.assertEqual((found['low'], found['high']), (None, None))


if __name__ == '__main__':
  absltest.main()
