"""Least squares of every layer's gradient."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import attacks
from labelleak.attacks.linear import ridge
from labelleak.base import InputError
from tests.attacks.linear.trained import CLASSES, KEY, ROWS, accuracy, observe


def _solve(view, known, **options):
  run = jax.jit(lambda v: ridge.solve(KEY, v, known, **options))
  return jax.tree.map(np.asarray, run(view))


def _send(view, known, u):
  """Returns the view of a step of cut gradients u [B, K] of the batch's sum."""
  _, pull = jax.vjp(
    lambda p: known.bottom({'params': p}, view.x, view.key),
    view.variables['params'],
  )
  return view._replace(param_grads=pull(jnp.float32(u) / ROWS)[0])


def _draw(scale):
  u = scale * np.random.default_rng(1).normal(size=(ROWS, CLASSES))
  return u - u.mean(1, keepdims=True)


class LeastSquaresTest(parameterized.TestCase):
  def test_what_equations_determine_is_exact(self):
    view, known, (v, labels) = observe(40)
    found = _solve(view, known, ridge=1e-6, steps=300)
    np.testing.assert_allclose(found.u, v, atol=2e-2)
    wrong = v.argmin(1) != found.u.argmin(1)
    self.assertLess(np.abs(v[wrong]).max(), 1e-2)  # of rows that are sure
    attack = attacks.load('linear.least_squares', ridge=1e-6, steps=300)
    scores = jax.jit(attack.infer)(KEY, view, known)
    np.testing.assert_allclose(scores, -found.u, atol=1e-6)
    self.assertGreater(accuracy(scores, labels), 0.8)

  @parameterized.parameters(0.1, 1.0, 10.0)
  def test_the_variance_is_that_of_what_was_sent(self, scale):
    view, known, _ = observe(40)
    u = _draw(scale)
    found = _solve(_send(view, known, u), known)
    self.assertBetween(found.variance / u.var(), 0.7, 1.4)

  def test_it_is_linear_and_a_ridge_draws_it_to_zero(self):
    view, known, _ = observe(10)
    u = _draw(1.0)
    one = _solve(_send(view, known, u), known).u
    three = _solve(_send(view, known, 3 * u), known).u
    np.testing.assert_allclose(three, 3 * one, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(one.sum(1), 0, atol=1e-5)
    small = _solve(_send(view, known, u), known, ridge=100.0).u
    self.assertLess(np.abs(small).mean(), 0.2 * np.abs(one).mean())
    # Fewer equations than unknowns: what is found is a part of what was sent.
    self.assertGreater(np.corrcoef(one.ravel(), u.ravel())[0, 1], 0.5)

  def test_options_out_of_range(self):
    for options in (dict(ridge=0.0), dict(steps=0), dict(ridge=np.nan)):
      (name,) = options
      with self.assertRaisesRegex(InputError, name):
        attacks.load('linear.least_squares', **options)


if __name__ == '__main__':
  absltest.main()
