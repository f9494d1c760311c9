"""Who learned from simulated rounds, against least squares and Bayes' rule."""

from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats

from labelleak.attacks.counts import posterior
from labelleak.audit import lattice, simulation

K, N, REST = 3, 9, 3
ROUNDS = simulation.ROUNDS
HALF = ROUNDS // 2


def _rounds(seed=0):
  """Makes rounds of a line for each class, and noise."""
  rng = np.random.default_rng(seed)
  labels = np.stack([rng.multinomial(N, np.ones(K) / K) for _ in range(ROUNDS)])
  last = np.stack(
    [rng.multivariate_hypergeometric(row, REST) for row in labels]
  )
  slope, offset = np.array([-0.9, -1.0, -1.2]), np.array([3.0, 2.8, 3.3])
  bias = offset + slope * (labels + 0.4 * last)
  bias += 0.1 * rng.normal(size=bias.shape) * (1 + labels)
  return simulation.Rounds(*map(np.float32, (bias, labels, last)))


def _learn(rounds):
  """Fits the lines of the first half in NumPy: offset, slope, extra, var."""
  bias, labels, last = (np.float64(leaf[:HALF]) for leaf in rounds)
  b, k, r = (leaf - leaf.mean(0) for leaf in (bias, labels, last))
  columns = np.column_stack([k.ravel(), r.ravel()])
  (first, second), *_ = np.linalg.lstsq(columns, b.ravel(), rcond=None)
  extra = second / first
  size = k + extra * r
  # Each slope is drawn to that of all as by one more class of mean spread.
  common, spread = (size * b).sum() / (size**2).sum(), (size**2).sum() / K
  slope = [
    np.linalg.lstsq(
      np.append(size[:, i], spread**0.5)[:, None],
      np.append(b[:, i], spread**0.5 * common),
      rcond=None,
    )[0][0]
    for i in range(K)
  ]
  error = (b - slope * size) ** 2 * HALF / (HALF - 2)
  rise, zero = np.polyfit(
    labels.ravel(), error.ravel(), 1, w=1 / (1 + labels.ravel())
  )
  offset = bias.mean(0) - slope * (labels + extra * last).mean(0)
  return offset, slope, extra, lambda k: zero + rise * k


def _count(scales, rounds):
  """Runs `lattice.count`, compiled with what is mocked."""
  with (
    mock.patch.object(
      lattice, '_infer_once', jax.jit(lambda *a: lattice._infer(*a))
    ),
    mock.patch.object(lattice, '_allocate', jax.vmap(posterior.allocate)),
  ):
    return lattice.count(N, REST, rounds, scales)


class LatticeTest(parameterized.TestCase):
  @parameterized.parameters(1.0, 0.5)
  def test_likelihood_is_that_of_the_lines_of_the_first_half(self, scale):
    rounds = _rounds()
    offset, slope, extra, var = _learn(rounds)
    expected = np.empty((K, N + 1))
    beta = np.float64(rounds.updates[HALF])
    for i in range(K):
      for k in range(N + 1):
        of_rest = np.arange(REST + 1)
        expected[i, k] = special.logsumexp(
          stats.hypergeom.logpmf(of_rest, N, k, REST)
          + stats.norm.logpdf(
            beta[i],
            scale * (offset[i] + slope[i] * (k + extra * of_rest)),
            scale * var(k) ** 0.5,
          )
        )
    # What is inferred of the likelihood is tested where it is inferred.
    plain = lambda log_lik: posterior.Posterior(log_lik, jnp.zeros(()))
    with (
      mock.patch.object(posterior, 'infer', plain),
      mock.patch.object(posterior, 'allocate', lambda table: table),
    ):
      found = _count((scale,), rounds)
    self.assertEqual(found.shape, (HALF, K, N + 1))
    np.testing.assert_allclose(
      found[0] - 0.5 * np.log(2 * np.pi), expected, rtol=2e-3, atol=2e-3
    )

  def test_scales_are_mixed_by_their_evidence(self):
    table = lambda log_lik: posterior.Posterior(log_lik, log_lik.sum() / 2e3)
    with (
      mock.patch.object(posterior, 'infer', table),
      mock.patch.object(posterior, 'allocate', lambda table: table),
    ):
      one, other, both = (
        np.asarray(_count(scales, _rounds())[0])
        for scales in ((1.0,), (0.5,), (1.0, 0.5))
      )
    share = special.softmax([one.sum() / 2e3, other.sum() / 2e3])
    self.assertBetween(share[0], 0.01, 0.99)
    mixed = share[0] * one + share[1] * other
    np.testing.assert_allclose(both, mixed, rtol=1e-3, atol=1e-3)

  def test_of_rounds_that_do_not_differ_each_class_gets_as_much(self):
    labels = np.full((ROUNDS, K), N / K, np.float32)
    rounds = simulation.Rounds(0 * labels, labels, 0 * labels)
    np.testing.assert_array_equal(_count((1.0, 0.5), rounds), labels[HALF:])

  def test_the_rest_draws_without_replacement(self):
    of_rest, log_prob = lattice._share_rest(10, 4)
    for k in range(11):
      found = dict(zip(of_rest[k], np.exp(log_prob[k])))
      expected = stats.hypergeom.pmf(range(15), 10, k, 4)
      self.assertEqual(sorted(found), list(range(15)))  # those over 4 never
      np.testing.assert_allclose([found[r] for r in range(15)], expected)

  def test_of_a_large_rest_the_likely_numbers_are_told_apart(self):
    of_rest, log_prob = lattice._share_rest(100, 30)
    self.assertEqual(of_rest.shape, (101, 15))
    self.assertBetween(of_rest.min(), 0, 0)
    self.assertBetween(of_rest.max(), 30, 30)
    np.testing.assert_array_equal(np.diff(of_rest, axis=1), 1)
    self.assertGreater(np.exp(log_prob).sum(1).min(), 0.99)

  def test_a_label_of_the_rest_weighs_as_by_least_squares(self):
    rng = np.random.default_rng(1)
    labels, last = rng.normal(size=(2, 20, 3))
    bias = -0.7 * (labels + 1.8 * last)
    weigh = jax.jit(lattice._weigh_rest)
    np.testing.assert_allclose(weigh(bias, labels, last), 1.8, rtol=1e-4)
    bias += rng.normal(size=bias.shape)
    columns = np.column_stack([labels.ravel(), last.ravel()])
    slope, both = np.linalg.lstsq(columns, bias.ravel(), rcond=None)[0]
    found = weigh(bias, labels, last)
    np.testing.assert_allclose(found, both / slope, rtol=1e-3)

  def test_a_variance_is_linear_and_never_falls(self):
    rng = np.random.default_rng(2)
    k = rng.integers(0, 9, size=(20, 3))
    error = 0.3 + 0.2 * k + 0.1 * rng.uniform(size=k.shape)
    fit = jax.jit(lattice._fit_variance)
    at_zero, rise = fit(k, error)
    line = np.polyfit(k.ravel(), error.ravel(), 1, w=1 / (1 + k.ravel()))
    np.testing.assert_allclose([rise, at_zero], line, rtol=1e-3)
    weight = 1.0 / (1 + k) ** 2
    mean = lambda error: (weight * error).sum() / weight.sum()
    fall = 3.0 - 0.2 * k
    np.testing.assert_allclose(fit(k, fall), (mean(fall), 0.0), rtol=1e-3)
    np.testing.assert_allclose(fit(k, 1.0 * k)[0], 0.05 * mean(k), rtol=1e-3)


if __name__ == '__main__':
  absltest.main()
