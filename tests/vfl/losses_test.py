"""Losses of the active party beside PyTorch, closed forms and each other."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from labelleak import registry, vfl
from labelleak.base import InputError


def _draw(width, num_classes, size=7):
  rng = np.random.default_rng(3)
  logits = rng.normal(size=(size, width)).astype(np.float32)
  labels = rng.integers(num_classes, size=size)
  mask = (np.arange(size) < size - 2).astype(np.float32)
  return logits, labels, np.eye(num_classes, dtype=np.float32)[labels], mask


class LossesTest(parameterized.TestCase):
  @pytest.mark.torch
  def test_sigmoid_is_that_of_torch(self):
    torch = pytest.importorskip('torch')
    for width, num_classes in ((1, 2), (4, 4)):
      logits, _, y, mask = _draw(width, num_classes)
      target = y[:, 1:] if width == 1 else y
      expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits[:-2]),
        torch.from_numpy(target[:-2]),
        reduction='sum',
      )
      found = vfl.sigmoid().mean(logits, y, mask)
      np.testing.assert_allclose(found, expected.item() / 5, rtol=1e-5)

  def test_the_gradient_of_taylor_is_that_of_fate(self):
    """d = .25 z - .5 y of y in {-1, 1}, over B; nothing of padding."""
    logits, labels, y, mask = _draw(1, 2)
    found = jax.grad(vfl.taylor().mean)(logits, y, mask)[:, 0]
    d = 0.25 * logits[:, 0] - 0.5 * (2 * labels - 1)
    np.testing.assert_allclose(found, d * mask / 5, atol=1e-6)

  def test_taylor_is_sigmoid_to_second_order(self):
    y = jnp.eye(2)[jnp.array([0, 1])]
    for scale in (0.1, 0.05):
      z = jnp.array([[scale], [-scale]])
      gap = vfl.sigmoid().rows(z, y) - vfl.taylor().rows(z, y)
      # Exactly z^4 / 192 and higher.
      self.assertLess(jnp.abs(gap).max(), scale**4 / 192 + 3e-7)

  def test_one_logit_is_two_of_softmax(self):
    logits, _, y, mask = _draw(1, 2)
    both = np.concatenate([-logits / 2, logits / 2], 1)
    one, two = vfl.sigmoid(), vfl.cross_entropy()
    np.testing.assert_allclose(
      one.mean(logits, y, mask), two.mean(both, y, mask), rtol=1e-5
    )
    np.testing.assert_allclose(
      one.predict(logits), two.predict(both), rtol=1e-5
    )

  @parameterized.parameters('cross_entropy', 'sigmoid', 'taylor')
  def test_predictions_are_probabilities(self, name):
    loss = registry.load('vfl', name)
    for num_classes in (2, 3):
      width = loss.width(num_classes)
      p = loss.predict(_draw(width, num_classes)[0])
      self.assertEqual(p.shape, (7, num_classes))
      np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)

  def test_widths(self):
    widths = {
      name: [registry.load('vfl', name).width(k) for k in (2, 3)]
      for name in ('cross_entropy', 'sigmoid', 'taylor')
    }
    self.assertEqual(
      widths, dict(cross_entropy=[2, 3], sigmoid=[1, 3], taylor=[1, 3])
    )

  def test_weights_are_of_cross_entropy_alone(self):
    with self.assertRaisesRegex(InputError, "takes no 'class_weights'"):
      registry.load('vfl', 'sigmoid', class_weights=(1.0, 2.0))
    with self.assertRaisesRegex(InputError, 'must all be positive'):
      vfl.cross_entropy(class_weights=(1.0, 0.0))


if __name__ == '__main__':
  absltest.main()
