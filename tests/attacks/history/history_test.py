"""Whole trainings: the process against closed forms, limits, invariances."""

import itertools

from absl.testing import absltest, parameterized
import jax
import numpy as np

from labelleak import vfl
from labelleak.attacks import history
from labelleak.attacks.history import (
  diffusion,
  naming,
  process,
  smoothing,
  trace,
  walks,
)
from labelleak.base import InputError, Pool

KEY = jax.random.key(0)
N, B, K = 120, 30, 3


def _world(seed=0):
  """Returns features [N, 2] of well separated classes, and labels [N]."""
  rng = np.random.default_rng(seed)
  y = rng.integers(0, K, N)
  x = 4 * np.eye(K)[y][:, :2] + rng.normal(size=(N, 2)) * 0.7
  return np.float32(x), y


def _run(x, y, noise, *, epochs=2, seed=1, order=None, classes=None, later=1.0):
  """Returns scores [N, K] after epochs of Y - 1 / K under noise.

  All epochs but the first show it `later` times.
  """
  rng = np.random.default_rng(seed)
  known = vfl.Known(
    num_classes=K, batch_size=B, num_rows=N, pool=Pool(lambda i: x[i], N)
  )
  attack = history.gaussian_process(neighbours=8)
  memory = attack.init(known)
  place = np.arange(N) if order is None else np.argsort(order)
  for epoch in range(epochs):
    for rows in np.arange(N).reshape(-1, B):
      truth = (later if epoch else 1.0) * (np.eye(K)[y[rows]] - 1 / K)
      cut = -(truth + noise * rng.normal(size=(B, K)))
      cut = (cut if classes is None else cut[:, classes]) / B
      memory = attack.observe(memory, _view(cut, place[rows]))
  return np.asarray(attack.infer(KEY, memory, known))


def _view(cut, index):
  return vfl.View(None, None, None, None, None, np.float32(cut), index)


def _accuracy(scores, y):
  return (scores.argmax(-1) == y).mean()


