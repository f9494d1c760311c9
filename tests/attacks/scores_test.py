"""White-box scorers on cut gradients, exact and made up."""

from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from sklearn import metrics as sklearn_metrics

from labelleak import attacks, metrics, vfl
from labelleak.attacks.scores import directions, readout
from labelleak.base import InputError, Labelled
from labelleak.vfl import Known

KEY = jax.random.key(0)


def _view(cut, x=None):
  cut = None if cut is None else jnp.array(cut)
  return vfl.View(x, cut, {}, KEY, {}, cut)


def _run(name, cut, num_classes, **hyper):
  rows = Labelled(jnp.zeros((1, 1)), jnp.ones((1, num_classes)))
  known = Known(num_classes=num_classes, batch_size=len(cut), labelled=rows)
  return jax.jit(attacks.load(name, **hyper).infer)(KEY, _view(cut), known)


def _cosine(cut, rows, labelled):
  known = Known(num_classes=2, batch_size=len(cut), labelled=labelled)
  infer = jax.jit(attacks.load('scores.cosine').infer)
  return infer(KEY, _view(cut, rows), known)


def _exact(rng, size, num_classes, spread=1.0):
  """(S - Y) / B, and Y."""
  softmax = jax.nn.softmax(spread * rng.normal(size=(size, num_classes)))
  y = np.eye(num_classes, dtype=np.float32)[
    rng.integers(num_classes, size=size)
  ]
  return (np.array(softmax) - y) / size, y


class DirectTest(parameterized.TestCase):
  @parameterized.product(
    rule=('argmin', 'first_negative', 'first_or_any'), num_classes=(2, 3, 10)
  )
  def test_exact_gradients_give_every_label(self, rule, num_classes):
    cut, y = _exact(np.random.default_rng(num_classes), 50, num_classes)
    scores = _run('scores.direct', cut, num_classes, rule=rule)
    self.assertEqual(metrics.label_accuracy(scores, y), 1.0)

  def test_the_complement_reads_labels_spread_over_the_others(self):
    rng = np.random.default_rng(0)
    cut, y = _exact(rng, 200, 5, spread=0.2)
    confused = (1 - y) / 4
    cut = cut + (y - confused) / len(y)
    accuracy = lambda rule: metrics.label_accuracy(
      _run('scores.direct', cut, 5, rule=rule), y
    )
    self.assertEqual(accuracy('argmin'), 0.0)
    self.assertGreater(accuracy('complement'), 0.99)

  def test_first_negative_is_the_first_and_none_is_a_miss(self):
    cut = jnp.array([[0.1, -0.1, -5.0], [0.0, 0.0, 0.0], [-1.0, -2.0, 3.0]])
    np.testing.assert_array_equal(
      readout.first_negative(cut),
      [[0, 1, 0], [np.nan] * 3, [1, 0, 0]],
    )
    y = jnp.eye(3)[jnp.array([1, 0, 0])]
    np.testing.assert_allclose(
      metrics.label_accuracy(readout.first_negative(cut), y), 2 / 3, rtol=1e-6
    )
    guessed = metrics.label_accuracy(readout.first_or_any(cut), y)
    np.testing.assert_allclose(guessed, (2 + 1 / 3) / 3, rtol=1e-6)

  def test_rows_of_zeros_are_worth_chance_whatever_the_label(self):
    for label in range(4):
      y = jnp.eye(4)[jnp.full(6, label)]
      scores = _run('scores.direct', np.zeros((6, 4)), 4)
      np.testing.assert_allclose(metrics.label_accuracy(scores, y), 1 / 4)

  def test_bad_input(self):
    with self.assertRaisesRegex(InputError, "rule='min'.*argmin"):
      attacks.load('scores.direct', rule='min')
    with self.assertRaisesRegex(InputError, 'width 7 for 3'):
      _run('scores.direct', np.zeros((4, 7)), 3)


