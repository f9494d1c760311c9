"""The process of sealed steps against dense algebra, limits, invariances."""

from unittest import mock

from absl.testing import absltest, parameterized
import jax
import numpy as np
from scipy import special

from labelleak import vfl
from labelleak.attacks.history import diffusion, sealed, smoothing, trace
from labelleak.base import Pool

KEY = jax.random.key(0)
N, K, B = 90, 3, 18


def _world(seed=0):
  rng = np.random.default_rng(seed)
  y = rng.integers(0, K, N)
  x = 4 * np.eye(K)[y][:, :2] + rng.normal(size=(N, 2)) * 0.7
  kernel = diffusion.spectrum(KEY, np.float32(x), anchors=N, neighbours=8)
  return kernel, y


def _steps(
  y, noise, *, rank=30, epochs=1, seed=1, rows=N, gain=1.0, uneven=False
):
  """Returns steps that see `rank` directions of gain (Y - 1 / K) and noise."""
  rng = np.random.default_rng(seed)
  steps = []
  for index in list(np.arange(rows).reshape(-1, B)) * epochs:
    square = rng.normal(size=(B * K, B * K))
    vectors = np.linalg.qr(square)[0][:, :rank].reshape(B, K, rank)
    gains = gain * rng.uniform(0.5, 1.5, B) if uneven else np.full(B, gain)
    sent = gains[:, None] * (np.eye(K)[y[index]] - 1 / K)
    sent = sent + noise * rng.normal(size=(B, K))
    observed = np.einsum('nkr,nk->r', vectors, sent)
    variance = np.square(observed).mean()
    steps.append(
      sealed.Step(index, vectors, observed, variance, np.full(B, gain))
    )
  return tuple(steps)


def _explain(kernel, steps, classes):
  process = sealed.fit(kernel, steps, classes)
  return process.mean + sealed.explain_rows(process, steps)


def _name(steps, kernel):
  """Returns what the attack makes of steps, Y - 1 / K [N, K]."""
  pool = Pool(lambda index: np.zeros((len(index), 2)), N)
  known = vfl.Known(num_classes=K, batch_size=B, num_rows=N, pool=pool)
  memory = trace.Trace(known, steps, None, True)
  return smoothing._explain_sealed(kernel, memory)


def _accuracy(mean, y):
  return (mean.argmax(1) == y).mean()


def _dense(kernel, steps, reach, ratio):
  """Returns log evidence, scale and mean of f [N, K] by dense algebra."""
  values = diffusion.matern(kernel.values, reach)
  vectors = np.asarray(kernel.vectors, float)
  k = vectors * (values * N / values.sum()) @ vectors.T
  center = np.eye(K) - 1 / K
  seen, observed = [], []
  for step in steps:
    spread = np.zeros((N, K, len(step.observed)))
    spread[step.index] = step.gain[:, None, None] * step.vectors
    seen.append(spread.reshape(N * K, -1) / step.variance**0.5)
    observed.append(step.observed / step.variance**0.5)
  seen, observed = np.concatenate(seen, 1), np.concatenate(observed)
  prior = ratio * np.kron(k, center)
  gram = seen.T @ prior @ seen + np.eye(len(observed))
  fit = np.linalg.solve(gram, observed)
  scale = observed @ fit / len(observed)
  logs = np.linalg.slogdet(gram)[1]
  evidence = -0.5 * (len(observed) * np.log(scale) + logs)
  return evidence, scale, (prior @ seen @ fit).reshape(N, K)