class GaussianProcessTest(parameterized.TestCase):
  def test_posterior_is_that_of_dense_algebra(self):
    x, _ = _world()
    kernel = diffusion.spectrum(KEY, x, anchors=N, neighbours=8)
    rng = np.random.default_rng(2)
    evidence = rng.normal(size=(N, K)) + 2 * x[:, :1]
    precision = rng.uniform(0.5, 2.0, N)
    precision[:10] = 0.0
    posterior = history.explain(kernel, evidence, precision)
    choice = process._choose(kernel, evidence * (precision > 0)[:, None])
    values = choice.amplitude * process._powers(kernel, posterior.steps)
    vectors = np.asarray(kernel.vectors, np.float64)
    covariance = vectors * values @ vectors.T

    def solve(rows):
      noise = np.diag(posterior.noise / precision[rows])
      gram = covariance[np.ix_(rows, rows)] + noise
      return covariance[:, rows] @ np.linalg.solve(gram, evidence[rows])

    seen = np.flatnonzero(precision)
    np.testing.assert_allclose(posterior.mean, solve(seen), atol=2e-3)
    left = solve(seen[seen != 50])[50]
    np.testing.assert_allclose(posterior.left_out[50], left, atol=2e-3)
    np.testing.assert_allclose(
      posterior.left_out[:10], posterior.mean[:10], atol=1e-6
    )

  def test_choice_is_the_largest_dense_likelihood(self):
    x, y = _world()
    kernel = diffusion.spectrum(KEY, x, anchors=N, neighbours=8)
    evidence = np.eye(K)[y] - 1 / K
    evidence = evidence + np.random.default_rng(3).normal(size=(N, K))
    choice = process._choose(kernel, evidence)
    vectors = np.asarray(kernel.vectors, np.float64)

    def likelihood(amplitude, noise):
      values = amplitude * process._powers(kernel, choice.steps)
      gram = vectors * values @ vectors.T + noise * np.eye(N)
      fit = (evidence * np.linalg.solve(gram, evidence)).sum()
      return -0.5 * fit - 0.5 * K * np.linalg.slogdet(gram)[1]

    best = likelihood(choice.amplitude, choice.noise)
    self.assertAlmostEqual(best, choice.evidence - N * K / 2, delta=0.1)
    for a, s in ((2, 1), (0.5, 1), (1, 1.2), (1, 0.8)):
      other = likelihood(choice.amplitude * a, choice.noise * s)
      self.assertLess(other, best)

  def test_without_noise_labels_are_exact_whatever_the_features(self):
    x, y = _world()
    self.assertEqual(_accuracy(_run(x, y, 0.0), y), 1.0)
    other = np.random.default_rng(5).normal(size=(N, 2)).astype(np.float32)
    self.assertEqual(_accuracy(_run(other, y, 0.0), y), 1.0)
    self.assertEqual(_accuracy(_run(other, y, 0.0, epochs=5), y), 1.0)

  def test_noise_drowns_a_row_and_not_its_neighbourhood(self):
    x, y = _world()
    self.assertGreater(_accuracy(_run(x, y, 1.0), y), 0.85)
    other = np.random.default_rng(5).normal(size=(N, 2)).astype(np.float32)
    self.assertLess(_accuracy(_run(other, y, 1.0), y), 0.75)

  def test_later_steps_that_say_nothing_do_no_harm(self):
    x, y = _world()
    rates = {epochs: [] for epochs in (1, 10)}
    for epochs, seed in itertools.product(rates, range(4)):
      scores = _run(x, y, 1.0, epochs=epochs, seed=seed, later=0.0)
      rates[epochs].append(_accuracy(scores, y))
    self.assertGreater(np.mean(rates[10]), np.mean(rates[1]) - 0.02)

  def test_late_steps_count_as_far_as_they_foretell_first_ones(self):
    rng = np.random.default_rng(10)
    truth, error, noise = rng.normal(size=(3, 4000, K))
    posterior = process.Posterior(truth, truth + error, 1.0, 0.0, 1)
    ones = np.ones(4000)
    fit = naming.Fit(ones[:1], truth + noise, ones, posterior)
    word = lambda late: smoothing._stack(fit, fit, late).posterior.left_out
    np.testing.assert_allclose(word(truth), truth, atol=0.2)
    nothing = rng.normal(size=(4000, K))
    np.testing.assert_allclose(word(nothing), (truth + error) / 2, atol=0.3)
    # Errors that are opposite cancel.
    np.testing.assert_allclose(word(truth - error), truth, atol=0.2)

  def test_of_noise_alone_it_guesses(self):
    x, y = _world()
    rates = [_accuracy(_run(x, y, 1e4, seed=s), y) for s in range(8)]
    # Whole clusters are guessed, so that the rates of runs spread widely.
    self.assertBetween(np.mean(rates), 0.1, 0.6)

  def test_scores_are_log_probabilities(self):
    x, y = _world()
    p = np.exp(_run(x, y, 1.0))
    np.testing.assert_allclose(p.sum(1), 1.0, rtol=1e-5)
    self.assertAlmostEqual(p.max(1).mean(), _accuracy(p, y), delta=0.15)

  def test_classes_may_change_names(self):
    x, y = _world()
    classes = np.array([2, 0, 1])
    plain, renamed = _run(x, y, 1.0), _run(x, y, 1.0, classes=classes)
    np.testing.assert_allclose(renamed, plain[:, classes], atol=2e-2)

  def test_rows_may_change_places(self):
    x, y = _world()
    order = np.random.default_rng(4).permutation(N)
    plain, moved = _run(x, y, 1.0), _run(x[order], y, 1.0, order=order)
    np.testing.assert_allclose(moved, plain[order], atol=2e-2)


class WalksTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(9)
    self.power, self.noise = rng.uniform(0, 3, 7), rng.uniform(0.5, 2, 7)
    self.power[2] = 0.0
    deviation = np.sqrt(self.power * self.noise)
    self.shown = 2 * self.power + deviation * rng.normal(size=7)

  def _dense(self, rate):
    """Returns the posterior mean of g [T] and the log density of the looks."""
    steps = np.concatenate([[1.0], rate / np.arange(1, 7)])
    lower = np.tri(7)
    prior = lower @ np.diag(steps) @ lower.T
    rows = np.flatnonzero(self.power)
    noise = np.diag(self.noise[rows] / self.power[rows])
    gram = prior[np.ix_(rows, rows)] + noise
    error = self.shown[rows] / self.power[rows] - 1
    solved = np.linalg.solve(gram, error)
    density = -0.5 * error @ solved - 0.5 * np.linalg.slogdet(gram)[1]
    return 1 + prior[:, rows] @ solved, density

  def test_gains_are_those_of_dense_algebra_at_the_likeliest_rate(self):
    means, densities = zip(*map(self._dense, walks._RATES))
    gains = walks.smooth(self.shown, self.power, self.noise)
    np.testing.assert_allclose(gains, means[np.argmax(densities)], rtol=1e-6)

  def test_what_explains_nothing_moves_no_gain(self):
    none = np.zeros(7)
    np.testing.assert_array_equal(walks.smooth(none, none, self.noise), 1.0)

  def test_where_there_is_no_noise_gains_are_what_is_shown(self):
    power, true = np.ones(7), np.array([1, 2, 0.5, 0.4, 3, 0.1, 0.2])
    gains = walks.smooth(true, power, np.full(7, 1e-9))
    np.testing.assert_allclose(gains, true, atol=1e-6)