class SealedTest(parameterized.TestCase):
  @parameterized.parameters('direct', 'norm', 'cosine')
  def test_a_sealed_view_is_an_error_at_trace_time(self, name):
    attack = attacks.load(f'scores.{name}')
    rows = Labelled(jnp.zeros((1, 1)), jnp.ones((1, 2)))
    known = Known(num_classes=2, batch_size=4, labelled=rows)
    says = f'scores.{name}.*sealed.*plaintext'
    with self.assertRaisesRegex(InputError, says):
      jax.eval_shape(attack.infer, KEY, _view(None), known)

  @parameterized.parameters('norm', 'cosine')
  def test_two_classes_only(self, name):
    with self.assertRaisesRegex(InputError, 'not 3'):
      _run(f'scores.{name}', np.zeros((4, 3)), 3)


class NormTest(parameterized.TestCase):
  def test_is_the_published_rule_and_its_auc(self):
    rng = np.random.default_rng(0)
    cut, y = _exact(rng, 64, 2)
    size = np.linalg.norm(cut, axis=1)
    scaled = (size - size.min() + 1e-16) / (size.max() - size.min() + 1e-16)
    truth = y.argmax(1)
    scores = _run('scores.norm', cut, 2)
    np.testing.assert_allclose(
      metrics.label_accuracy(scores, y), ((scaled > 0.5) == truth).mean()
    )
    np.testing.assert_allclose(
      metrics.auc(scores, y),
      sklearn_metrics.roc_auc_score(truth, scaled),
      rtol=1e-6,
    )

  def test_the_batch_spans_the_scale_from_its_least_norm(self):
    norms = np.array([[3.0], [5.0], [3.5], [4.5]])
    cut = np.float32(norms * [0.6, -0.8])
    scores = _run('scores.norm', cut, 2)
    np.testing.assert_allclose(
      scores[:, 1], [-0.5, 0.5, -0.25, 0.25], atol=1e-6
    )
    np.testing.assert_array_equal(scores[:, 0], -scores[:, 1])

  def test_across_reads_what_a_defense_put_where_no_gradient_is(self):
    """Chance on gradients and on noise along them; noise of one class shows."""
    rng = np.random.default_rng(3)
    cut, y = _exact(rng, 400, 2)
    along = rng.normal(size=(400, 1)) * [[1.0, -1.0]]
    free = 0.1 * y[:, 1:] * rng.normal(size=(400, 2))
    auc = lambda c: float(
      metrics.auc(_run('scores.norm', np.float32(c), 2, across=True), y)
    )
    self.assertBetween(auc(cut + along), 0.3, 0.7)  # rounding
    self.assertGreater(auc(cut + along + free), 0.9)

  def test_the_side_is_not_chosen_by_the_truth(self):
    cut, y = _exact(np.random.default_rng(1), 64, 2)
    large = np.where(y[:, 1:] > 0, 0.1, 10.0) * cut  # positives are small
    self.assertLess(metrics.auc(_run('scores.norm', large, 2), y), 0.05)
    large = np.where(y[:, 1:] > 0, 10.0, 0.1) * cut
    self.assertGreater(metrics.auc(_run('scores.norm', large, 2), y), 0.95)

  @settings(max_examples=20, deadline=None)
  @given(st.floats(1e-6, 1e6))
  def test_scale_does_not_matter(self, factor):
    cut, _ = _exact(np.random.default_rng(2), 16, 2)
    np.testing.assert_allclose(
      _run('scores.norm', np.float32(factor * cut), 2),
      _run('scores.norm', cut, 2),
      atol=1e-5,
    )


