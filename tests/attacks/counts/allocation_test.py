"""Bayes allocation against brute force, and its limits and symmetries."""

from fractions import Fraction
import functools
import itertools
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from labelleak import attacks, hfl
from labelleak.attacks.counts import (
  allocation,
  expectation,
  integration,
  likelihood,
  posterior,
)
from labelleak.base import InputError, Labelled
from labelleak.data import plans

KEY = jax.random.key(0)
K, S = 100, 10


def position_weights(batch_size, steps):
  """What each place of a batch weighs in the update, by walking the slices."""
  sizes = hfl.step_sizes(batch_size, steps)
  weight = [Fraction(0)] * batch_size
  for step, size in enumerate(sizes):
    for slot in range(size):
      weight[(step * max(sizes) + slot) % batch_size] += Fraction(1, size)
  return weight


def subset_weights(weights):
  """{k: {summed weight: share of the subsets of k places}}."""
  ways = {0: {Fraction(0): 1}}
  for weight in weights:
    new = {k: dict(sums) for k, sums in ways.items()}
    for k, sums in ways.items():
      into = new.setdefault(k + 1, {})
      for total, num in sums.items():
        into[total + weight] = into.get(total + weight, 0) + num
    ways = new
  return {
    k: {w: num / sum(sums.values()) for w, num in sums.items()}
    for k, sums in ways.items()
  }


def table_row(table, k):
  """{weight rounded: probability} of row k."""
  found = {}
  for total, logp in zip(table.total[k], table.log_prob[k]):
    if np.exp(logp) > 0:
      found[round(float(total), 9)] = np.exp(logp)
  return found


class WeightsTest(parameterized.TestCase):
  @parameterized.parameters(
    (64, 10, 1),  # a last step of one example
    (64, 10, 3),
    (75, 2, 1),  # of 37 examples that weigh more, the likely numbers alone
    (128, 10, 1),
    (4, 10, 1),  # places visited again
    (4, 10, 3),
    (10, 4, 1),
    (10, 5, 2),  # equal steps
    (3, 6, 1),
    (7, 1, 1),
    (1, 1, 1),
  )
  def test_table_is_the_hypergeometric_mixture(self, b, steps, clients):
    places = clients * [w / clients for w in position_weights(b, steps)]
    table = likelihood.weights(b, steps, clients)
    self.assertEqual(table.total.shape[0], clients * b + 1)
    for k, expected in subset_weights(places).items():
      found = table_row(table, k)
      want = {round(float(w), 9): p for w, p in expected.items()}
      for weight, prob in want.items():
        self.assertAlmostEqual(found.get(weight, 0.0), prob, delta=1e-6)
      self.assertAlmostEqual(sum(found.values()), 1.0, delta=1e-6)

  @parameterized.parameters((1, 1), (9, 0), (9, 9), (40, 7), (2000, 1500))
  def test_hypergeometric_against_scipy(self, num, drawn):
    r, k = np.arange(-2, min(num, 60) + 3), np.arange(num + 1)[:, None]
    with np.errstate(divide='ignore', invalid='ignore'):
      expected = stats.hypergeom.logpmf(r, num, k, drawn)
    found = likelihood.log_hypergeometric(r, num, k, drawn)
    np.testing.assert_allclose(found, expected, atol=1e-9)

  @parameterized.parameters(8, 64)
  def test_a_wide_table_has_the_moments_of_the_mixture(self, clients):
    num, odd, light, heavy = 117 * clients, 11 * clients, 1 / 13, 1 / 11
    table = likelihood.weights(128, 10, clients)
    probs, total = np.exp(table.log_prob), table.total * clients
    mean = (probs * total).sum(1)
    k = np.arange(num + odd + 1)
    r = k * odd / (num + odd)
    np.testing.assert_allclose(mean, (k - r) * light + r * heavy, atol=1e-3)
    var = r * (1 - odd / (num + odd)) * (num + odd - k) / (num + odd - 1)
    var *= (heavy - light) ** 2
    found = (probs * (total - mean[:, None]) ** 2).sum(1)
    np.testing.assert_allclose(found, var, atol=0.03 * var.max())
    np.testing.assert_allclose(probs.sum(1), 1.0, rtol=1e-6)

  def test_subsets_by_enumeration(self):
    """The oracle above is itself right."""
    places = position_weights(7, 3)
    for k, expected in subset_weights(places).items():
      sums = [sum(c, Fraction(0)) for c in itertools.combinations(places, k)]
      for weight, prob in expected.items():
        self.assertAlmostEqual(sums.count(weight) / len(sums), prob)