class NamingTest(absltest.TestCase):
  def _fit(self, x, steps):
    """Returns a trace of steps and the fit of its evidence, all alike."""
    known = vfl.Known(
      num_classes=K, batch_size=N, num_rows=N, pool=Pool(lambda i: x[i], N)
    )
    rows = np.arange(N)
    memory = trace.Trace(known, tuple(trace.Evidence(rows, e) for e in steps))
    gains = np.ones(len(steps))
    evidence, precision = trace.combine(memory, gains)
    kernel = diffusion.spectrum(KEY, x, anchors=N, neighbours=8)
    posterior = process.explain(kernel, evidence, precision)
    return memory, naming.Fit(gains, evidence, precision, posterior)

  def test_a_fit_that_the_first_epoch_denies_is_left(self):
    x, y = _world()
    noise = np.random.default_rng(6).normal(size=(N, K)) * 0.3
    truth = np.eye(K)[y] - 1 / K + noise
    memory, good = self._fit(x, [truth])
    _, bad = self._fit(x, [np.roll(truth, 1, axis=1)])
    first = np.ones(1, bool)
    scores = naming.name_rows(KEY, memory, [good, bad], first)
    self.assertGreater(_accuracy(scores, y), 0.9)

  def test_noise_does_not_speak_for_a_rule_that_saw_it(self):
    x, _ = _world()
    rng = np.random.default_rng(7)
    means = []
    for _ in range(12):
      memory, fit = self._fit(x, [rng.laplace(size=(N, K))])
      first = np.ones(1, bool)
      noise = naming._copy_noise(
        jax.random.key(len(means)),
        fit.evidence,
        np.ones(N, bool),
        naming._rules(fit)[0],
      )
      shift = naming._shift(memory, fit.gains, first, noise)
      alone = naming._rules(fit)[-1]
      value = naming._judge(alone, fit, shift, fit.evidence, noise)
      means.append(value.mean())
    self.assertLess(abs(np.mean(means)), 4 * np.std(means) / np.sqrt(12))

  def test_rows_judge_by_what_first_steps_show_of_them(self):
    known = vfl.Known(num_classes=K, batch_size=2, num_rows=4, pool=None)
    pairs = np.array([0, 1]), np.array([2, 1]), np.array([0, 1])
    steps = tuple(trace.Evidence(pair, np.zeros((2, K))) for pair in pairs)
    memory = trace.Trace(known.replace(pool=Pool(lambda i: i, 4)), steps)
    first = np.array([True, True, False])
    gains = naming._row_gains(memory, np.array([1.0, 0.2, 7.0]), first)
    both = np.sqrt((1 + 0.2**2) / 2)
    np.testing.assert_allclose(gains, [1.0, both, 0.2, 0.0])

  def test_a_rule_is_left_for_one_that_is_surely_better(self):
    values = np.random.default_rng(8).normal(size=(3, 100))
    doubt, sure = values[0] + 0.1 * values[1], values[0] + 0.1
    self.assertEqual(naming._best(np.stack([values[0], doubt])), 0)
    better = sure + 0.1 * values[2]
    self.assertEqual(naming._best(np.stack([values[0], doubt, better])), 2)


class TraceTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.known = vfl.Known(
      num_classes=K, batch_size=4, num_rows=5, pool=Pool(lambda i: i, 5)
    )
    self.trace = trace.Trace(self.known)
    self.cut = np.random.default_rng(0).normal(size=(4, K))

  def test_padding_is_no_row_and_does_not_count(self):
    index = np.array([3, 1, -1, -1])
    (step,) = trace.observe(self.trace, _view(self.cut, index)).steps
    np.testing.assert_array_equal(step.index, [3, 1])
    centred = self.cut - self.cut.mean(1, keepdims=True)
    np.testing.assert_allclose(step.cut, 2 * self.cut[:2], rtol=1e-5)
    (said,) = trace.read(trace.Trace(self.known, (step,))).steps
    np.testing.assert_allclose(said.evidence, -2 * centred[:2], rtol=1e-5)

  def test_evidence_is_the_label_where_signs_show_it(self):
    label = np.eye(K)[np.arange(4) % K]
    learned = 0.3 * (1 / K - label)
    learned[2] = 1e-9  # whose softmax rounds to the label
    steps = [trace.Step(np.arange(4), np.float32(learned))] * 8
    said = trace.read(self.trace._replace(steps=tuple(steps)))
    for step in said.steps:
      np.testing.assert_array_equal(step.index, [0, 1, 3])
      np.testing.assert_allclose(step.evidence, label[[0, 1, 3]] - 1 / K)
    steps[5] = trace.Step(np.arange(4), np.float32(1 / K - label + self.cut))
    said = trace.read(self.trace._replace(steps=tuple(steps)))
    np.testing.assert_array_equal(said.steps[0].index, np.arange(4))
    np.testing.assert_allclose(
      said.steps[0].evidence,
      learned.mean(1, keepdims=True) - learned,
      atol=1e-6,
    )

  def test_steps_weigh_by_their_gain(self):
    steps = trace.Evidence(np.array([0, 1]), np.ones((2, K)))
    twice = trace.Evidence(np.array([0]), np.full((1, K), 4.0))
    memory = self.trace._replace(steps=(steps, twice))
    evidence, precision = trace.combine(memory, np.array([1.0, 2.0]))
    np.testing.assert_allclose(precision, [5, 1, 0, 0, 0])
    np.testing.assert_allclose(evidence[0], 9 / 5)
    np.testing.assert_allclose(evidence[1], 1)
    np.testing.assert_array_equal(evidence[2:], 0)

  def test_refuses_what_it_cannot_keep(self):
    index = np.arange(4)
    sealed = _view(self.cut, index)._replace(h=self.cut, cut_grads=None)
    bad = (
      (sealed, "add 'bottom'"),
      (_view(self.cut[:, :2], index), 'width 2'),
      (_view(self.cut, None), 'names none'),
      (_view(self.cut, index + 2), 'none of the 5'),
      (_view(self.cut * np.nan, index), 'finite'),
    )
    for view, message in bad:
      with self.assertRaisesRegex(InputError, message):
        trace.observe(self.trace, view)

  def test_refuses_to_answer_without_a_step_or_a_pool(self):
    attack = history.gaussian_process()
    with self.assertRaisesRegex(InputError, 'no step'):
      attack.infer(KEY, attack.init(self.known), self.known)
    with self.assertRaisesRegex(InputError, 'pool'):
      attack.infer(KEY, self.trace, self.known.replace(pool=None))


class BaselinesTest(absltest.TestCase):
  def test_clusters_find_separated_groups_and_labels_name_them(self):
    x, y = _world()
    known = vfl.Known(
      num_classes=K,
      batch_size=B,
      num_rows=N,
      pool=Pool(lambda i: x[i], N),
      labels=np.eye(K, dtype=np.float32)[y],
    )
    groups = np.asarray(history.clusters(neighbours=8).infer(KEY, None, known))
    purity = sum((groups[y == k].sum(0).max()) for k in range(K)) / N
    self.assertGreater(purity, 0.7)
    named = history.true_labels(neighbours=8).infer(KEY, None, known)
    self.assertGreater(_accuracy(np.asarray(named), y), 0.9)


class TrueLabelsTest(parameterized.TestCase):
  @parameterized.parameters('process', 'network')
  def test_labels_of_some_rows_name_the_others(self, learner):
    x, y = _world()
    known = vfl.Known(
      num_classes=K,
      batch_size=B,
      num_rows=N,
      pool=Pool(lambda i: x[i], N),
      labels=np.eye(K, dtype=np.float32)[y[:80]],
    )
    scores = history.true_labels(learner=learner).infer(KEY, None, known)
    self.assertGreater(_accuracy(np.asarray(scores)[80:], y[80:]), 0.9)
    for labels in (np.eye(K)[y[:0]], np.eye(K + 1)[y], np.eye(K)[[*y, 0]]):
      with self.assertRaisesRegex(InputError, 'Known: labels are'):
        history.true_labels(learner=learner).infer(
          KEY, None, known.replace(labels=labels)
        )

  @parameterized.parameters(
    (dict(learner='forest'), 'forest'),
    (dict(anchors=0), 'anchors=0'),
    (dict(neighbours=1.5), 'neighbours=1.5'),
    (dict(learner='network', anchors=5), 'leave it out'),
  )
  def test_refuses_options(self, options, says):
    with self.assertRaisesRegex(InputError, says):
      history.true_labels(**options)


if __name__ == '__main__':
  absltest.main()
