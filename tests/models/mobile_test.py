"""EfficientNet, MNASNet, ShuffleNet: sizes, modes, initialisation, gradient."""

import math

import chex
from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from labelleak import compilation, models

COUNTS = {
  'efficientnet.b0': 5_288_548,
  'mnasnet.mnasnet': 4_383_312,
  'shufflenet.shufflenet_v2': 2_278_604,
}
# U(+-bound) of the head's kernel: torchvision's, by (H, K).
HEAD_BOUNDS = {
  'efficientnet.b0': lambda h, k: 1 / math.sqrt(k),
  'mnasnet.mnasnet': lambda h, k: math.sqrt(3 / k),
  'shufflenet.shufflenet_v2': lambda h, k: 1 / math.sqrt(h),
}


def _slow_but(name):
  """The family at hand by default; the other two compile for a minute."""
  return [
    n if n == name else pytest.param(n, marks=pytest.mark.slow) for n in COUNTS
  ]


@pytest.fixture(scope='module', params=_slow_but('shufflenet.shufflenet_v2'))
def built(request):
  """Name, model for 40 classes, variables with moved statistics, inputs."""
  model = models.load(request.param, num_classes=40)
  x = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
  variables = compilation.jit_once(model.init)(jax.random.key(0), x)
  return request.param, model, variables, x


@pytest.mark.parametrize('name', sorted(COUNTS))
def test_published_parameter_counts(name):
  model = models.load(name, num_classes=1000)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3))
  )
  assert sum(p.size for p in jax.tree.leaves(shapes['params'])) == COUNTS[name]


@pytest.mark.parametrize('name', sorted(COUNTS))
@pytest.mark.parametrize('size', [(32, 32), (64, 96), (225, 225)])
def test_any_image_size(name, size):
  model = models.load(name, num_classes=7)
  x = jnp.zeros((2, *size, 3))
  logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
  assert logits.shape == (2, 7)


def test_evaluation_does_not_mix_examples(built):
  _, model, variables, x = built
  apply = jax.jit(model.apply)
  whole = apply(variables, x)
  assert jnp.std(whole, 0).max() > 0
  scale = jnp.abs(whole).max()
  np.testing.assert_allclose(
    apply(variables, x[::-1]), whole[::-1], atol=1e-5 * scale
  )
  # Other neighbours, same logits.
  other = apply(variables, x.at[1:].multiply(-3.0))
  np.testing.assert_allclose(other[0], whole[0], atol=1e-5 * scale)


def test_training_uses_and_moves_batch_statistics(built):
  name, model, variables, x = built

  @jax.jit
  def apply(key, x):
    return model.apply(
      variables, x, True, mutable=['batch_stats'], rngs={'dropout': key}
    )

  key = jax.random.key(2)
  logits, new = apply(key, x)
  again, _ = apply(jax.random.key(3), x)
  # Only ShuffleNet has neither dropout nor stochastic depth.
  assert jnp.allclose(logits, again) == (name == 'shufflenet.shufflenet_v2')
  other, _ = apply(key, x.at[1:].multiply(-3.0))
  assert not jnp.allclose(other[0], logits[0], rtol=1e-3)
  moved = jax.tree.map(
    lambda a, b: jnp.abs(a - b).max(),
    new['batch_stats'],
    variables['batch_stats'],
  )
  assert min(jax.tree.leaves(moved)) > 0


def test_blocks_are_dropped_the_more_often_the_deeper():
  """Of EfficientNet-B0: from 0 in even steps up to torchvision's 0.2."""
  model, rates = models.load('efficientnet.b0', num_classes=3), []

  def note(call, arguments, keywords, context):
    if type(context.module).__name__ == 'Block':
      rates.append(context.module.drop_path)
    return call(*arguments, **keywords)

  with nn.intercept_methods(note):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  np.testing.assert_allclose(rates, np.arange(16) / 16 * 0.2)


def test_initialisation_is_torchvisions(built):
  name, _, variables, _ = built
  params = traverse_util.flatten_dict(variables['params'], sep='/')
  head = params.pop('head/kernel')
  bound = HEAD_BOUNDS[name](*head.shape)
  assert 0.97 * bound < jnp.abs(head).max() <= bound
  assert abs(head.std() * math.sqrt(3) / bound - 1) < 0.02
  kernels = {k: v for k, v in params.items() if k.endswith('kernel')}
  ratios = []
  for kernel in kernels.values():
    if kernel.size < 1000:
      continue
    taps, fan_in = math.prod(kernel.shape[:-2]), kernel.shape[-2]
    if name == 'shufflenet.shufflenet_v2':  # U(+-1/sqrt(fan_in))
      expected = 1 / math.sqrt(3 * taps * fan_in)
      assert jnp.abs(kernel).max() <= expected * math.sqrt(3) * (1 + 1e-6)
    else:  # torch counts a depthwise kernel's fan_out over all channels
      expected = math.sqrt(2 / (taps * kernel.shape[-1]))
    ratios.append(kernel.std() / expected)
  np.testing.assert_allclose(ratios, 1, atol=0.1)
  assert abs(np.mean(ratios) - 1) < 0.01
  for path, leaf in params.items():
    if path.endswith('scale'):
      assert jnp.all(leaf == 1)
    elif path.endswith('bias') and path != 'head/bias':
      assert not jnp.any(leaf)
  if name == 'shufflenet.shufflenet_v2':  # torch's fresh nn.Linear
    assert 0 < jnp.abs(params['head/bias']).max() <= bound
  else:
    assert not jnp.any(params['head/bias'])


def test_head_gradient_is_softmax_minus_one_hot(built):
  """beta_i = p_i - [y = i], the identity that the counts attacks rest on."""
  _, model, variables, x = built

  @jax.jit
  def run(params):
    logits = model.apply({**variables, 'params': params}, x)
    return -jax.nn.log_softmax(logits)[:, 5].mean(), logits

  grads, logits = jax.jit(jax.grad(run, has_aux=True))(variables['params'])
  expected = (jax.nn.softmax(logits) - jax.nn.one_hot(jnp.full(3, 5), 40)).mean(
    0
  )
  np.testing.assert_allclose(grads['head']['bias'], expected, atol=1e-6)
  chex.assert_tree_all_finite(grads)
  # Every kernel takes part.
  flat = traverse_util.flatten_dict(grads, sep='/')
  dead = [k for k, v in flat.items() if 'kernel' in k and not jnp.any(v)]
  assert not dead
