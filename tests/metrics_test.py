from absl.testing import absltest, parameterized
import chex
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from labelleak import metrics

ALL = (
  metrics.count_accuracy,
  metrics.presence_precision,
  metrics.presence_recall,
  metrics.count_error,
)


def _labels(draw, num_classes, size):
  labels = draw(
    st.lists(st.integers(0, num_classes - 1), min_size=size, max_size=size)
  )
  return np.bincount(np.array(labels, int), minlength=num_classes)


@st.composite
def two_counts(draw):
  num_classes = draw(st.integers(2, 12))
  size = draw(st.integers(1, 20))
  return (
    _labels(draw, num_classes, size),
    _labels(draw, num_classes, size),
  )


class MetricsTest(parameterized.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_hand_worked(self):
    counts = jnp.array([2, 1, 1, 0])
    truth = jnp.array([3, 0, 1, 0])
    values = [float(self.variant(f)(counts, truth)) for f in ALL]
    np.testing.assert_allclose(values, [3 / 4, 2 / 3, 1.0, 2 / 4], rtol=1e-6)

  @settings(max_examples=50, deadline=None)
  @given(two_counts())
  def test_count_accuracy_is_the_multiset_intersection(self, pair):
    counts, truth = pair
    got = metrics.count_accuracy(jnp.array(counts), jnp.array(truth))
    left, right = (list(np.repeat(np.arange(c.size), c)) for c in pair)
    hits = 0
    for label in left:  # cross out labels one by one
      if label in right:
        right.remove(label)
        hits += 1
    np.testing.assert_allclose(got, hits / len(left), rtol=1e-6)
    # The released code: 1 - half the L1 distance over B, equal at equal sums.
    other = 1 - 0.5 * np.abs(counts - truth).sum() / counts.sum()
    np.testing.assert_allclose(got, other, atol=1e-6)
    np.testing.assert_allclose(
      metrics.count_error(jnp.array(counts), jnp.array(truth)),
      2 * (1 - other) * counts.sum() / counts.size,
      atol=1e-5,
    )

  @settings(max_examples=30, deadline=None)
  @given(two_counts(), st.randoms())
  def test_classes_may_be_renamed(self, pair, random):
    order = list(range(pair[0].size))
    random.shuffle(order)
    for metric in ALL:
      np.testing.assert_allclose(
        metric(*(jnp.array(c) for c in pair)),
        metric(*(jnp.array(c[order]) for c in pair)),
        rtol=1e-6,
      )

  @settings(max_examples=20, deadline=None)
  @given(two_counts())
  def test_the_truth_is_perfect(self, pair):
    truth = jnp.array(pair[1])
    self.assertEqual([float(f(truth, truth)) for f in ALL], [1, 1, 1, 0])

  def test_empty_denominators_give_zero(self):
    nothing, some = jnp.zeros(3, int), jnp.array([1, 0, 2])
    self.assertEqual(float(metrics.count_accuracy(nothing, some)), 0.0)
    self.assertEqual(float(metrics.presence_precision(nothing, some)), 0.0)
    self.assertEqual(float(metrics.presence_recall(nothing, some)), 0.0)
    self.assertEqual(float(metrics.presence_recall(some, nothing)), 0.0)
    self.assertEqual(float(metrics.count_accuracy(some, nothing)), 0.0)
    self.assertEqual(float(metrics.chance_count_accuracy(nothing)), 0.0)

  def test_vmap_is_a_loop(self):
    draws = np.random.default_rng(0).multinomial(9, [0.2] * 5, (2, 7))
    counts, truth = jnp.array(draws)
    for metric in ALL:
      np.testing.assert_allclose(
        jax.vmap(metric)(counts, truth),
        [metric(c, t) for c, t in zip(counts, truth)],
        rtol=1e-6,
      )

  def test_a_stray_axis_fails(self):
    for metric in ALL:
      with self.assertRaises(AssertionError):
        metric(jnp.ones((2, 3), int), jnp.ones((2, 3), int))
      with self.assertRaises(AssertionError):
        metric(jnp.ones(3, int), jnp.ones(4, int))

  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(
    ((64, 32, 1, 0), (1, 1, 32, 66)),
    ((100, 312, 0), (2, 1, 97)),
    ((1, 0), (1, 2)),
    ((824, 0), (1, 1)),
    ((5,), (1,)),
    ((1,), (1000,)),
  )
  def test_chance_is_the_binomial_expectation(self, values, repeats):
    truth = np.repeat(values, repeats)
    total, num_classes = truth.sum(), truth.size
    x = np.arange(total + 1)
    pmf = stats.binom.pmf(x, total, 1 / num_classes)
    want = sum((np.minimum(x, t) * pmf).sum() for t in truth) / total
    got = self.variant(metrics.chance_count_accuracy)(jnp.array(truth))
    np.testing.assert_allclose(got, want, rtol=1e-3)

  def test_chance_is_what_uniform_guesses_score(self):
    rng = np.random.default_rng(1)
    truth = np.array([7, 4, 2, 1, 1, 0, 0, 0])
    guesses = rng.multinomial(15, [1 / 8] * 8, 4000)
    scores = jax.vmap(metrics.count_accuracy, (0, None))(
      jnp.array(guesses), jnp.array(truth)
    )
    error = np.std(scores) / np.sqrt(len(scores))
    chance = metrics.chance_count_accuracy(jnp.array(truth))
    self.assertLess(abs(np.mean(scores) - chance), 4 * error)


if __name__ == '__main__':
  absltest.main()
