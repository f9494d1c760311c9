import itertools

from absl.testing import absltest, parameterized
import chex
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from sklearn import metrics as sklearn_metrics

from labelleak import base, metrics

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

  @parameterized.parameters(lambda p: p, np.log)
  def test_calibration_error_is_that_of_bins_in_numpy(self, form):
    rng = np.random.default_rng(4)
    p = rng.dirichlet(np.full(5, 0.4), 500).astype(np.float32)
    labels = rng.integers(0, 5, 500)
    confidence, right = p.max(1), p.argmax(1) == labels
    place = np.minimum(np.floor(15 * confidence), 14)
    want = sum(
      (place == i).mean()
      * abs(confidence[place == i].mean() - right[place == i].mean())
      for i in set(place)
    )
    got = jax.jit(metrics.calibration_error)(form(p), _one_hot(labels, 5))
    np.testing.assert_allclose(got, want, rtol=1e-4)

  def test_labels_that_confidence_draws_are_calibrated(self):
    rng = np.random.default_rng(5)
    p = rng.dirichlet(np.full(4, 0.5), 100_000).astype(np.float32)
    labels = (p.cumsum(1) < rng.random((len(p), 1))).sum(1).clip(max=3)
    error = metrics.calibration_error(p, _one_hot(labels, 4))
    self.assertLess(error, 0.01)
    sure = metrics.calibration_error(
      _one_hot(p.argmax(1), 4), jnp.eye(4)[labels]
    )
    wrong = (p.argmax(1) != labels).mean()
    np.testing.assert_allclose(sure, wrong, rtol=1e-3)

  def test_tied_probabilities_are_right_by_their_share(self):
    even = jnp.full((6, 3), 1 / 3)
    error = metrics.calibration_error(even, _one_hot([0, 1, 2, 0, 0, 0], 3))
    np.testing.assert_allclose(error, 0.0, atol=1e-6)

  @parameterized.parameters(-1.0, 0.5, 2.0)
  def test_scores_that_are_no_probabilities_have_no_calibration(self, scale):
    p = scale * jnp.eye(4)
    self.assertTrue(np.isnan(metrics.calibration_error(p, jnp.eye(4))))

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
      with self.assertRaisesRegex(base.InputError, 'both must be'):
        metric(jnp.ones((2, 3), int), jnp.ones((2, 3), int))
      with self.assertRaisesRegex(base.InputError, 'both must be'):
        metric(jnp.ones(3, int), jnp.ones(4, int))


def _one_hot(labels, num_classes):
  return jnp.eye(num_classes)[jnp.array(labels)]


@st.composite
def tied_scores(draw, num_classes=4):
  """Scores from a coarse grid, so that ties abound, and one-hot labels."""
  size = 9  # one shape, compiled once
  row = st.lists(
    st.sampled_from([-np.inf, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0]),
    min_size=num_classes,
    max_size=num_classes,
  )
  scores = draw(st.lists(row, min_size=size, max_size=size))
  labels = st.integers(0, num_classes - 1)
  labels = draw(st.lists(labels, min_size=size, max_size=size))
  return jnp.array(scores), _one_hot(labels, num_classes)


def _broken_ties(scores, y, k):
  """Accuracy of the first k under all orders of the classes, averaged."""
  num_classes = y.shape[1]
  hits = []
  for order in itertools.permutations(range(num_classes)):
    order = np.array(order)
    first = np.argsort(-np.array(scores)[:, order], axis=1, kind='stable')
    named = order[first[:, :k]]
    hits.append((named == np.argmax(y, 1)[:, None]).any(1).mean())
  return np.mean(hits)


