"""Reliance and Grad-CAM of models whose answer is known."""

import functools

from absl.testing import absltest, parameterized
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import vfl
from labelleak.base import InputError
from labelleak.metrics import attribution


def _one_hot(rng, num, num_classes=3):
  return np.eye(num_classes, dtype=np.float32)[
    rng.integers(num_classes, size=num)
  ]


class RelianceTest(parameterized.TestCase):
  @parameterized.parameters(
    ((1.0, 0.0), (1.0, 0.0)),
    ((0.0, 1.0), (0.0, 1.0)),
    ((1.0, 1.0), (0.5, 0.5)),
    ((9.0, 0.1), (1.0, 0.0)),
  )
  def test_weights_decide(self, weights, shares):
    y = _one_hot(np.random.default_rng(0), 600)
    predict = lambda xs: sum(w * x for w, x in zip(weights, xs))
    found = attribution.reliance(jax.random.key(0), predict, (y, y), y)
    np.testing.assert_allclose(found, shares, atol=1e-6)

  def test_each_party_in_turn_has_its_rows_shuffled(self):
    xs = [jnp.arange(8.0)[:, None] + 10 * p for p in range(3)]
    met = []

    def predict(parts):
      met.append([np.asarray(part) for part in parts])
      return jnp.tile(jnp.eye(2)[:1], (8, 1))

    y = jnp.tile(jnp.eye(2)[:1], (8, 1))
    attribution.reliance(jax.random.key(0), predict, xs, y)
    self.assertLen(met, 4)
    for turn, parts in enumerate(met, -1):
      self.assertLen(parts, 3)
      for p, (part, x) in enumerate(zip(parts, xs)):
        np.testing.assert_array_equal(np.sort(part, 0), x)
        self.assertEqual(bool((part == x).all()), p != turn)

  def test_who_has_learned_nothing_relies_on_nobody(self):
    y = _one_hot(np.random.default_rng(0), 60)
    predict = lambda xs: jnp.zeros_like(xs[0])
    found = attribution.reliance(jax.random.key(0), predict, (y, y), y)
    np.testing.assert_array_equal(found, 0)


class _Sum(nn.Module):
  """A 1x1 convolution and the mean over space: logits."""

  features: int

  @nn.compact
  def __call__(self, x, train=False):
    return nn.Conv(self.features, (1, 1), name='conv1')(x).mean((1, 2))


class GradcamTest(parameterized.TestCase):
  def _joint(self, model, xs):
    party = vfl.party(model, optax.sgd(0.1))
    links = (vfl.link(),) * len(xs)
    protocol = vfl.protocol((party,) * len(xs), None, links)
    state = protocol.init(jax.random.key(0), xs)
    return state, protocol.predict

  def test_closed_form(self):
    """d log p_k / dA of a mean of maps is (onehot_k - p) / (H W)."""
    rng = np.random.default_rng(0)
    xs = tuple(rng.normal(size=(4, 3, w, 2)).astype(np.float32) for w in (2, 5))
    state, predict = self._joint(_Sum(3), xs)
    p = np.asarray(predict(state, xs))
    force = np.eye(3)[p.argmax(1)] - p
    maps = []
    for x, variables in zip(xs, state.variables):
      conv = variables['params']['conv1']
      a = x @ np.asarray(conv['kernel'])[0, 0] + np.asarray(conv['bias'])
      weight = force / (x.shape[1] * x.shape[2])
      maps.append((weight[:, None, None] * a).sum(-1))
    expected = np.maximum(np.concatenate(maps, 2), 0)
    expected -= expected.min((1, 2), keepdims=True)
    expected /= expected.max((1, 2), keepdims=True)
    found = attribution.gradcam(functools.partial(predict, state), xs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

  def test_a_party_without_weights_is_not_looked_at(self):
    xs = tuple(
      jax.random.normal(key, (3, 8, 8, 3))
      for key in jax.random.split(jax.random.key(0))
    )
    state, predict = self._joint(_Sum(4), xs)
    blind = jax.tree.map(jnp.zeros_like, state.variables[0])
    state = state._replace(variables=(blind, state.variables[1]))
    found = attribution.gradcam(functools.partial(predict, state), xs)
    self.assertEqual(found.shape, (3, 8, 16))
    self.assertEqual(float(jnp.abs(found[:, :, :8]).max()), 0)
    self.assertGreater(float(found[:, :, 8:].std()), 0.01)
    np.testing.assert_allclose(found.max((1, 2)), 1.0, rtol=1e-5)

  def test_a_layer_that_is_not_there(self):
    xs = (jnp.zeros((2, 4, 4, 1)),) * 2
    state, predict = self._joint(_Sum(3), xs)
    with self.assertRaisesRegex(InputError, "'conv9' was met 0 times in 2"):
      attribution.gradcam(functools.partial(predict, state), xs, layer='conv9')


if __name__ == '__main__':
  absltest.main()