class CosineTest(parameterized.TestCase):
  def _embeddings(self, seed, width=8, size=100):
    """Cut gradients through a linear top: both classes on opposite rays."""
    rng = np.random.default_rng(seed)
    cut, y = _exact(rng, size, 2)
    x = rng.normal(size=(size, 3, 2)).astype(np.float32)
    return cut @ rng.normal(size=(2, width)), y, x

  @parameterized.parameters(0, 1, 2)
  def test_one_known_positive_gives_every_label(self, seed):
    cut, y, x = self._embeddings(seed)
    one = np.flatnonzero(y[:, 1])[:1]
    scores = _cosine(cut, x, Labelled(x[one], y[one]))
    self.assertEqual(metrics.label_accuracy(scores, y), 1.0)
    np.testing.assert_allclose(metrics.auc(scores, y), 1.0, rtol=1e-6)

  def test_only_positives_of_the_batch_count(self):
    cut, y, x = self._embeddings(3)
    negative = np.flatnonzero(y[:, 0])[:4]
    strange = x + 1.0  # rows of no batch
    for granted in (
      Labelled(x[negative], y[negative]),
      Labelled(strange, y),
    ):
      scores = _cosine(cut, x, granted)
      np.testing.assert_array_equal(scores, np.zeros((100, 2)))
      np.testing.assert_allclose(metrics.label_accuracy(scores, y), 0.5)
      np.testing.assert_allclose(metrics.auc(scores, y), 0.5)

  def test_a_flipped_label_flips_the_example_too(self):
    cut, y, x = self._embeddings(4)
    one = np.flatnonzero(y[:, 1])[:1]
    scores = _cosine(-cut, x, Labelled(x[one], y[one]))
    self.assertEqual(metrics.label_accuracy(scores, y), 1.0)

  def test_permuting_the_batch_permutes_the_scores(self):
    cut, y, x = self._embeddings(5)
    order = np.random.default_rng(0).permutation(len(y))
    granted = Labelled(x[:9], y[:9])
    straight = _cosine(cut, x, granted)
    shuffled = _cosine(cut[order], x[order], granted)
    np.testing.assert_allclose(shuffled, straight[order], atol=1e-6)

  def test_nothing_granted(self):
    cut, _, x = self._embeddings(6)
    with self.assertRaisesRegex(InputError, "needs 'labelled'"):
      _cosine(cut, x, None)


class DirectionsTest(parameterized.TestCase):
  """What D != K leaves: the cut of a top that has a Jacobian J [K, D]."""

  def _rotated(self, width, num_classes, size=120):
    rng = np.random.default_rng(width)
    cut, y = _exact(rng, size, num_classes, spread=0.3)
    return cut @ rng.normal(size=(num_classes, width)), y, rng

  @parameterized.product(width=(8, 32), num_classes=(2, 5))
  def test_one_labelled_row_a_class_names_the_others(self, width, num_classes):
    cut, y, rng = self._rotated(width, num_classes)
    x = rng.normal(size=(len(y), 3))
    first = y.argmax(0)
    known = Known(
      num_classes, len(y), labelled=Labelled(jnp.array(x[first]), y[first])
    )
    infer = jax.jit(attacks.load('scores.similarity').infer)
    scores = infer(KEY, _view(cut, jnp.array(x)), known)
    self.assertGreater(metrics.label_accuracy(scores, y), 0.95)
    # Scales say nothing, and a class without an example is named last.
    scale = rng.uniform(1, 9, size=(len(y), 1))
    scaled = infer(KEY, _view(scale * cut, jnp.array(x)), known)
    np.testing.assert_allclose(scaled, scores, atol=1e-5)
    fewer = Labelled(jnp.array(x[first[1:]]), y[first[1:]])
    scores = infer(KEY, _view(cut, jnp.array(x)), known.replace(labelled=fewer))
    np.testing.assert_array_equal(scores[:, 0], -1)

  @parameterized.product(width=(8, 32), num_classes=(2, 5))
  def test_clusters_are_classes_without_names(self, width, num_classes):
    cut, y, rng = self._rotated(width, num_classes)
    cluster = jax.jit(directions.cluster, static_argnums=2)
    groups = cluster(KEY, jnp.array(cut), num_classes)
    scores = jax.nn.one_hot(groups, num_classes)
    self.assertGreater(metrics.permuted_label_accuracy(scores, y), 0.95)
    scale = rng.uniform(1, 9, size=(len(y), 1))
    again = cluster(KEY, jnp.array(scale * cut), num_classes)
    again = jax.nn.one_hot(again, num_classes)
    self.assertEqual(metrics.permuted_label_accuracy(again, scores), 1.0)

  def test_clusters_of_noise_are_no_classes(self):
    rng = np.random.default_rng(0)
    y = np.eye(4)[rng.integers(4, size=400)]
    groups = directions.cluster(KEY, jnp.array(rng.normal(size=(400, 8))), 4)
    scores = jax.nn.one_hot(groups, 4)
    self.assertLess(metrics.permuted_label_accuracy(scores, y), 0.4)


if __name__ == '__main__':
  absltest.main()