class ProcessTest(parameterized.TestCase):
  @parameterized.parameters(1.0, 0.5)
  def test_it_is_that_of_dense_algebra_at_the_largest_evidence(self, gain):
    kernel, y = _world()
    steps = _steps(y, 0.7, gain=gain, uneven=True)
    process = sealed.fit(kernel, steps, K)
    dense = [
      (*_dense(kernel, steps, reach, ratio), reach)
      for reach in sealed._REACHES
      for ratio in sealed._RATIOS[30:60:2]
    ]
    evidence, _, _, reach = max(dense, key=lambda d: d[0])
    self.assertGreater(process.evidence, evidence - 1e-3)
    self.assertAlmostEqual(process.evidence, evidence, delta=0.1)
    self.assertEqual(process.reach, reach)
    near = min(
      (_dense(kernel, steps, reach, ratio) for ratio in sealed._RATIOS),
      key=lambda d: abs(d[0] - process.evidence),
    )
    np.testing.assert_allclose(process.scale, near[1], rtol=1e-4)
    np.testing.assert_allclose(process.mean, near[2], atol=1e-3)

  def test_what_a_process_leaves_of_rows_is_theirs(self):
    _, y = _world()
    other = np.random.default_rng(5).normal(size=(N, 2)).astype(np.float32)
    kernel = diffusion.spectrum(KEY, other, anchors=N, neighbours=8)
    mean = _explain(kernel, _steps(y, 0.0, rank=B * K), K)
    self.assertEqual(_accuracy(mean, y), 1.0)

  def test_rows_are_explained_as_in_closed_form(self):
    _, y = _world()
    one, two = _steps(y, 1.0, rank=B * K, rows=2 * B, uneven=True)
    # A row is in both steps, and twice in one.
    two = two._replace(index=np.r_[two.index[:-2], 0, two.index[0]])
    rng = np.random.default_rng(3)
    mean = 0.1 * rng.normal(size=(N, K))
    mean -= mean.mean(1, keepdims=True)
    process = sealed.Process(mean, 1.3, 0.0, 4)
    left = 1 / K - np.square(mean).sum() / N / (K - 1)
    total, precision = np.zeros((N, K)), np.zeros(N)
    for step in (one, two):
      sent = np.einsum('nkr,r->nk', step.vectors, step.observed)
      for row, u, gain in zip(step.index, sent, step.gain):
        u = u - gain * mean[row]
        noise = max(1.3 * step.variance - gain**2 * left, 0)
        noise = max(noise, sealed._LEAST * 1.3 * step.variance)
        total[row] += gain / noise * (u - u.mean())
        precision[row] += gain**2 / noise
    expected = left * total / (1 + left * precision)[:, None]
    found = sealed.explain_rows(process, (one, two))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[2 * B :], 0.0)

  def test_scores_are_the_posterior_of_labels_seen_through_noise(self):
    rng = np.random.default_rng(8)
    y = rng.integers(0, K, 20_000)
    seen = rng.random(len(y)) < 0.7
    power = np.where(seen, 0.2, 0.8)[:, None]  # of the noise
    u = np.eye(K)[y] - 1 / K + np.sqrt(power) * rng.normal(size=(len(y), K))
    u -= u.mean(1, keepdims=True)
    mean = u / (1 + K * power)  # of a Gaussian prior of variance 1 / K
    scores = smoothing._score(mean, seen)
    expected = special.log_softmax(u / power, axis=1)
    np.testing.assert_allclose(np.exp(scores), np.exp(expected), atol=0.02)

  def test_rows_that_are_named_for_sure_stay_finite(self):
    mean = np.eye(K) - 1 / K
    scores = smoothing._score(mean, np.array([True, True, False]))
    self.assertTrue(np.isfinite(scores).all())
    np.testing.assert_array_equal(scores.argmax(1), np.arange(K))

  def test_of_many_eigenvectors_the_largest_are_sought(self):
    kernel, y = _world()
    steps = _steps(y, 0.7)
    order = np.argsort(-kernel.values)[:20]
    few = diffusion.Spectrum(kernel.vectors[:, order], kernel.values[order])
    expected = sealed.fit(few, steps, K)
    turned = diffusion.Spectrum(kernel.vectors[:, ::-1], kernel.values[::-1])
    with mock.patch.object(sealed, '_SOUGHT', 20 * (K - 1)):
      found = sealed.fit(turned, steps, K)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-4)

  def test_noise_drowns_a_row_and_not_its_neighbourhood(self):
    kernel, y = _world()
    mean = _explain(kernel, _steps(y, 1.0, epochs=2), K)
    self.assertGreater(_accuracy(mean, y), 0.9)

  def test_rows_that_no_step_held_are_named_by_the_others(self):
    kernel, y = _world()
    mean = _explain(kernel, _steps(y, 0.5, rows=4 * B, epochs=2), K)
    self.assertGreater(_accuracy(mean[4 * B :], y[4 * B :]), 0.8)

  def test_steps_that_show_little_count_for_little(self):
    kernel, y = _world()
    good = _steps(y, 0.7)
    # They show the wrong labels, and are known to show a hundredth of any.
    bad = tuple(
      s._replace(gain=0.01 * s.gain) for s in _steps((y + 1) % K, 0.7, seed=2)
    )
    mean = _explain(kernel, good + bad, K)
    self.assertGreater(_accuracy(mean, y), 0.85)

  def test_a_process_foretells_how_much_a_step_shows(self):
    kernel, y = _world()
    process = sealed.fit(kernel, _steps(y, 0.3), K)
    for gain in (1.0, 0.5, 0.0):
      looks = [
        sealed.foretell(process, step._replace(gain=np.ones(B)))
        for step in _steps(y, 0.3, seed=2, gain=gain)
      ]
      shown, power, _ = np.sum(looks, 0)
      self.assertAlmostEqual(shown / power, gain, delta=0.15)

  def test_a_process_leaves_noise_and_what_it_cannot_tell(self):
    _, y = _world()
    (step,) = _steps(y, 0.5, rows=B, rank=B * K, gain=0.5)
    truth = sealed.Process(np.eye(K)[y] - 1 / K, 1.0, 0.0, 4)
    left = sealed.restate_variance(truth, step)
    self.assertBetween(left.variance, 0.18, 0.32)
    nothing = truth._replace(mean=0 * truth.mean)
    left = sealed.restate_variance(nothing, step)
    np.testing.assert_allclose(left.variance, step.variance)

  def test_classes_and_rows_have_no_order(self):
    kernel, y = _world()
    steps = _steps(y, 0.7)
    mean = _explain(kernel, steps, K)
    swap = np.array([2, 0, 1])
    renamed = tuple(s._replace(vectors=s.vectors[:, swap]) for s in steps)
    np.testing.assert_allclose(
      _explain(kernel, renamed, K), mean[:, swap], atol=2e-3
    )
    turned = tuple(
      s._replace(index=s.index[::-1], vectors=s.vectors[::-1]) for s in steps
    )
    np.testing.assert_allclose(
      _explain(kernel, turned[::-1], K), mean, atol=2e-3
    )

  def test_of_noise_alone_it_guesses(self):
    kernel, y = _world()
    rates = [
      _accuracy(_explain(kernel, _steps(y, 1e4, seed=s), K), y)
      for s in range(8)
    ]
    self.assertBetween(np.mean(rates), 0.1, 0.6)


