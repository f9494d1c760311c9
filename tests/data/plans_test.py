"""Batch plans against their published definition."""

from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from scipy import stats

from labelleak import base
from labelleak.data import plans


def labels(num_classes, per_class):
  return np.repeat(np.arange(num_classes), per_class)


def counts(y, num_classes, trials=range(2000), **plan):
  """[T, K] label counts of many batches."""
  return np.stack(
    [
      np.bincount(
        y[plans.draw(7, t, y, num_classes, **plan)], minlength=num_classes
      )
      for t in trials
    ]
  )


class UnbalancedTest(parameterized.TestCase):
  @parameterized.parameters(
    (100, 100, 128, 64, 32),  # LLBG Table 1
    (100, 100, 256, 100, 64),
    (100, 100, 512, 100, 100),  # Table 3: 100 / 100 / 312
    (100, 100, 1024, 100, 100),
    (1000, 50, 128, 50, 32),  # Table 2: 50 / 32 / 46
    (100, None, 512, 256, 128),
  )
  def test_parts_are_capped(self, num_classes, cap, batch_size, a, b):
    per_class = 100 if num_classes == 100 else 50
    y = labels(num_classes, per_class)
    drawn = counts(
      y,
      num_classes,
      range(500),
      partition='unbalanced',
      batch_size=batch_size,
      per_class_cap=cap,
    )
    self.assertTrue((drawn.sum(1) == batch_size).all())
    top = np.sort(drawn, 1)
    rest = batch_size - a - b
    # A class gains rest / K on average from the rows drawn by index.
    spare = rest / num_classes + 6 * np.sqrt(rest / num_classes) + 4
    self.assertTrue((top[:, -1] >= max(a, b)).all())
    self.assertLessEqual(top[:, -1].max(), a + b + spare)
    # The two heaviest classes hold a + b, but where a and b coincide.
    pair = top[:, -2:].sum(1)
    self.assertTrue((pair >= a + b).all())
    # The third one holds none of them.
    self.assertLessEqual(top[:, -3].max(), spare)

  def test_mean_count_of_any_class(self):
    num_classes, batch_size, trials = 10, 40, 4000
    drawn = counts(
      labels(num_classes, 50),
      num_classes,
      range(trials),
      partition='unbalanced',
      batch_size=batch_size,
    )
    error = drawn.std(0) / np.sqrt(trials)
    self.assertLess(
      np.abs((drawn.mean(0) - batch_size / num_classes) / error).max(), 4.5
    )

  def test_a_may_equal_b(self):
    num_classes, trials = 10, 4000
    drawn = counts(
      labels(num_classes, 100),
      num_classes,
      range(trials),
      partition='unbalanced',
      batch_size=80,
    )
    # 40 + 20 of one class, against 40 + at most about 10 of the rest.
    same = (drawn.max(1) >= 60).mean()
    p = 1 / num_classes
    self.assertLess(abs(same - p), 4.5 * np.sqrt(p * (1 - p) / trials))

  def test_the_rest_is_drawn_from_all_rows_with_replacement(self):
    # 10 of 40 rows come by index, so that classes other than a and b now and
    # then repeat a row; no row of a class is preferred to another.
    y = labels(4, 25)
    trials, batch_size = 4000, 40
    seen, repeated = np.zeros(len(y)), 0
    for t in range(trials):
      index = plans.draw(
        0, t, y, 4, partition='unbalanced', batch_size=batch_size
      )
      tally = np.bincount(index, minlength=len(y))
      seen += tally
      light = np.bincount(y[index], minlength=4) < 10
      repeated += (tally[light[y]] > 1).any()
    expected = trials * batch_size / len(y)
    within = seen - seen.reshape(4, 25).mean(1)[y]
    self.assertLess(np.abs(within).max(), 4.5 * np.sqrt(expected))
    self.assertGreater(repeated, 0)

  def test_rows_of_a_class_repeat_only_where_it_holds_too_few(self):
    scarce, plenty = labels(5, 8), labels(5, 100)
    repeats = lambda y, b, t: np.bincount(
      plans.draw(1, t, y, 5, partition='balanced', batch_size=b)
    ).max()
    for t in range(50):
      self.assertEqual(repeats(plenty, 100, t), 1)
      self.assertEqual(repeats(scarce, 40, t), 1)
    y = np.array([0] * 90 + [1] * 5 + [2] * 5)
    drawn = plans.draw(1, 0, y, 3, partition='balanced', batch_size=60)
    np.testing.assert_array_equal(np.bincount(y[drawn]), [20, 20, 20])
    self.assertLen(set(drawn[y[drawn] == 0]), 20)

  def test_an_empty_class_contributes_none(self):
    y = np.zeros(64, int)  # classes 1..99 have no rows
    index = plans.draw(0, 3, y, 100, partition='unbalanced', batch_size=64)
    self.assertLen(index, 64)

  @parameterized.parameters(
    # K, rows a class, B, cap, the reference's own simulation in percent
    (100, 100, 128, 100, 18.25),
    (100, 100, 512, 100, 54.67),
    (100, 100, 1024, 100, 72.13),
    (1000, 50, 128, 50, 4.36),
  )
  def test_score_of_random_guesses(self, k, per_class, b, cap, published):
    # Mean of sum_i min(count_i, guess_i) / B, where guesses are Bin(B, 1/K) a
    # class, and counts the planted rows plus Bin(rest, 1/K).
    heavy, light = min(b // 2, cap), min(b // 4, cap)
    rest = b - heavy - light
    tail = lambda n: stats.binom.sf(np.arange(b) - 0.5, n, 1 / k)[1:]
    guess = tail(b)

    def overlap(planted):  # E min(X, Y) = sum over m >= 1 of P(X>=m) P(Y>=m)
      count = np.concatenate([np.ones(planted), tail(rest)])[: b - 1]
      return (count * guess[: len(count)]).sum()

    apart = overlap(heavy) + overlap(light) + (k - 2) * overlap(0)
    alike = overlap(heavy + light) + (k - 1) * overlap(0)
    expected = ((1 - 1 / k) * apart + alike / k) / b
    trials = 1000
    true = counts(
      labels(k, per_class),
      k,
      range(trials),
      partition='unbalanced',
      batch_size=b,
      per_class_cap=cap,
    )
    guesses = np.random.default_rng(0).multinomial(b, [1 / k] * k, trials)
    score = np.minimum(true, guesses).sum(1) / b
    error = score.std() / np.sqrt(trials)
    self.assertLess(abs(score.mean() - expected), 4 * error)
    self.assertLess(abs(100 * expected - published), 0.5)


class OtherPartitionsTest(parameterized.TestCase):
  def test_iid_counts_are_multinomial(self):
    num_classes, batch_size, trials = 8, 32, 3000
    drawn = counts(
      labels(num_classes, 50),
      num_classes,
      range(trials),
      partition='iid',
      batch_size=batch_size,
    )
    # Pearson's statistic of each batch has mean K - 1 when labels are i.i.d.
    # uniform, and variance 2 (K - 1)(1 - 1 / B).
    expected = batch_size / num_classes
    pearson = ((drawn - expected) ** 2 / expected).sum(1)
    df = num_classes - 1
    error = np.sqrt(2 * df * (1 - 1 / batch_size) / trials)
    self.assertLess(abs(pearson.mean() - df), 4 * error)

  def test_balanced_and_unique(self):
    y = labels(20, 7)
    balanced = counts(y, 20, range(20), partition='balanced', batch_size=60)
    self.assertTrue((balanced == 3).all())
    unique = counts(y, 20, range(2000), partition='unique', batch_size=15)
    self.assertEqual(unique.max(), 1)
    rate = unique.mean(0)
    error = np.sqrt(0.75 * 0.25 / len(unique))
    self.assertLess(np.abs(rate - 0.75).max(), 4.5 * error)

  @parameterized.parameters('unbalanced', 'iid', 'balanced', 'unique')
  def test_order_is_random_and_draws_are_reproducible(self, partition):
    y = labels(10, 10)
    draw = lambda seed, t: plans.draw(
      seed, t, y, 10, partition=partition, batch_size=10
    )
    np.testing.assert_array_equal(draw(0, 5), draw(0, 5))
    self.assertFalse(np.array_equal(draw(0, 5), draw(0, 6)))
    self.assertFalse(np.array_equal(draw(0, 5), draw(1, 5)))
    # No position prefers a class: first labels average over the classes.
    first = np.array([y[draw(2, t)[0]] for t in range(2000)])
    error = np.sqrt((100 - 1) / 12 / len(first))
    self.assertLess(abs(first.mean() - 4.5), 4.5 * error)


class EpochsTest(absltest.TestCase):
  @settings(max_examples=50, deadline=None)
  @given(st.integers(1, 60), st.integers(1, 25), st.integers(0, 5))
  def test_an_epoch_holds_every_row_once(self, size, batch_size, epoch):
    steps = -(-size // batch_size)
    numbers = epoch * steps + np.arange(steps) + 1
    index, mask = plans.epochs(size, batch_size, numbers, seed=3)
    np.testing.assert_array_equal(np.sort(index[mask > 0]), np.arange(size))
    again, _ = plans.epochs(size, batch_size, numbers[-1:], seed=3)
    np.testing.assert_array_equal(again[0], index[-1])  # one step alone
    # Padding is made of real rows, as different as the epoch has them.
    self.assertGreaterEqual(len(set(index[-1].tolist())), min(batch_size, size))

  def test_order(self):
    index, _ = plans.epochs(10, 5, np.arange(1, 5), seed=None)
    np.testing.assert_array_equal(index.reshape(-1), [*range(10)] * 2)
    index, _ = plans.epochs(10, 5, np.arange(1, 5), seed=0)
    self.assertFalse((index[:2] == index[2:]).all())  # drawn anew


class RefusalTest(parameterized.TestCase):
  @parameterized.parameters(
    (
      dict(partition='unbalnced'),
      "'unbalnced' is unknown; use one of: 'unbalanced'",
    ),
    (dict(batch_size=0), 'batch_size=0'),
    (dict(batch_size=101), 'in 1..100; the rows of the data'),
    (dict(batch_size=101, partition='unbalanced'), 'in 1..100'),
    (dict(per_class_cap=0), 'per_class_cap=0'),
    (dict(num_classes=1), 'num_classes=1'),
    (dict(seed=-1), 'seed=-1'),
    (dict(partition='balanced', batch_size=25), 'use 20'),
    (dict(partition='balanced', batch_size=5), 'use 10'),
    (dict(partition='unique', batch_size=11), 'use at most 10'),
    (dict(partition='unique', num_classes=12), '2 of 12'),
  )
  def test_one_line_naming_value_rule_and_remedy(self, change, expected):
    plan = dict(
      seed=0,
      trial=0,
      y=labels(10, 10),
      num_classes=10,
      partition='iid',
      batch_size=10,
    )
    with self.assertRaises(base.InputError) as caught:
      plans.draw(**{**plan, **change})
    self.assertIn(expected, str(caught.exception))
    self.assertNotIn('\n', str(caught.exception))


if __name__ == '__main__':
  absltest.main()
