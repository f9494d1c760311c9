"""Families for small images: sizes, shapes, laws of the initialisation."""

import functools
import math

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from labelleak import compilation, models
from labelleak.base import InputError

# Parameters for 32x32x3 and 100 classes, or 224x224x3 and 1000 (LLBG paper).
_CIFAR = (
  ('mlp.mlp', {}, 5_348_452),
  ('cnn.cnn', {}, 15_447_652),
  ('vgg.vgg11', {}, 9_277_284),
  ('vgg.vgg11', dict(head_bias=False), 9_277_184),
  ('vgg.vgg19', {}, 20_086_692),
  ('resnet.resnet32', {}, 472_756),
  ('resnet.resnet32_10', {}, 46_429_060),
)
_IMAGENET = (
  ('vgg.vgg19', dict(form='imagenet'), 143_667_240),
  ('resnet.resnet50', {}, 25_557_032),
)
# Narrow members of each family, small enough to run.
_SMALL = (
  ('mlp.mlp', dict(width=32)),
  ('cnn.cnn', dict(width=8)),
  ('vgg.vgg11', {}),
  ('resnet.resnet20', dict(width=4)),
)


def _shapes(model, size):
  x = jnp.zeros((2, size, size, 3))
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  return variables, jax.eval_shape(model.apply, variables, x)


def _images(num, size=32, seed=0):
  return jax.random.normal(jax.random.key(seed), (num, size, size, 3))


@functools.cache
def _untrained(name):
  """(model, variables) for 32x32x3 and 100 classes."""
  model = models.load(name, num_classes=100)
  return model, model.init(jax.random.key(0), _images(1))


