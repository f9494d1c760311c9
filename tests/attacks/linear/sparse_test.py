"""Sparse Bayesian learning of cut gradients, and when it is chosen."""

from unittest import mock
import warnings

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from labelleak import attacks
from labelleak.attacks.linear import factors, matrix, rounds, solver, sparse
from labelleak.base import InputError
from tests.attacks.linear.trained import (
  CLASSES,
  KEY,
  ROWS,
  Coupled,
  Normed,
  Tokens,
  accuracy,
  observe,
)

_learn = jax.jit(sparse.learn)


def learn(view, known, rounds=20):
  return _learn(KEY, view, known, rounds=rounds)


class SquareTest(parameterized.TestCase):
  @parameterized.parameters(
    (None, True), (Coupled(), False), (Tokens(), False), (Normed(), False)
  )
  def test_it_is_that_of_the_equations_written_out(self, module, factored):
    view, known, (v, _) = observe(10, module=module)
    self.assertEqual(bool(factors.factor(view, known)[1]), factored)
    found = jax.jit(lambda v: matrix.square(v, known, jnp.float32))(view)
    rows, observed, count = matrix.build(view, known)
    rows, observed = np.float64(rows), np.float64(observed)
    np.testing.assert_allclose(rows.T @ v.ravel(), observed, atol=1e-4)
    atol = 1e-5 * np.abs(rows @ rows.T).max()
    np.testing.assert_allclose(found.gram, rows @ rows.T, atol=atol)
    np.testing.assert_allclose(found.rhs, rows @ observed, atol=atol)
    np.testing.assert_allclose(found.power, (observed**2).sum(), rtol=1e-5)
    self.assertEqual(found.count, count)

  def test_numbers_that_no_entry_moves_do_not_count(self):
    view, known, _ = observe(10)
    x = view.x.at[:, 3].set(0.0)
    kernel = view.variables['params']['linear0']['kernel']
    fewer = factors.count(factors.factor(view._replace(x=x), known)[0])
    every = factors.count(factors.factor(view, known)[0])
    self.assertEqual(every - fewer, kernel.shape[1])