class IntervalTest(parameterized.TestCase):
  def test_the_shortest_by_enumeration(self):
    probs = np.random.default_rng(0).dirichlet(np.full(12, 0.5), size=50)
    for level in (0.5, 0.9):
      found = posterior.interval(jnp.asarray(probs), level)
      for p, low, high, mass in zip(probs, *map(np.asarray, found)):
        widths = [
          (j - i, -p[i : j + 1].sum(), i, j)
          for i in range(12)
          for j in range(i, 12)
          if p[i : j + 1].sum() >= level
        ]
        _, negative, i, j = min(widths)
        self.assertEqual((low, high), (i, j))
        self.assertAlmostEqual(mass, -negative, places=5)

  def test_what_is_certain_has_no_width(self):
    low, high, mass = posterior.interval(jnp.eye(5))
    np.testing.assert_array_equal(low, range(5))
    np.testing.assert_array_equal(high, range(5))
    np.testing.assert_array_equal(mass, 1.0)

  def test_of_no_number_there_is_none(self):
    low, high, mass = posterior.interval(jnp.full((2, 4), jnp.nan))
    np.testing.assert_array_equal([low, high], -1)
    self.assertTrue(np.isnan(mass).all())

  def test_a_level_that_is_none(self):
    with self.assertRaisesRegex(InputError, 'level=90'):
      posterior.interval(jnp.eye(3), 90)


class AllocateTest(parameterized.TestCase):
  @parameterized.parameters((2, 3), (3, 4), (4, 5), (5, 2), (3, 1))
  def test_optimum_by_brute_force(self, k, n):
    rng = np.random.default_rng(k)
    allocate = jax.jit(posterior.allocate)
    for concentration in (0.1, 1.0, 5.0):
      for _ in range(5):
        probs = rng.dirichlet(np.full(n + 1, concentration), size=k)

        def value(m, probs=probs):
          hits = np.minimum(np.asarray(m)[:, None], np.arange(n + 1)[None])
          return (probs * hits).sum()

        best = max(
          value(m)
          for m in itertools.product(range(n + 1), repeat=k)
          if sum(m) == n
        )
        counts = np.asarray(allocate(jnp.asarray(probs, jnp.float32)))
        self.assertEqual(counts.sum(), n)
        self.assertAlmostEqual(value(counts), best, places=5)

  def test_fewer_labels_than_columns(self):
    probs = np.zeros((3, 9))
    probs[[0, 1, 2], [2, 0, 3]] = 1.0
    counts = posterior.allocate(jnp.asarray(probs), 5)
    np.testing.assert_array_equal(counts, [2, 0, 3])

  def test_certain_counts_are_named(self):
    truth = np.array([4, 0, 1, 3, 0])
    np.testing.assert_array_equal(posterior.allocate(jnp.eye(9)[truth]), truth)