def _draw(model, size=32):
  """Some variables of the right shapes, without compiling the initialiser."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), _images(1, size))
  draw = lambda s: (
    np.abs(rng.normal(size=s.shape)).astype(np.float32)
    * (rng.choice((-0.1, 0.1), s.shape) if len(s.shape) > 1 else 1)
  )
  return jax.tree.map(lambda s: draw(s).astype(np.float32), shapes)


def _entropy(logits):
  """Bits in the mean softmax of logits [B, K]."""
  p = np.asarray(jax.nn.softmax(logits), np.float64).mean(0)
  return -(p * np.log2(np.maximum(p, 1e-300))).sum()


class SizeTest(parameterized.TestCase):
  @parameterized.parameters(*_CIFAR)
  def test_published_count_at_32(self, name, hyper, count):
    self._check(name, hyper, count, num_classes=100, size=32)

  @parameterized.parameters(*_IMAGENET)
  def test_published_count_at_224(self, name, hyper, count):
    self._check(name, hyper, count, num_classes=1000, size=224)

  def _check(self, name, hyper, count, num_classes, size):
    model = models.load(name, num_classes=num_classes, **hyper)
    variables, logits = _shapes(model, size)
    self.assertEqual(logits.shape, (2, num_classes))
    sizes = [leaf.size for leaf in jax.tree.leaves(variables['params'])]
    self.assertEqual(sum(sizes), count)
    self.assertEqual(
      variables['params']['head']['kernel'].shape[1], num_classes
    )

  @parameterized.parameters(
    ('vgg.vgg11', dict(form='imagenet'), 64),  # pooled up to 7x7
    ('vgg.vgg19', dict(form='imagenet'), 256),  # and down
    ('resnet.resnet50', {}, 64),
    ('resnet.resnet20', {}, 28),
    ('cnn.cnn', {}, 28),
  )
  def test_other_image_sizes(self, name, hyper, size):
    model = models.load(name, num_classes=7, **hyper)
    self.assertEqual(_shapes(model, size)[1].shape, (2, 7))

  @parameterized.parameters(
    ('mlp.mlp', dict(activation='gelu')), ('vgg.vgg19', dict(form='mnist'))
  )
  def test_refuses_unknown_options(self, name, hyper):
    with self.assertRaisesRegex(InputError, 'is unknown; use'):
      models.load(name, num_classes=10, **hyper)


class InitTest(parameterized.TestCase):
  """A wrong law moves these statistics by far more than their tolerance."""

  def test_compiled_in_haste_it_is_the_same(self):
    model = models.load('mlp.mlp', num_classes=10, width=32)
    found, plain = (
      compiled(model.init)(jax.random.key(1), _images(1))
      for compiled in (compilation.jit_once, jax.jit)
    )
    chex.assert_trees_all_close(found, plain, rtol=1e-6, atol=1e-7)
    init = compilation.jit_once(model.init)
    shapes = jax.eval_shape(lambda: init(jax.random.key(1), _images(1)))
    chex.assert_trees_all_equal_shapes(shapes, found)

  def test_mlp_is_torch_default(self):
    params = _untrained('mlp.mlp')[1]['params']
    for name, fan_in in (('linear0', 3072), ('linear1', 1024), ('head', 1024)):
      for leaf in ('kernel', 'bias'):
        draws = np.asarray(params[name][leaf])
        bound = fan_in**-0.5
        self.assertLessEqual(np.abs(draws).max(), bound)
        se = 0.9 / math.sqrt(draws.size)  # of a uniform law's variance
        np.testing.assert_allclose(draws.var() / (bound**2 / 3), 1, atol=4 * se)

  def test_vgg_is_kaiming_with_a_normal_head(self):
    _, variables = _untrained('vgg.vgg11')
    params = variables['params']
    self.assertAlmostEqual(
      float(params['features_4']['kernel'].std()),
      (2 / (128 * 9)) ** 0.5,
      delta=5e-4,
    )
    self.assertAlmostEqual(
      float(params['head']['kernel'].std()), 0.01, delta=3e-4
    )
    for name in ('features_4', 'head'):
      self.assertEqual(float(jnp.abs(params[name]['bias']).max()), 0)
    np.testing.assert_array_equal(params['features_5']['scale'], 1)
    np.testing.assert_array_equal(
      variables['batch_stats']['features_5']['var'], 1
    )

  def test_resnet_projects_where_the_shape_changes(self):
    params = _untrained('resnet.resnet32')[1]['params']
    projected = {k for k, v in params.items() if 'downsample_0' in v}
    self.assertEqual(projected, {'layer2_0', 'layer3_0'})
    block = params['layer3_0']
    self.assertNotIn('bias', block['conv1'])
    np.testing.assert_array_equal(block['bn2']['scale'], 1)
    self.assertAlmostEqual(
      float(block['conv1']['kernel'].std()), (2 / (64 * 9)) ** 0.5, delta=1e-3
    )
    self.assertGreater(float(jnp.abs(params['head']['bias']).max()), 0)

  @pytest.mark.slow
  def test_untrained_softmax_uniform_but_in_residual_networks(self):
    """LLBG paper, Section 6.1: log2(K) bits in most, .89 in ResNet-32-10.

    There untrained batch norm does nothing, so that every residual sum adds to
    the variance of the logits, whatever the width.
    """
    bits = {}
    for name in ('mlp.mlp', 'vgg.vgg11', 'resnet.resnet32'):
      model, variables = _untrained(name)
      bits[name] = _entropy(jax.jit(model.apply)(variables, _images(16)))
    self.assertGreater(bits['mlp.mlp'], 0.99 * math.log2(100))
    self.assertGreater(bits['vgg.vgg11'], 0.99 * math.log2(100))
    self.assertLess(bits['resnet.resnet32'], 2)


class EvaluationTest(parameterized.TestCase):
  @parameterized.parameters(*_SMALL)
  def test_rows_do_not_see_each_other(self, name, hyper):
    model = models.load(name, num_classes=10, **hyper)
    variables, x = _draw(model), _images(4)
    apply = jax.jit(model.apply)
    logits = apply(variables, x)
    other = apply(variables, x.at[1:].multiply(5.0))
    np.testing.assert_allclose(
      other[0], logits[0], rtol=1e-4, atol=1e-4 * float(jnp.abs(logits).max())
    )
    self.assertGreater(float(jnp.abs(other[1] - logits[1]).max()), 0)

  def test_train_mode_moves_the_statistics_by_torch_momentum(self):
    model = models.load('resnet.resnet20', num_classes=10, width=4)
    variables, x = _draw(model), _images(8)
    logits, moved = jax.jit(
      lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats'])
    )(variables, x)
    self.assertEqual(logits.shape, (8, 10))
    kernel = variables['params']['conv1']['kernel']
    stem = jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    np.testing.assert_allclose(
      moved['batch_stats']['bn1']['mean'],
      0.9 * variables['batch_stats']['bn1']['mean']
      + 0.1 * stem.mean((0, 1, 2)),
      rtol=1e-3,
      atol=1e-6,
    )

  @parameterized.parameters(
    ('relu', lambda z: np.maximum(z, 0)),
    ('leaky', lambda z: np.where(z > 0, z, 0.01 * z)),
    ('sigmoid', lambda z: 1 / (1 + np.exp(-z))),
    ('tanh', np.tanh),
  )
  def test_mlp_activation_acts_on_the_last_hidden_layer(self, name, act):
    model = models.load('mlp.mlp', num_classes=10, width=16, activation=name)
    variables, x = _draw(model, 8), _images(4, 8)
    p = jax.tree.map(np.asarray, variables['params'])
    dense = lambda n, h: h @ p[n]['kernel'] + p[n]['bias'][None]
    h = np.asarray(x).transpose(0, 3, 1, 2).reshape(4, -1)
    h = np.maximum(dense('linear0', h), 0)
    h = np.maximum(dense('linear1', h), 0)
    want = dense('head', act(dense('linear2', h)))
    np.testing.assert_allclose(model.apply(variables, x), want, atol=1e-5)


@pytest.mark.torch
class TorchTest(parameterized.TestCase):
  """Weights of a torch twin, converted, give torch's logits and gradients."""

  @parameterized.parameters(
    ('mlp.mlp', 'Mlp', (10,), {}),
    ('cnn.cnn', 'Cnn', (10, 16), dict(width=16)),
    ('vgg.vgg11', 'Vgg', (11, 10), {}),
    ('resnet.resnet20', 'ResNet', (3, 10, 8), dict(width=8)),
  )
  def test_logits_and_gradients(self, name, twin_name, args, hyper):
    torch = pytest.importorskip('torch', reason='needs torch==2.13.0')
    from labelleak.models import weights
    from tests.twins import cifar

    torch.manual_seed(0)
    twin = cifar.randomise_statistics(getattr(cifar, twin_name)(*args))
    path = self.create_tempfile('twin.npz').full_path
    np.savez(path, **{k: v.numpy() for k, v in twin.state_dict().items()})
    model = models.load(name, num_classes=10, **hyper)
    x = _images(4)
    variables = weights.load(
      path, jax.eval_shape(model.init, jax.random.key(0), x)
    )
    loss = lambda v, x: (jax.nn.log_softmax(model.apply(v, x))[:, 3]).mean()
    logits = jax.jit(model.apply)(variables, x)
    grads, x_grad = jax.jit(jax.grad(loss, (0, 1)))(variables, x)
    x_torch = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2).copy())
    x_torch.requires_grad_()
    want = twin(x_torch)
    torch.log_softmax(want, 1)[:, 3].mean().backward()
    pairs = [
      (logits, want.detach().numpy()),
      (x_grad, x_torch.grad.numpy().transpose(0, 2, 3, 1)),
      (grads['params']['head']['bias'], list(twin.parameters())[-1].grad),
    ]
    for got, expected in pairs:
      np.testing.assert_allclose(
        got,
        expected,
        rtol=1e-3,
        atol=1e-4 * float(np.abs(np.asarray(expected)).max()),
      )


if __name__ == '__main__':
  absltest.main()
