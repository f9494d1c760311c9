"""The process of sealed steps against dense algebra, limits, invariances."""

from absl.testing import absltest, parameterized
import jax
import numpy as np

from labelleak.attacks.history import diffusion, sealed

KEY = jax.random.key(0)
N, K, B = 90, 3, 18


def _world(seed=0):
  rng = np.random.default_rng(seed)
  y = rng.integers(0, K, N)
  x = 4 * np.eye(K)[y][:, :2] + rng.normal(size=(N, 2)) * 0.7
  kernel = diffusion.spectrum(KEY, np.float32(x), anchors=N, neighbours=8)
  return kernel, y


def _steps(y, noise, *, rank=30, epochs=1, seed=1, rows=N, gain=1.0):
  """Returns steps that see `rank` directions of gain (Y - 1 / K) and noise."""
  rng = np.random.default_rng(seed)
  steps = []
  for index in list(np.arange(rows).reshape(-1, B)) * epochs:
    square = rng.normal(size=(B * K, B * K))
    vectors = np.linalg.qr(square)[0][:, :rank].reshape(B, K, rank)
    sent = gain * (np.eye(K)[y[index]] - 1 / K)
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
    spread[step.index] = step.vectors
    seen.append(step.gain[0] * spread.reshape(N * K, -1) / step.variance**0.5)
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
    steps = _steps(y, 0.7, gain=gain)
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
    # Its closed form: one step, all directions, and a process of nothing.
    (step,) = _steps(y, 1.0, rank=B * K, rows=B)
    nothing = sealed.Process(np.zeros((N, K)), 1.0, 0.0, 4)
    mean = sealed.explain_rows(nothing, (step,))
    seen = np.einsum('nkr,r->nk', step.vectors, step.observed)
    share = (1 / K) / step.variance
    np.testing.assert_allclose(mean[:B], share * seen, atol=1e-6)
    np.testing.assert_array_equal(mean[B:], 0.0)

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
    left = sealed.leave(truth, step)
    self.assertBetween(left.variance, 0.18, 0.32)
    nothing = truth._replace(mean=0 * truth.mean)
    left = sealed.leave(nothing, step)
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


if __name__ == '__main__':
  absltest.main()