class PosteriorTest(parameterized.TestCase):
  def test_expected_counts_sum_to_the_batch(self):
    rng = np.random.default_rng(0)
    n, k = 20, 30
    for spread in (0.3, 1.0, 3.0):
      centre = rng.multinomial(n, rng.dirichlet(np.ones(k)))
      seen = centre + spread * rng.normal(size=k)
      log_lik = -0.5 * ((seen[:, None] - np.arange(n + 1)) / spread) ** 2
      post = posterior.infer(jnp.asarray(log_lik, jnp.float32))
      np.testing.assert_allclose(post.probs.sum(1), 1.0, atol=1e-5)
      expected = (post.probs @ jnp.arange(n + 1.0)).sum()
      np.testing.assert_allclose(expected, n, atol=0.05)
      self.assertTrue(np.isfinite(post.evidence))

  def test_evidence_of_the_total_by_convolution(self):
    """Also where certain counts make the expected sum rise in jumps."""
    rng = np.random.default_rng(0)
    n, k = 30, 12
    levels = np.arange(n + 1)
    for sharp in (0.1, 1.0, 10.0):
      for wrong in (0.6, 1.0, 1.6):
        centre = wrong * rng.multinomial(n, rng.dirichlet(np.ones(k)))
        joint = -0.5 * sharp * (centre[:, None] - levels) ** 2
        exact = np.full(n + 1, -np.inf)
        exact[0] = 0.0
        for row in joint:
          terms = [exact[: m + 1] + row[m::-1] for m in range(n + 1)]
          exact = np.array([np.logaddexp.reduce(t) for t in terms])
        found = posterior._condition_on_total(
          jnp.asarray(joint, jnp.float32), joint.shape[1] - 1, 10
        )
        # The formula leaves out sqrt(2 pi), the same for all.
        miss = found.evidence - 0.5 * np.log(2 * np.pi) - exact[n]
        self.assertLess(abs(miss), 0.5, (sharp, wrong))

  @parameterized.parameters((0, 1e4), (0, 20.0), (-5, 1e4), (5, 1e4))
  def test_sure_counts_stay_whatever_they_sum_to(self, excess, sharp):
    counts = np.random.default_rng(0).multinomial(30, np.full(12, 1 / 12))
    levels = np.arange(31)
    joint = -sharp * (counts[:, None] - levels) ** 2
    found = posterior._condition_on_total(
      jnp.asarray(joint, jnp.float32), 30 - excess, 10
    )
    np.testing.assert_allclose(found.probs @ levels, counts, atol=1e-4)
    # Of an excess, theta goes to its end, and finds no other counts.
    expected = 0.5 * np.log(4) - 2 * excess**2 - 30.0 * abs(excess)
    self.assertAlmostEqual(found.evidence, expected, delta=0.5)

  def test_counts_that_none_expects_are_found(self):
    """The sum falls from 40 to 0 within a part of the way."""
    levels = np.arange(41)
    joint = 9.9 * levels - 10.0 * np.abs(levels - 10.0) * np.ones((4, 1))
    found = posterior._condition_on_total(
      jnp.asarray(joint, jnp.float32), 20, 10
    )
    self.assertAlmostEqual((found.probs @ levels).sum(), 20.0, delta=0.05)

  def test_the_prior_is_learned_as_a_loop_in_numpy_learns_it(self):
    rng = np.random.default_rng(0)
    n, k = 40, 20
    levels = np.arange(n + 1)
    seen = np.concatenate([[15, 12], rng.poisson(0.7, k - 2)])
    seen = seen + rng.normal(size=k)
    likelihood = np.exp(-0.5 * (seen[:, None] - levels) ** 2)
    mu, few = n / k, np.where(levels > 0, 0.1 / n, 0.0)
    for _ in range(10):
      most = 0.9 * stats.poisson.pmf(levels, mu)
      beliefs = likelihood * (most + few)
      beliefs /= beliefs.sum(1, keepdims=True)
      members = beliefs * most / (most + few)
      left = n - ((beliefs - members) @ levels).sum()
      mu = np.clip(left / members.sum(), 1e-3, n / k)
    self.assertBetween(mu, 0.3, 1.2)
    likelihood = np.maximum(likelihood, 1e-30)
    priors = [0.9 * stats.poisson.pmf(levels, mu) + few] + [
      stats.betabinom.pmf(levels, n, a, (k - 1) * a)
      for a in posterior._CONCENTRATIONS
    ]
    evidence = np.array([np.log(likelihood @ prior).sum() for prior in priors])
    evidence[0] += posterior._FEW * np.log10(k / 10)
    weights = np.exp(evidence - evidence.max())
    prior = weights @ np.array(priors) / weights.sum()
    joint = np.log(likelihood) + np.log(prior)
    expected = posterior._condition_on_total(
      jnp.asarray(joint, 'f'), joint.shape[1] - 1, 10
    )
    log_lik = jnp.asarray(np.log(likelihood), 'f')
    found = posterior.infer(log_lik)
    np.testing.assert_allclose(found.probs, expected.probs, atol=1e-3)
    np.testing.assert_allclose(found.evidence, expected.evidence, atol=1e-2)

  @parameterized.parameters((1000, 256), (2000, 128), (1000, 32))
  def test_one_class_may_hold_all_of_many(self, k, n):
    """However unlikely a few heavy classes are beside Dirichlet priors."""
    sd = n / 40
    seen = sd * np.random.default_rng(0).normal(size=k)
    seen[3] += n
    log_lik = -0.5 * ((seen[:, None] - np.arange(n + 1)) / sd) ** 2
    probs = posterior.infer(jnp.asarray(log_lik, jnp.float32)).probs
    counts = posterior.allocate(probs)
    self.assertGreater(counts[3], 0.95 * n)

  def test_thousands_of_labels_are_counted_exactly(self):
    """Float32 neither loses the variance nor lets the total drift."""
    k, n = 10, 4000
    rng = np.random.default_rng(0)
    for sd in (0.3, 3.0):
      truth = rng.multinomial(n, rng.dirichlet(np.full(k, 0.5)))
      seen = truth + sd * rng.normal(size=k)
      log_lik = -0.5 * ((seen[:, None] - np.arange(n + 1)) / sd) ** 2
      found = posterior.infer(jnp.asarray(log_lik, jnp.float32))
      self.assertTrue(np.isfinite(found.evidence))
      total = posterior.mean_counts(found.probs).sum()
      np.testing.assert_allclose(total, n, atol=0.5)
      counts = np.asarray(posterior.allocate(found.probs))
      self.assertLess(np.abs(counts - truth).max(), 5 * sd + 1)

  def test_uncertain_classes_give_way_to_certain_ones(self):
    n, k = 20, 10
    log_lik = np.zeros((k, n + 1))  # nothing known
    log_lik[0] = -np.inf
    log_lik[0, 12] = 0.0  # certainly 12
    log_lik[1] = -np.inf
    log_lik[1, 3] = 0.0
    log_lik = jnp.maximum(jnp.asarray(log_lik, jnp.float32), -1e4)
    probs = posterior.infer(log_lik).probs
    expected = probs @ jnp.arange(n + 1.0)
    np.testing.assert_allclose(expected[:2], [12, 3], atol=1e-3)
    np.testing.assert_allclose(expected[2:], 5 / 8, atol=1e-2)


