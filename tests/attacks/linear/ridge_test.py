"""Least squares of every layer's gradient."""

from absl.testing import absltest, parameterized
import jax
import numpy as np

from labelleak import attacks
from labelleak.base import InputError
from tests.attacks.linear.trained import (
  CLASSES,
  KEY,
  ROWS,
  accuracy,
  observe,
  send,
)


def _solve(view, known, **options):
  attack = attacks.load('linear.least_squares', **options)
  return -np.asarray(jax.jit(lambda v: attack.infer(KEY, v, known))(view))


def _draw(scale):
  u = scale * np.random.default_rng(1).normal(size=(ROWS, CLASSES))
  return u - u.mean(1, keepdims=True)


class LeastSquaresTest(parameterized.TestCase):
  def test_what_equations_determine_is_exact(self):
    view, known, (v, labels) = observe(40)
    found = _solve(view, known, ridge=1e-6, steps=300)
    np.testing.assert_allclose(found, v, atol=2e-2)
    wrong = v.argmin(1) != found.argmin(1)
    self.assertLess(np.abs(v[wrong]).max(), 1e-2)  # of rows that are sure
    self.assertGreater(accuracy(-found, labels), 0.8)

  def test_it_is_linear_and_a_ridge_draws_it_to_zero(self):
    view, known, _ = observe(10)
    u = _draw(1.0)
    one = _solve(send(view, known, u), known)
    three = _solve(send(view, known, 3 * u), known)
    np.testing.assert_allclose(three, 3 * one, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(one.sum(1), 0, atol=1e-5)
    small = _solve(send(view, known, u), known, ridge=100.0)
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
