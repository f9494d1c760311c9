"""Models, loss and splits of Fu et al.: published sizes, laws, closed forms."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from labelleak import metrics, models, registry, vfl
from labelleak.base import InputError
from labelleak.metrics import significance
from labelleak.models import mlp

_RESNET = dict(shortcut='pad', init='fan_in')
_CRITEO = dict(widths=(8, 4), batch_norm=False)
_CANCER = dict(widths=(20, 20), batch_norm=True)


def _count(name, shape, **options):
  model = models.load(name, **options)
  x = jnp.zeros((2, *shape))
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  return sum(a.size for a in jax.tree.leaves(variables['params']))


class SizeTest(parameterized.TestCase):
  @parameterized.parameters(
    ('resnet.resnet20', (32, 16, 3), 10, _RESNET, 269_722),
    ('resnet.resnet20', (32, 16, 3), 100, _RESNET, 275_572),
    ('resnet.resnet20', (50, 50, 3), 5, _RESNET, 269_397),
    ('resnet.resnet56', (64, 32, 3), 200, _RESNET, 865_368),
    ('mlp.bn_mlp', (20,), 10, {}, 970),
    ('mlp.bn_mlp', (200,), 100, dict(widths=(200, 100, 100)), 81_700),
    ('mlp.bn_mlp', (400,), 200, dict(widths=(400, 200)), 282_800),
    ('mlp.bn_mlp', (10,), 2, dict(widths=(10, 10, 10)), 432),
    ('mlp.bn_mlp', (8,), 2, _CRITEO, 118),
    ('mlp.bn_mlp', (4,), 2, dict(widths=(4,)), 46),
    ('mlp.fcnn', (4096,), 4, {}, 263_316),
    ('mlp.fcnn', (14,), 2, _CANCER, 842),
  )
  def test_published_counts(self, name, shape, num_classes, options, count):
    found = _count(name, shape, num_classes=num_classes, **options)
    self.assertEqual(found, count)

  def test_a_width_of_none_is_that_of_the_embeddings(self):
    net = mlp.BnMlp((None, 3), False)
    for batch in (2, 5):
      shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.ones((batch, 7)))
      kernels = [d['kernel'].shape for d in shapes['params'].values()]
      self.assertEqual(kernels, [(7, 3), (7, 7)])  # head, linear0


class InitTest(parameterized.TestCase):
  def test_resnets_are_he_normal_over_fan_in(self):
    model = models.load('resnet.resnet20', num_classes=10, **_RESNET)
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
    for layer, fan in (
      (params['layer2_0']['conv1'], 9 * 16),  # 16 -> 32 channels
      (params['layer3_1']['conv2'], 9 * 64),
      (params['head'], 64),
    ):
      kernel = np.asarray(layer['kernel'])
      std, error = (2 / fan) ** 0.5, 4 / (2 * kernel.size) ** 0.5
      self.assertAlmostEqual(kernel.std() / std, 1, delta=error)
      self.assertGreater(np.abs(kernel).max(), 2.2 * std)  # not truncated

  def test_criteo_is_torch_and_cancer_is_he(self):
    for options, shape, bound in (({}, 4096, 1 / 64), (_CANCER, 14, None)):
      model = models.load('mlp.fcnn', num_classes=4, **options)
      params = model.init(jax.random.key(0), jnp.zeros((1, shape)))['params']
      kernel = np.asarray(params['linear0']['kernel'])
      if bound:
        self.assertBetween(np.abs(kernel).max(), 0.99 * bound, bound)
      else:
        self.assertAlmostEqual(kernel.std(), (2 / shape) ** 0.5, delta=0.05)
      self.assertGreater(np.abs(params['linear0']['bias']).max(), 0)

  def test_unknown_init(self):
    with self.assertRaisesRegex(InputError, "init='he' is unknown"):
      models.load('resnet.resnet56', num_classes=2, init='he')


class LossTest(parameterized.TestCase):
  @parameterized.parameters(1.0, 0.01)
  def test_a_weighted_mean_is_over_the_weights(self, scale):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 2)).astype(np.float32)
    labels = np.array([0, 1, 1, 0, 0, 1])
    mask = np.array([1, 1, 1, 1, 0, 0], np.float32)
    weights = np.array([0.3, 1.0]) * scale
    loss = vfl.cross_entropy(class_weights=tuple(weights)).mean
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    losses = -np.log(p[np.arange(6), labels])
    w = weights[labels] * mask
    y = np.eye(2, dtype=np.float32)[labels]
    np.testing.assert_allclose(
      loss(logits, y, mask), (w * losses).sum() / w.sum(), rtol=1e-5
    )

  def test_equal_weights_change_nothing(self):
    logits = jax.random.normal(jax.random.key(0), (5, 3))
    y, mask = jnp.eye(3)[jnp.array([0, 1, 2, 0, 1])], jnp.ones(5)
    np.testing.assert_allclose(
      vfl.cross_entropy(class_weights=(0.2,) * 3).mean(logits, y, mask),
      vfl.cross_entropy().mean(logits, y, mask),
      rtol=1e-6,
    )

  @pytest.mark.torch
  def test_it_is_that_of_torch(self):
    torch = pytest.importorskip('torch')
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(9, 3)).astype(np.float32)
    labels = rng.integers(3, size=9)
    weights = (0.3, 1.0, 0.4)
    expected = torch.nn.functional.cross_entropy(
      torch.from_numpy(logits),
      torch.from_numpy(labels),
      weight=torch.tensor(weights),
    )
    ours = vfl.cross_entropy(class_weights=weights).mean(
      logits, np.eye(3, dtype=np.float32)[labels], np.ones(9, np.float32)
    )
    np.testing.assert_allclose(ours, expected.item(), rtol=1e-5)


class F1Test(parameterized.TestCase):
  def test_it_is_that_of_scikit_learn(self):
    from sklearn import metrics as oracle

    rng = np.random.default_rng(0)
    for share in (0.2, 0.5, 0.9):
      y = rng.random(50) < share
      scores = rng.normal(size=(50, 2)).astype(np.float32)
      found = metrics.f1(jnp.asarray(scores), jnp.eye(2)[y.astype(int)])
      expected = oracle.f1_score(y, scores.argmax(1) == 1)
      self.assertAlmostEqual(float(found), expected, places=5)

  def test_limits(self):
    y = jnp.eye(2)[jnp.array([0, 1, 1])]
    self.assertEqual(float(metrics.f1(y, y)), 1.0)
    self.assertEqual(float(metrics.f1(1 - y, y)), 0.0)
    nobody = jnp.eye(2)[jnp.zeros(3, int)]
    self.assertEqual(float(metrics.f1(nobody, nobody)), 0.0)
    with self.assertRaisesRegex(InputError, 'f1 of 3 classes'):
      metrics.f1(jnp.eye(3), jnp.eye(3))


class ChosenTest(parameterized.TestCase):
  def test_columns_by_number(self):
    split = registry.load(
      'data', 'splits.assignment', shape=(6,), columns=((4, 1), (0, 2, 5))
    )
    x = np.arange(12.0).reshape(2, 6)
    one, other = split(x)
    np.testing.assert_array_equal(one, x[:, [4, 1]])
    np.testing.assert_array_equal(other, x[:, [0, 2, 5]])

  @parameterized.parameters(
    ((((0, 1), (1, 2)),)),
    ((((0, 1),),)),
    ((((0, 1), ()),)),
    ((((0, 1), (6,)),)),
  )
  def test_what_does_not_fit(self, columns):
    with self.assertRaisesRegex(InputError, 'different columns 0 to 5'):
      registry.load('data', 'splits.assignment', shape=(6,), columns=columns)


class GainTest(parameterized.TestCase):
  @parameterized.parameters(
    ([0.18, 0.22, 0.2], 'gain'),
    ([-0.18, -0.22, -0.2], 'loss'),
    ([0.1, -0.3, 0.3], 'not told from 0'),
    ([0.2], 'not told from 0'),
  )
  def test_verdict(self, values, verdict):
    self.assertEqual(significance.gain(values)['verdict'], verdict)

  def test_the_interval_covers_the_mean_as_often_as_it_says(self):
    """Normal differences, 5 seeds: 95 % of intervals hold the mean."""
    draws = np.random.default_rng(0).normal(0.5, 1.0, (800, 5))
    held = [g['low'] <= 0.5 <= g['high'] for g in map(significance.gain, draws)]
    self.assertAlmostEqual(np.mean(held), 0.95, delta=4 * 0.0077)


if __name__ == '__main__':
  absltest.main()