class ClippingTest(parameterized.TestCase):
  @parameterized.parameters(0.3, 5.0)
  def test_what_a_clip_leaves_of_drawn_steps(self, clip):
    rng = np.random.default_rng(0)
    b, steps, k, ratio = 120, 10, 20, 1.4
    counts = rng.multinomial(b, rng.dirichlet(np.full(k, 0.3)))
    labels = np.repeat(np.arange(k), counts)
    squares = []
    for _ in range(500):
      parts = rng.permutation(labels).reshape(steps, -1)
      share = np.stack([np.bincount(p, minlength=k) for p in parts]) * steps / b
      squares.append(((1 / k - share) ** 2).sum(1).mean())
    expected = min(1.0, clip / (ratio * np.mean(squares) ** 0.5))
    known = hfl.Known(k, b, steps, defense=(('clip', clip),))
    probs, q = jnp.eye(b + 1)[counts], jnp.full(k, 1 / k)
    found = allocation._clip_scale(probs, q, ratio, known, clip)
    np.testing.assert_allclose(found, expected, rtol=0.01)

  def test_an_update_that_no_clip_touched(self):
    """Noise hides the scale of 1; a clip that is hardly felt leaves it."""
    truth, beta = label_only(128, S, 40)
    noise = np.random.default_rng(0).normal(size=beta.shape)
    beta = beta + 0.01 * S**0.5 * noise
    free = run('calibrated', beta, 128, S, (('gaussian', 0.01),))
    clipped = run('calibrated', beta, 128, S, (('clip', 1), ('gaussian', 0.01)))
    np.testing.assert_allclose(
      accuracy(clipped, truth), accuracy(free, truth), atol=0.3
    )

  def test_a_norm_that_is_wrong_is_not_believed(self):
    truth, beta = (np.asarray(a)[0] for a in label_only(128, S, 1))
    noise = np.random.default_rng(0).normal(size=K)
    beta = jnp.asarray(0.3 * beta + 0.01 * S**0.5 * noise, jnp.float32)
    known = hfl.Known(K, 128, S, defense=(('clip', 1), ('gaussian', 0.01)))

    @jax.jit
    def count(ratio):
      uniform = expectation.uniform(K)
      found = allocation.weigh_counts(beta, uniform, known, ratio=ratio)
      return posterior.allocate(found.probs)

    for ratio in (0.3, 4.0, 20.0):
      self.assertGreater(accuracy(count(ratio), truth), 75.0, ratio)


