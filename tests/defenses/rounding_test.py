"""Grids of DiscreteSGD: where they lie and what becomes of outliers."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak.base import InputError
from labelleak.defenses import rounding


def _cuts(steps=4, rows=30, width=10, mean=0.3):
  rng = np.random.default_rng(0)
  return jnp.array(mean + rng.normal(size=(steps, rows, width)), jnp.float32)


def _run(tx, cuts, epochs):
  step = lambda state, inputs: tx.update(inputs[0], state, epoch=inputs[1])[
    ::-1
  ]
  return jax.lax.scan(step, tx.init(cuts[0]), (cuts, jnp.array(epochs)))


class DiscretizeTest(parameterized.TestCase):
  @parameterized.parameters(6, 12, 24, 7)
  def test_two_phases_against_numpy(self, bins):
    cuts = _cuts()
    _, out = _run(rounding.discretize(bins=bins).gradient, cuts, [0, 0, 1, 2])
    np.testing.assert_array_equal(out[:2], cuts[:2])  # undefended
    seen = np.asarray(cuts[:2], np.float64)
    low = seen.mean() - 2 * seen.std()
    ends = low + np.arange(bins + 1) * 4 * seen.std() / bins
    for g, sent in zip(np.ravel(cuts[2:]), np.ravel(out[2:])):
      if ends[0] <= g <= ends[-1]:
        nearest = ends[np.abs(ends - g).argmin()]
        self.assertAlmostEqual(sent, nearest, places=5)
      else:
        self.assertEqual(sent, 0)
    outside = np.mean((cuts[2:] < ends[0]) | (cuts[2:] > ends[-1]))
    self.assertBetween(outside, 0.02, 0.08)  # .0455 of a normal

  def test_ever_finer_bins_leave_what_lies_inside(self):
    cuts, errors = _cuts(), []
    for bins in (10, 100, 1000, 10000):
      _, out = _run(rounding.discretize(bins=bins).gradient, cuts, [0, 0, 1, 1])
      error = np.abs(out - cuts)[2:][out[2:] != 0]
      errors.append(error.max())
      self.assertLess(errors[-1], 1.05 * 2 / bins)  # half of 4 sigma / bins
    self.assertLess(errors[-1], 3e-4)

  def test_later_epochs_move_no_statistic(self):
    cuts = _cuts(steps=3)
    cuts = cuts.at[1].multiply(100)
    tx = rounding.discretize(bins=6).gradient
    state, out = _run(tx, cuts, [0, 1, 2])
    np.testing.assert_allclose(state.mean, cuts[0].mean(), rtol=1e-5)
    np.testing.assert_allclose(state.stddev(), cuts[0].std(), rtol=1e-5)
    _, again = _run(tx, cuts[jnp.array([0, 2])], [0, 2])
    np.testing.assert_array_equal(out[2], again[1])

  def test_a_constant_is_its_own_grid(self):
    cuts = jnp.full((2, 4, 3), 0.5)
    _, out = _run(rounding.discretize(bins=4).gradient, cuts, [0, 1])
    np.testing.assert_array_equal(out, cuts)


class FixedTest(parameterized.TestCase):
  @parameterized.parameters((12, 3e-2), (6, 1e-3), (24, 3e-2))
  def test_is_the_released_code(self, bins, bound):
    cut = _cuts()[0] * 0.02
    tx = rounding.discretize_fixed(bins=bins, bound=bound).gradient
    step = 2 * bound / bins
    oracle = np.round(np.asarray(cut, np.float64) / step) * step
    out = tx.update(cut, tx.init(cut))[0]
    # An entry halfway between two ends may go to either, in float32.
    self.assertLess(np.mean(np.abs(out - oracle) > 1e-6), 0.01)

  def test_ties_go_to_even_and_nothing_is_clipped(self):
    tx = rounding.discretize_fixed(bins=2, bound=1.0).gradient  # steps of 1
    cut = jnp.array([[0.5, 1.5, -0.5, -1.5, 7.2]])
    out = tx.update(cut, tx.init(cut))[0]
    np.testing.assert_array_equal(out, [[0, 2, 0, -2, 7]])


class FirstTest(parameterized.TestCase):
  @parameterized.parameters((12, 1 / 3), (6, 2 / 3), (5, 2 / 3), (1, 2.0))
  def test_the_first_matrix_sets_the_step(self, bins, factor):
    cuts = _cuts()
    state, out = _run(
      rounding.discretize_first(bins=bins).gradient, cuts, [0] * len(cuts)
    )
    first = np.asarray(cuts[0], np.float64)
    step = factor * first.std(ddof=1)
    self.assertAlmostEqual(float(state), step, places=5)
    oracle = np.round(np.asarray(cuts, np.float64) / step) * step
    self.assertLess(np.mean(np.abs(out - oracle) > 1e-4), 0.01)

  @parameterized.parameters(1.0, 2.0, 3.0)
  def test_what_lies_beyond_some_sigma_of_the_first_matrix_is_0(self, within):
    cuts = _cuts(mean=0.0) * jnp.array([1.0, 2.0, 3.0, 0.5])[:, None, None]
    first = [0] * len(cuts)
    tx = rounding.discretize_first(bins=12, within=within).gradient
    _, out = _run(tx, cuts, first)
    _, rounded = _run(rounding.discretize_first(bins=12).gradient, cuts, first)
    bound = within * np.asarray(cuts[0], np.float64).std(ddof=1)
    inside = np.abs(np.asarray(cuts, np.float64)) <= bound
    np.testing.assert_array_equal(out, np.where(inside, rounded, 0))
    self.assertLess(inside[2].mean(), inside[0].mean())

  def test_a_wide_bound_discards_nothing(self):
    cuts = _cuts()
    _, out = _run(
      rounding.discretize_first(bins=12, within=99).gradient, cuts, [0] * 4
    )
    _, rounded = _run(
      rounding.discretize_first(bins=12).gradient, cuts, [0] * 4
    )
    np.testing.assert_array_equal(out, rounded)

  def test_a_first_matrix_without_spread_waits(self):
    cuts = _cuts().at[0].set(0.0)
    state, out = _run(
      rounding.discretize_first(bins=12).gradient, cuts, [0] * 4
    )
    np.testing.assert_array_equal(out[0], cuts[0])
    self.assertAlmostEqual(float(state), cuts[1].std(ddof=1) / 3, places=4)


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('discretize', dict(bins=0), 'bins=0 must be a whole number'),
    ('discretize', dict(bins=2.5), r'bins=2\.5 must be a whole'),
    ('discretize_first', dict(bins=float('inf')), 'bins=inf must be'),
    ('discretize_first', dict(bins=2, within=0), 'within=0 must be positive'),
    (
      'discretize_fixed',
      dict(bins=6, bound=0),
      r'bound=0 must be in \(0, inf\)',
    ),
  )
  def test_bad_input_is_refused(self, name, hyper, message):
    with self.assertRaisesRegex(InputError, message):
      getattr(rounding, name)(**hyper)


if __name__ == '__main__':
  absltest.main()