class LearnTest(parameterized.TestCase):
  def test_entries_that_equations_determine_are_exact(self):
    view, known, (v, labels) = observe(40)
    found = learn(view, known)
    np.testing.assert_allclose(found.mean, v, atol=1e-4)
    self.assertEqual(accuracy(sparse.read_labels(found, view.h), labels), 1.0)
    self.assertEqual(found.mean.dtype, jnp.float32)
    self.assertFalse(jax.config.jax_enable_x64)

  def test_what_is_sparse_needs_fewer_equations(self):
    view, known, (_, labels) = observe(10)
    numbers = sum(g.size for g in jax.tree.leaves(view.param_grads))
    self.assertLess(numbers, 0.9 * ROWS * (CLASSES - 1))
    found = sparse.read_labels(learn(view, known), view.h)
    first = learn(view, known, rounds=1).mean
    other = solver.solve(KEY, view, known).y
    self.assertGreater(accuracy(found, labels), 0.9)
    self.assertGreater(accuracy(found, labels), accuracy(-first, labels) + 0.1)
    self.assertGreater(accuracy(found, labels), accuracy(other, labels) + 0.1)

  def test_a_round_is_linear_regression(self):
    view, known, _ = observe(10)
    # Coarse noise, for which float32's rounding of the Jacobian is nothing.
    with mock.patch.object(rounds, '_NOISE', 0.03):
      run = jax.jit(sparse.learn)
      found, second = (run(KEY, view, known, rounds=r) for r in (1, 2))
    rows, observed, _ = map(np.float64, matrix.build(view, known))
    own = np.float64(jax.nn.softmax(view.h))
    first = (own * (1 - own) + 1e-4).ravel()
    diagonal = (rows**2).sum(1)
    first *= (observed**2).sum() / (diagonal @ first)
    # The sum of each row is one more equation, of weight sums, observed as 0.
    sums = np.kron(np.eye(ROWS), np.ones((CLASSES, 1)))
    rows = np.hstack([rows, sums * np.sqrt(diagonal.mean() / CLASSES)])
    observed = np.concatenate([observed, np.zeros(ROWS)])
    inverse = np.linalg.inv(rows @ rows.T + np.diag(0.03**2 / first))
    mean = inverse @ rows @ observed
    np.testing.assert_allclose(found.mean.ravel(), mean, atol=1e-4)
    share = 1 - 0.03**2 * np.diag(inverse) / first
    error = np.ravel(found.share) - share
    self.assertLess(np.abs(error).mean(), 0.5 / np.sqrt(sparse._PROBES))
    self.assertLess(abs(error.mean()), 0.02)
    # The next one has the noise that is left, and half of EM's step and half
    # of MacKay's.
    share, squared = np.float64(found.share).ravel(), mean**2
    misfit = ((observed - mean @ rows)[:-ROWS] ** 2).sum()
    used = (np.abs(rows[:, :-ROWS]).max(0) > 0).sum()
    noise = (misfit + 0.03**2 * share.sum()) / used
    first = (squared + np.float64(found.variance).ravel()) / 2
    first += squared / share / 2
    inverse = np.linalg.inv(rows @ rows.T + np.diag(noise / first))
    mean = inverse @ rows @ observed
    np.testing.assert_allclose(second.mean.ravel(), mean, atol=2e-3)

  def test_rounds_make_the_gradient_likelier(self):
    view, known, _ = observe(10)
    rows, observed, _ = map(np.float64, matrix.build(view, known))
    values = []
    for number in (1, 4, 12):
      found = learn(view, known, number)
      variance = np.float64(found.variance / (1 - found.share)).ravel()
      noise = 1e-6 * np.eye(len(observed))
      covariance = (rows.T * variance) @ rows + noise
      zeros = np.zeros(len(observed))
      values.append(
        stats.multivariate_normal.logpdf(observed, zeros, covariance)
      )
    self.assertLess(values[0], values[1])
    self.assertLess(values[1], values[2])

  def test_order_of_the_batch_does_not_matter(self):
    view, known, (_, labels) = observe(10)
    order = np.random.default_rng(0).permutation(ROWS)
    moved = view._replace(x=view.x[order], h=view.h[order])
    found = sparse.read_labels(learn(moved, known), moved.h)
    self.assertGreater(accuracy(found, labels[order]), 0.9)

  def test_gradients_of_noise_and_of_nothing_are_finite(self):
    view, known, (_, labels) = observe(10)
    draw = lambda g: jax.random.normal(jax.random.key(g.size), g.shape)
    for change in (draw, jnp.zeros_like):
      grads = jax.tree.map(change, view.param_grads)
      found = learn(view._replace(param_grads=grads), known)
      self.assertTrue(np.isfinite(found.mean).all())
      scores = sparse.read_labels(found, jnp.zeros_like(view.h))
      self.assertTrue(np.isfinite(scores).all())
      # Chance and 4 sd.
      self.assertLess(accuracy(scores, labels), 0.2 + 4 * 0.041)

  def test_a_quick_look_is_enough_where_the_first_variances_are_good(self):
    view, known, (v, _) = observe(10)
    run = jax.jit(sparse.learn, static_argnames='quick')
    good = jnp.abs(v) + 1e-3
    quick = run(KEY, view, known, rounds=3, first=good, quick=True)
    blind = run(KEY, view, known, rounds=3, quick=True)
    self.assertEqual(quick.mean.dtype, jnp.float32)
    error = lambda found: np.abs(found.mean - v).mean()
    self.assertLess(error(quick), 0.4 * error(blind))
    # Half of the entries are looked at again; the others are taken for nothing.
    self.assertEqual((quick.mean != 0).sum(), quick.mean.size // 2)

  def test_rounding_that_makes_it_indefinite_is_given_more_noise(self):
    gram = jnp.diag(jnp.array([1.0, 1.0, -1e-4]))
    square = matrix.Square(gram, jnp.ones(3), jnp.ones(()), jnp.array(3))
    problem = rounds._Problem(
      gram, jnp.ones(3), jnp.zeros(()), square, jnp.ones((3, 1)), 1e-6
    )
    one = jnp.ones(3)
    mean, left, noise = rounds._solve(
      problem, jnp.array(1e-8), one, gram, one, jnp.ones((3, 1))
    )
    np.testing.assert_allclose(noise, 1e-3, rtol=1e-4)
    np.testing.assert_allclose(mean[:2], 1 / (1 + 1e-3), rtol=1e-5)
    self.assertTrue(np.isfinite(left).all())

  def test_in_float64_nothing_is_warned_of(self):
    view, known, _ = observe(10)
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      jax.jit(sparse.learn)(KEY, view, known, rounds=2)

  def test_views_side_by_side_are_read_as_one_by_one(self):
    views = [observe(10, seed=seed)[0] for seed in (0, 1)]
    known = observe(10)[1]
    infer = lambda view: attacks.load('linear.full').infer(KEY, view, known)
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *views)
    both = jax.jit(jax.vmap(infer))(stacked)
    for view, found in zip(views, both):
      alone = jax.jit(infer)(view)
      np.testing.assert_array_equal(found.argmax(1), alone.argmax(1))

  def test_too_large(self):
    view, known, _ = observe(10)
    wide = jnp.zeros((4096, CLASSES))
    with self.assertRaisesRegex(InputError, '20480 entries of S - Y'):
      sparse.learn(KEY, view._replace(h=wide), known)