class SpreadTest(absltest.TestCase):
  """What a handful of examples tells, against what it would have told."""

  def test_the_spread_is_that_of_updates_and_of_estimates(self):
    """Batches are drawn, and so are the examples behind the means."""
    k, each, trials = 5, 4, 20000
    rng = np.random.default_rng(0)
    num = np.array([1.0, 2.0, 3.0, 6.0, 20.0])
    var = rng.uniform(0.2, 2.0, size=(k, k)) * 1e-3  # row j: class j
    entries = np.zeros((trials, k))
    for j in range(k):
      sd = np.sqrt(var[j])
      batch = rng.normal(size=(trials, each, k)).mean(1) * sd
      estimate = rng.normal(size=(trials, k)) * sd / np.sqrt(num[j])
      entries += (batch - estimate) / k  # a K-th of the examples are of class j
    softmax = expectation.uniform(k)._replace(
      var=jnp.asarray(var, jnp.float32), num=jnp.asarray(num, jnp.float32)
    )
    known = hfl.Known(k, k * each, defense=())
    one = lambda look, counts, *_, **__: look(counts)(1, 0, 1.0, 0)
    with (
      mock.patch.object(integration, 'integrate', one),
      mock.patch.object(
        likelihood, 'log_likelihood', wraps=likelihood.log_likelihood
      ) as call,
    ):
      allocation.weigh_counts(jnp.zeros(k), softmax, known)
    spread = call.call_args.args[2][:, each]  # of classes that have their share
    np.testing.assert_allclose(spread, entries.std(0), rtol=0.03)

  def test_one_row_says_what_equal_rows_say(self):
    rng = np.random.default_rng(0)
    k, known = 6, hfl.Known(6, 24, steps=3, defense=None)
    beta = jnp.asarray(rng.normal(size=k) * 0.3, jnp.float32)
    p = jnp.asarray(rng.dirichlet(np.ones(k)), jnp.float32)
    var = jnp.asarray(rng.uniform(size=k) * 1e-3, jnp.float32)
    one = expectation.Softmax(p[None], var[None], jnp.full(1, 5.0))
    rows = jax.tree.map(lambda a: jnp.repeat(a, k, 0), one)
    weigh = lambda softmax: allocation.weigh_counts(beta, softmax, known)
    found, expected = weigh(one), weigh(rows)
    np.testing.assert_allclose(found.probs, expected.probs, atol=1e-3)
    np.testing.assert_allclose(found.evidence, expected.evidence, atol=1e-2)

  def test_own_means_are_shrunk_as_far_as_chance_explains_them(self):
    k, var = 400, 0.04
    rng = np.random.default_rng(0)
    num = np.where(np.arange(k) % 2, 4.0, 16.0)
    labelled = Labelled(jnp.zeros((1, 1)), jnp.zeros((1, k)))
    known = hfl.Known(k, 8, labelled=labelled)
    error = lambda a, b: np.mean((np.asarray(a) - b) ** 2)
    for between in (0.0, 0.05, 0.1, 1.0):
      truth = 0.4 + between * rng.normal(size=k)
      raw = truth + np.sqrt(var / num) * rng.normal(size=k)
      softmax = expectation.Softmax(
        jnp.diag(jnp.asarray(raw, jnp.float32)),
        jnp.diag(jnp.full(k, var)),
        jnp.asarray(num, jnp.float32),
      )
      mean, _, unsure = allocation._confidence(softmax, known)
      # The best linear estimate is told both variances.
      weight = between**2 / (between**2 + var / num)
      best = 0.4 + weight * (raw - 0.4)
      self.assertLess(error(mean, truth), 1.1 * error(best, truth) + 2e-4)
      # Its error is said, of classes with few examples and with many.
      for few in (0, 1):
        part = slice(few, None, 2)
        said, made = unsure[part].mean(), error(mean[part], truth[part])
        np.testing.assert_allclose(said, made, rtol=0.25, atol=3e-4)