class ScoresTest(parameterized.TestCase):
  @settings(max_examples=30, deadline=None)
  @given(tied_scores(), st.integers(1, 5))
  def test_ties_are_broken_at_random(self, pair, k):
    got = jax.jit(metrics.top_k_accuracy)(*pair, k)
    np.testing.assert_allclose(got, _broken_ties(*pair, k), atol=1e-6)

  def test_accuracy_is_top_1_and_top_5_is_5(self):
    rng = np.random.default_rng(0)
    scores = jnp.array(rng.normal(size=(200, 7)))
    y = _one_hot(rng.integers(0, 7, 200), 7)
    named = np.argsort(-scores, axis=1)
    hit = named == np.argmax(y, 1)[:, None]
    np.testing.assert_allclose(
      metrics.label_accuracy(scores, y), hit[:, 0].mean(), rtol=1e-6
    )
    np.testing.assert_allclose(
      metrics.top5_accuracy(scores, y), hit[:, :5].any(1).mean(), rtol=1e-6
    )

  @chex.variants(with_jit=True, without_jit=True)
  def test_a_row_with_nan_is_a_miss(self):
    y = jnp.eye(3)
    for row in ([jnp.nan] * 3, [jnp.nan, 1.0, 0.0], [5.0, jnp.nan, 0.0]):
      scores = y.at[0].set(jnp.array(row))
      for metric in (
        metrics.label_accuracy,
        metrics.top5_accuracy,
        metrics.permuted_label_accuracy,
      ):
        got = self.variant(metric)(scores, y)
        np.testing.assert_allclose(got, 2 / 3, rtol=1e-6)
    matrix = self.variant(metrics.label_matrix)(scores, y)
    np.testing.assert_array_equal(matrix, jnp.diag(jnp.array([0.0, 1, 1])))

  @settings(max_examples=40, deadline=None)
  @given(tied_scores(num_classes=2))
  def test_auc_is_that_of_scikit_learn(self, pair):
    scores, y = pair
    scores = jnp.maximum(scores, -2.0)  # scikit-learn refuses infinities
    labels = np.array(y).argmax(1)
    got = jax.jit(metrics.auc)(scores, y)
    if len(set(labels)) == 1:
      self.assertEqual(got, 0.5)
      return
    want = sklearn_metrics.roc_auc_score(labels, scores[:, 1] - scores[:, 0])
    np.testing.assert_allclose(got, want, atol=1e-6)

  def test_auc_of_many_rows_keeps_its_digits(self):
    rng = np.random.default_rng(1)
    labels = rng.random(60_000) < 0.02
    margin = (rng.normal(size=labels.size) + labels).astype(np.float32)
    scores = jnp.stack([jnp.zeros(labels.size), jnp.array(margin)], 1)
    want = sklearn_metrics.roc_auc_score(labels, margin)
    got = metrics.auc(scores, _one_hot(labels.astype(int), 2))
    np.testing.assert_allclose(got, want, atol=2e-6)

  def test_auc_counts_nan_as_wrong_and_needs_two_classes(self):
    y = _one_hot([0, 1, 0, 1], 2)
    scores = y.at[1].set(jnp.nan)
    np.testing.assert_allclose(metrics.auc(scores, y), 0.5)
    scores = y.at[0].set(jnp.nan)
    np.testing.assert_allclose(metrics.auc(scores, y), 0.5)
    with self.assertRaisesRegex(base.InputError, '3 classes'):
      metrics.auc(jnp.eye(3), jnp.eye(3))

  @settings(max_examples=30, deadline=None)
  @given(tied_scores())
  def test_rows_of_the_label_matrix_are_distributions(self, pair):
    scores, y = pair
    matrix = np.array(jax.jit(metrics.label_matrix)(scores, y))
    present = np.array(y).any(0)
    np.testing.assert_allclose(matrix.sum(1), present, atol=1e-6)
    share = np.array(y).mean(0)
    np.testing.assert_allclose(
      jax.jit(metrics.label_accuracy)(scores, y),
      share @ np.diag(matrix),
      atol=1e-6,
    )

  def test_label_matrix_is_the_confusion_matrix(self):
    rng = np.random.default_rng(2)
    labels, named = rng.integers(0, 5, (2, 300))
    want = sklearn_metrics.confusion_matrix(labels, named, normalize='true')
    got = metrics.label_matrix(_one_hot(named, 5), _one_hot(labels, 5))
    np.testing.assert_allclose(got, want, rtol=1e-6)

  @settings(max_examples=15, deadline=None)
  @given(tied_scores())
  def test_permuted_accuracy_is_the_best_of_all_renamings(self, pair):
    scores, y = pair
    accuracy = jax.jit(metrics.label_accuracy)
    want = max(
      float(accuracy(np.array(scores)[:, list(order)], y))
      for order in itertools.permutations(range(y.shape[1]))
    )
    got = jax.jit(metrics.permuted_label_accuracy)(scores, y)
    np.testing.assert_allclose(got, want, atol=1e-6)

  @settings(max_examples=15, deadline=None)
  @given(tied_scores(num_classes=2))
  def test_of_two_classes_it_is_the_better_side(self, pair):
    """What VFLAIR's records of the norm score fold their accuracies to."""
    accuracy = jax.jit(metrics.label_accuracy)(*pair)
    got = jax.jit(metrics.permuted_label_accuracy)(*pair)
    np.testing.assert_allclose(got, max(accuracy, 1 - accuracy), atol=1e-6)

  def test_vmap_is_a_loop(self):
    rng = np.random.default_rng(3)
    scores = jnp.array(rng.normal(size=(4, 30, 2)))
    y = _one_hot(rng.integers(0, 2, (4, 30)), 2)
    for metric in (
      metrics.label_accuracy,
      metrics.auc,
      metrics.label_matrix,
      metrics.permuted_label_accuracy,
    ):
      np.testing.assert_allclose(
        jax.jit(jax.vmap(metric))(scores, y),
        [metric(a, b) for a, b in zip(scores, y)],
        rtol=1e-6,
      )

  def test_a_stray_axis_fails(self):
    for metric in (metrics.label_accuracy, metrics.auc, metrics.label_matrix):
      with self.assertRaisesRegex(base.InputError, 'both must be'):
        metric(jnp.ones((2, 3, 2)), jnp.ones((2, 3, 2)))
      with self.assertRaisesRegex(base.InputError, 'both must be'):
        metric(jnp.ones((3, 2)), jnp.ones((4, 2)))


if __name__ == '__main__':
  absltest.main()