class ReadLabelsTest(parameterized.TestCase):
  def _posterior(self, scores, share=0.5):
    scores = jnp.asarray(scores, jnp.float32)
    share = jnp.full_like(scores, share)
    # Its word alone is mean / share, of variance variance / share.
    return sparse.Posterior(scores * share, share, share, jnp.zeros(()))

  def test_it_is_the_odds_of_the_one_negative_entry(self):
    scores = np.array([[-1.0, 0.5, 0.0], [0.3, 2.0, -0.2]])
    negative = stats.norm.cdf(-scores)
    joint = np.stack(
      [
        negative[:, k] * np.delete(1 - negative, k, 1).prod(1) for k in range(3)
      ],
      1,
    )
    expected = joint / joint.sum(1, keepdims=True)
    even = jnp.zeros(scores.shape)
    found = sparse.read_labels(self._posterior(scores), even, even)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    prior = np.log([[0.7, 0.2, 0.1]])
    weighed = expected * np.exp(prior)
    found = sparse.read_labels(self._posterior(scores), even, jnp.array(prior))
    weighed /= weighed.sum(1, keepdims=True)
    np.testing.assert_allclose(found, weighed, rtol=1e-5)

  def test_where_equations_say_nothing_own_logits_speak(self):
    h = jax.random.normal(KEY, (20, 4))
    found = sparse.read_labels(self._posterior(np.zeros((20, 4))), h)
    np.testing.assert_allclose(found, jax.nn.softmax(h), atol=1e-4)

  def test_what_rows_say_corrects_the_logits_of_others(self):
    rng = np.random.default_rng(0)
    h, offset = rng.normal(size=(400, 4)), np.array([3.0, -3.0, 0.0, 0.0])
    labels = (2 * h + offset + rng.gumbel(size=h.shape)).argmax(1)
    scores = np.where(np.arange(4)[None] == labels[:, None], -6.0, 6.0)
    scores[200:] = 0
    h = jnp.asarray(h, jnp.float32)
    found = np.asarray(sparse.read_labels(self._posterior(scores), h))
    own = accuracy(h[200:], labels[200:])
    self.assertGreater(accuracy(found[200:], labels[200:]), own + 0.2)
    expected = jax.nn.softmax(2 * h + offset[None])[200:]
    self.assertLess(np.abs(found[200:] - expected).mean(), 0.05)


class FullTest(parameterized.TestCase):
  def _infer(self, name, view, known, **options):
    return jax.jit(attacks.load(name, **options).infer)(KEY, view, known)

  def test_a_trained_model_is_read_as_sparse(self):
    view, known, (_, labels) = observe(10)
    full = self._infer('linear.full', view, known)
    other = self._infer('linear.expectation_propagation', view, known)
    self.assertGreater(accuracy(full, labels), accuracy(other, labels) + 0.1)
    alone = self._infer('linear.sparse_bayesian', view, known)
    self.assertGreater(accuracy(alone, labels), 0.9)

  def test_what_labels_explain_is_left_to_them(self):
    view, known, (_, labels) = observe(10, scale=0.5, wrong=1.0)
    full = self._infer('linear.full', view, known)
    other = self._infer('linear.expectation_propagation', view, known)
    np.testing.assert_array_equal(full, other)
    self.assertGreater(accuracy(full, labels), 0.9)

  def test_a_large_gradient_that_stays_unexplained_is_no_trained_model(self):
    view, known, _ = observe(10)
    draw = lambda g: jax.random.normal(jax.random.key(g.size), g.shape)
    view = view._replace(param_grads=jax.tree.map(draw, view.param_grads))
    full = self._infer('linear.full', view, known)
    other = self._infer('linear.expectation_propagation', view, known)
    np.testing.assert_array_equal(full, other)

  def test_an_assumed_code_has_no_negative_entry_to_look_for(self):
    view, known, _ = observe(10)
    code = (dict(name='complement'),)
    full = self._infer('linear.full', view, known, code=code)
    other = self._infer(
      'linear.expectation_propagation', view, known, code=code
    )
    np.testing.assert_array_equal(full, other)

  def test_options_out_of_range(self):
    with self.assertRaisesRegex(InputError, 'rounds=0'):
      attacks.load('linear.sparse_bayesian', rounds=0)


if __name__ == '__main__':
  absltest.main()