class GrantTest(parameterized.TestCase):
  """Knowing more never costs, and what means nothing is refused."""

  @parameterized.parameters(0.3, 0.015, 0.001, 1.0, 3.0)
  def test_a_granted_clip_of_any_scale(self, scale):
    truth, beta = label_only(128, S, 6)
    clipped = run('calibrated', scale * beta, 128, S, (('clip', 0.1),))
    untold = run('calibrated', scale * beta, 128, S, None)
    self.assertGreaterEqual(accuracy(clipped, truth), 99.0)
    self.assertGreaterEqual(
      accuracy(clipped, truth), accuracy(untold, truth) - 0.5
    )

  @parameterized.parameters('clip_per_example', 'sparsity.compress', 'marvell')
  def test_a_defense_without_a_model_is_an_unknown_one(self, name):
    truth, beta = label_only(128, S, 3)
    beta *= 0.3
    with self.assertWarnsRegex(
      UserWarning, f'no model of {name.rpartition(".")[2]}'
    ):
      told = run('calibrated', beta, 128, S, ((name, 0.1),))
    np.testing.assert_array_equal(told, run('calibrated', beta, 128, S, None))
    self.assertGreaterEqual(accuracy(told, truth), 99.0)

  def test_a_long_name_is_the_short_one(self):
    known = hfl.Known(K, 128, S, defense=(('noise.gaussian', 0.1),))
    self.assertEqual(known.defense, (('gaussian', 0.1),))

  @parameterized.parameters(
    ((('clpi', 0.1),), "no 'clpi'; did you mean 'clip'"),
    (dict(clip=0.1), 'a tuple of pairs'),
    ('clip', 'a tuple of pairs'),
    ([('clip', 0.1)], 'a tuple of pairs'),
    ((('clip',),), 'a tuple of pairs'),
    ((('clip', float('nan')),), 'clip=nan must be a finite number'),
    ((('gaussian', -1.0),), 'gaussian=-1.0 must be'),
    ((('gaussian', '1'),), "gaussian='1' must be"),
  )
  def test_what_means_nothing_is_refused(self, defense, message):
    with self.assertRaisesRegex(InputError, message):
      known = hfl.Known(K, 128, S, defense=defense)
      view = hfl.View(grads={'bias': jnp.zeros(K)})
      attacks.load('counts.calibrated').infer(jax.random.key(0), view, known)

  @parameterized.parameters(
    dict(num_classes=0),
    dict(num_classes=1),
    dict(batch_size=0),
    dict(steps=2.5),
    dict(clients=-1),
    dict(lr=float('nan')),
    dict(lr=0.0),
  )
  def test_sizes_that_mean_nothing_are_refused(self, **fields):
    ((name, value),) = fields.items()
    with self.assertRaisesRegex(InputError, f'Known: {name}={value}'):
      hfl.Known(**dict(num_classes=K, batch_size=8) | fields)


def label_only(b, steps, trials, *, k=K, cap=100):
  """Counts [T, K] and bias updates [T, K] at a uniform softmax."""
  y = np.repeat(np.arange(k), cap)
  edges = np.cumsum(hfl.step_sizes(b, steps))[:-1]
  truth, beta = np.zeros((trials, k), int), np.full((trials, k), steps / k)
  for t in range(trials):
    index = plans.draw(
      1, t, y, k, partition='unbalanced', batch_size=b, per_class_cap=cap
    )
    truth[t] = np.bincount(y[index], minlength=k)
    for part in np.split(y[index], edges):
      beta[t] -= np.bincount(part, minlength=k) / part.size
  return truth, beta


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def infer(name, beta, b, steps, defense):
  known = hfl.Known(beta.shape[1], b, steps, defense=defense)
  attack = attacks.load(f'counts.{name}')
  view = lambda beta: hfl.View(grads={'bias': beta})
  return jax.lax.map(lambda beta: attack.infer(KEY, view(beta), known), beta)


def run(name, beta, b, steps, defense):
  return np.asarray(infer(name, jnp.float32(beta), b, steps, defense))


def accuracy(counts, truth):
  return 100 * np.minimum(counts, truth).sum() / truth.sum()