class LateStepsTest(parameterized.TestCase):
  """Steps of rows that earlier ones have seen."""

  def _rates(self, noise, later, epochs=5, seeds=range(6)):
    """Returns mean accuracies after one epoch, and after all."""
    rates = []
    for seed in seeds:
      kernel, y = _world(seed)
      early = _steps(y, noise, seed=seed)
      late = _steps(y, noise, seed=seed + 99, gain=later, epochs=epochs - 1)
      late = tuple(s._replace(gain=np.ones(B)) for s in late)
      rates.append(
        [_accuracy(_name(steps, kernel), y) for steps in (early, early + late)]
      )
    return np.mean(rates, 0)

  def test_those_that_show_as_much_help(self):
    one, all_of_them = self._rates(2.0, 1.0)
    self.assertGreater(all_of_them, one + 0.05)

  @parameterized.parameters(1.0, 2.0)
  def test_those_that_show_nothing_do_no_harm(self, noise):
    one, all_of_them = self._rates(noise, 0.0)
    self.assertGreater(all_of_them, one - 0.05)

  def test_those_that_show_a_third_do_no_harm(self):
    one, all_of_them = self._rates(1.0, 0.3, seeds=range(12, 20))
    self.assertGreater(all_of_them, one - 0.01)

  def test_exact_steps_stay_exact_whatever_the_features(self):
    other = np.random.default_rng(5).normal(size=(N, 2)).astype(np.float32)
    kernel = diffusion.spectrum(KEY, other, anchors=N, neighbours=8)
    _, y = _world()
    steps = _steps(y, 0.0, rank=B * K)
    late = _steps(y, 0.0, rank=20, gain=0.2, epochs=4, seed=3, uneven=True)
    late = tuple(s._replace(gain=np.ones(B)) for s in late)
    self.assertGreater(_accuracy(_name(steps + late, kernel), y), 0.98)

  @parameterized.parameters(2, 5, 10)
  def test_few_exact_directions_are_explained_and_finite(self, rank):
    kernel, y = _world()
    mean = _name(_steps(y, 0.0, rank=rank, epochs=4), kernel)
    self.assertTrue(np.isfinite(mean).all())
    self.assertGreater(_accuracy(mean, y), 0.6)


if __name__ == '__main__':
  absltest.main()
