"""Directions of sealed equations: what was sent, along each of them."""

from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak.attacks.linear import directions, matrix
from labelleak.base import InputError
from tests.attacks.linear.trained import (
  CLASSES,
  ROWS,
  Normed,
  observe,
  send,
)


def _read(view, known):
  return directions.make_read('x', known)(view)


def _along(found, u):
  return np.einsum('nkr,nk->r', found.vectors, u)


class DirectionsTest(parameterized.TestCase):
  # Of a width of 40 there are fewer unknowns than equations, of 4 more.
  @parameterized.parameters(4, 40)
  def test_labels_are_seen_through_rows_that_sum_to_zero(self, width):
    view, known, (v, _) = observe(width)
    found = _read(view, known)
    np.testing.assert_allclose(found.vectors.sum(1), 0, atol=1e-4)
    np.testing.assert_allclose(found.observed, _along(found, v), atol=2e-3)
    flat = found.vectors.reshape(-1, len(found.observed))
    gram = flat.T @ flat
    self.assertLess(np.abs(gram - np.diag(np.diag(gram))).max(), 1e-4)
    self.assertLessEqual(np.diag(gram).max(), 1 + 1e-5)
    of_v = np.square(_along(found, v)).mean()
    self.assertBetween(found.variance / of_v, 0.8, 1.25)

  @parameterized.parameters(4, 40)
  def test_noise_is_seen_whose_rows_need_not(self, width):
    view, known, (v, _) = observe(width)
    noise = 3 * np.random.default_rng(1).normal(size=v.shape)
    found = _read(send(view, known, v + noise), known)
    self.assertGreater(np.abs(found.vectors.sum(1)).max(), 0.05)
    sent = _along(found, v + noise)
    np.testing.assert_allclose(found.observed, sent, atol=2e-2)
    self.assertBetween(found.variance / (9 + v.var()), 0.7, 1.3)
    centred = noise - noise.mean(1, keepdims=True)
    found = _read(send(view, known, v + centred), known)
    np.testing.assert_allclose(found.vectors.sum(1), 0, atol=1e-4)

  def test_rounding_shortens_directions(self):
    view, known, (v, _) = observe(40)
    clean = _read(view, known)
    rng = np.random.default_rng(2)
    coarse = jax.tree.map(
      lambda g: g + 0.3 * g.std() * np.float32(rng.normal(size=g.shape)),
      view.param_grads,
    )
    found = _read(view._replace(param_grads=coarse), known)
    length = lambda d: np.square(d.vectors).sum()
    self.assertLess(length(found), 0.95 * length(clean))
    # What is kept is noise of one variance, beside what was sent.
    error = found.observed - _along(found, v)
    self.assertLess(error.var(), found.variance)

  def test_of_a_scaled_step_only_numbers_change(self):
    view, known, _ = observe(10)
    small = jax.tree.map(lambda g: 1e-6 * g, view.param_grads)
    one, other = (
      _read(view, known),
      _read(view._replace(param_grads=small), known),
    )
    self.assertEqual(one.vectors.shape, other.vectors.shape)
    np.testing.assert_allclose(
      1e6 * np.abs(other.observed), np.abs(one.observed), rtol=0.05, atol=0.02
    )
    np.testing.assert_allclose(1e12 * other.variance, one.variance, rtol=0.06)

  def test_a_step_without_gradients_says_nothing(self):
    view, known, _ = observe(10)
    nothing = jax.tree.map(jnp.zeros_like, view.param_grads)
    self.assertIsNone(_read(view._replace(param_grads=nothing), known))

  def test_padding_passes_the_model_and_sends_nothing(self):
    view, known, (v, _) = observe(10, module=Normed())
    real = np.arange(ROWS) < 70
    sent = np.where(real[:, None], v, 0.0)
    view = send(view, known, sent * ROWS / real.sum())
    view = view._replace(index=np.where(real, np.arange(ROWS), -1))
    found = _read(view, known)
    self.assertLen(found.vectors, 70)
    np.testing.assert_allclose(
      found.observed, _along(found, v[real]), atol=1e-2
    )

  def test_a_layer_without_gradient_leaves_the_others(self):
    view, known, _ = observe(40)
    grads = dict(view.param_grads)
    grads['linear0'] = jax.tree.map(jnp.zeros_like, grads['linear0'])
    system = jax.jit(lambda v: matrix.build(v, known))(
      view._replace(param_grads=grads)
    )
    self.assertTrue(np.isfinite(system.rows).all())
    power = np.square(np.asarray(system.rows, float)).sum(0)
    self.assertLess(power.max() / np.median(power), 1e25)
    self.assertIsNotNone(_read(view._replace(param_grads=grads), known))

  def test_equations_that_nothing_moves_say_nothing(self):
    self.assertIsNone(directions._decompose(np.zeros((4, 3, 0)), np.zeros(0)))
    self.assertIsNone(directions._decompose(np.zeros((4, 3, 2)), np.ones(2)))

  def test_refuses_more_than_it_decomposes(self):
    view, known, _ = observe(10)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(view.param_grads))
    with mock.patch.object(directions, 'MOST', numbers):
      self.assertIsNotNone(_read(view, known))
    for field, most in (('MOST', numbers - 1), ('_NUMBERS', ROWS * CLASSES)):
      with (
        mock.patch.object(directions, field, most),
        self.assertRaisesRegex(InputError, 'Use history.classifier'),
      ):
        _read(view, known)


if __name__ == '__main__':
  absltest.main()