class CalibratedTest(parameterized.TestCase):
  @parameterized.parameters(128, 256)
  def test_ragged_steps_are_recovered(self, b):
    truth, beta = label_only(b, S, 40)
    counts = run('calibrated', beta, b, S, ())
    self.assertGreaterEqual(accuracy(counts, truth), 99.9)

  @parameterized.parameters((128, 8), (100, 10), (64, 1))
  def test_equal_steps_are_exact(self, b, steps):
    truth, beta = label_only(b, steps, 20)
    np.testing.assert_array_equal(run('calibrated', beta, b, steps, ()), truth)

  def test_unknown_scale(self):
    truth, beta = label_only(128, S, 6)
    whole = run('calibrated', beta, 128, S, None)
    self.assertGreaterEqual(accuracy(whole, truth), 99.0)
    scaled = run('calibrated', 0.3 * beta, 128, S, None)
    self.assertGreaterEqual(accuracy(scaled, truth), 99.0)
    self.assertGreaterEqual(accuracy(scaled, whole), 99.5)

  def test_zeros_are_entries_that_were_dropped(self):
    """Sparsified: the smallest 80 % are zero, and are no evidence of 1/K."""
    truth, beta = label_only(128, S, 20)
    beta += 6e-4 * np.random.default_rng(0).normal(size=K)
    cut = np.sort(np.abs(beta), axis=1)[:, [int(0.8 * K) - 1]]
    sparse = np.where(np.abs(beta) <= cut, 0.0, beta)
    ours = accuracy(run('calibrated', sparse, 128, S, ()), truth)
    theirs = accuracy(run('llbg', sparse, 128, S, None), truth)
    self.assertGreaterEqual(ours, theirs)
    # All zero but the heavy class: nothing breaks.
    only = np.where(beta == beta.min(1, keepdims=True), beta, 0.0)
    counts = run('calibrated', only, 128, S, ())
    np.testing.assert_array_equal(counts.sum(1), 128)
    heavy = np.take_along_axis(counts, beta.argmin(1)[:, None], 1)
    self.assertGreaterEqual(heavy.min(), 30)

  @parameterized.parameters(0.1, 0.3)
  def test_granted_noise_beats_llbg(self, sigma):
    truth, beta = label_only(128, S, 100)
    noise = np.random.default_rng(0).normal(size=beta.shape)
    beta = beta + sigma * S**0.5 * noise
    ours = run('calibrated', beta, 128, S, (('gaussian', sigma),))
    theirs = run('llbg', beta, 128, S, None)
    self.assertGreater(accuracy(ours, truth), accuracy(theirs, truth))

  def test_a_model_that_errs_where_it_gives_most(self):
    """Told so, an allocation reads the other classes all the same."""
    b, steps = 128, 8  # equal steps: an example weighs the same in all
    truth, beta = label_only(b, steps, 20)
    rng = np.random.default_rng(0)
    mean = np.full((len(truth), K), 0.5 / K)
    heavy = np.argsort(-truth, axis=1)[:, :2]
    np.put_along_axis(mean, heavy, 0.255, axis=1)
    beta = beta + steps * (mean - 1 / K)
    wrong = mean * np.exp(0.2 * rng.normal(size=mean.shape))

    def found(mean, error):
      def one(beta, mean):
        softmax = expectation.uniform(K)
        rows = jnp.broadcast_to(mean, (K, K))
        known = hfl.Known(K, b, steps=steps, defense=())
        beliefs = allocation.weigh_counts(
          beta, softmax._replace(mean=rows), known, error=error
        )
        return posterior.allocate(beliefs.probs)

      args = jnp.asarray(beta, jnp.float32), jnp.asarray(mean, jnp.float32)
      return np.asarray(jax.jit(jax.vmap(one))(*args))

    np.testing.assert_array_equal(found(mean, 0.3), truth)
    told, untold = found(wrong, 0.3), found(wrong, 0.0)
    self.assertGreater(accuracy(told, truth), accuracy(untold, truth) + 1)
    others = np.ones(truth.shape)
    np.put_along_axis(others, heavy, 0, axis=1)
    missed = lambda counts: (np.abs(counts - truth) * others).sum()
    self.assertLess(missed(told), 0.2 * missed(untold))

  def test_permuting_classes_permutes_counts(self):
    _, beta = label_only(128, S, 8)
    rng = np.random.default_rng(0)
    beta = beta + 0.1 * S**0.5 * rng.normal(size=beta.shape)  # no ties
    order = rng.permutation(K)
    defense = (('gaussian', 0.1),)
    counts = run('calibrated', beta, 128, S, defense)
    permuted = run('calibrated', beta[:, order], 128, S, defense)
    # Sums over classes are rounded in another order: one label may tie.
    self.assertGreaterEqual(accuracy(permuted, counts[:, order]), 99.5)


if __name__ == '__main__':
  absltest.main()
