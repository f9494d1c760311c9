"""models.layers: convolution and pooling against XLA's under plain AD."""

import re
from unittest import mock

from absl.testing import absltest, parameterized
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from labelleak.base import InputError
from labelleak.models import layers

_C = 4  # channels of every input
# (map, kernel, stride, padding, groups, features)
_RULES = (  # XLA's convolution with our derivatives
  (8, 3, 1, 1, 1, 5),
  (7, 3, 1, 0, 1, 4),
  (9, 5, 1, 2, 1, 4),
  (6, 2, 1, 1, 1, 4),  # an even kernel
)
_COMPOSED = (  # ordinary operations, so plain AD is right where the value is
  (8, 3, 2, 1, 1, 5),  # patches
  (8, 5, 2, 2, 1, 4),
  (9, 4, 4, 0, 1, 4),  # disjoint patches, a rest
  (2, 3, 1, 1, 1, 5),  # maps smaller than the kernel
  (1, 5, 1, 2, 1, 4),
  (1, 3, 2, 1, 1, 4),
  (7, 1, 2, 0, 1, 4),  # pointwise
  (8, 3, 1, 1, 2, 6),  # groups
  (7, 1, 1, 0, 2, 6),  # pointwise groups
  (8, 3, 1, 1, 4, 4),  # depthwise
  (7, 5, 2, 2, 4, 4),
  (2, 3, 1, 1, 4, 8),  # depthwise, two features a channel
)


def _scan_sgd(conv, x, w, dx, dw):
  """Two SGD steps on the kernel inside a scan, as in FedAVG."""
  loss = lambda w, x: jnp.sin(conv(x, w)).sum()
  step = lambda w, x: (w - 0.01 * jax.grad(loss)(w, x), loss(w, x))
  return lax.scan(step, w, jnp.stack([x, dx]))


def _loss(conv):
  return lambda x, w: jnp.sin(conv(x, w)).sum()


def _norm(conv):
  """Squared norm of the gradient: a loss that needs reverse over reverse."""

  def norm(x, w):
    grads = jax.grad(_loss(conv), (0, 1))(x, w)
    return sum((g**2).sum() for g in grads)

  return norm


_TRANSFORMS = {
  'value': lambda conv, x, w, dx, dw: conv(x, w),
  'jvp': lambda conv, x, w, dx, dw: jax.jvp(conv, (x, w), (dx, dw)),
  'linearize': lambda conv, x, w, dx, dw: jax.linearize(conv, x, w)[1](dx, dw),
  'grad': lambda conv, x, w, dx, dw: jax.grad(_loss(conv), (0, 1))(x, w),
  'grad_kernel': lambda conv, x, w, dx, dw: jax.grad(_loss(conv), 1)(x, w),
  'hvp': lambda conv, x, w, dx, dw: jax.jvp(
    jax.grad(_loss(conv), (0, 1)), (x, w), (dx, dw)
  ),
  'reverse_twice': lambda conv, x, w, dx, dw: jax.grad(_norm(conv), (0, 1))(
    x, w
  ),
  'vmap_kernels': lambda conv, x, w, dx, dw: jax.vmap(
    jax.grad(_loss(conv), 1), (None, 0)
  )(x, jnp.stack([w, dw])),
  'vmap_inputs': lambda conv, x, w, dx, dw: jax.vmap(
    jax.grad(_loss(conv), (0, 1)), (0, None)
  )(jnp.stack([x, dx]), w),
  'vmap_both': lambda conv, x, w, dx, dw: jax.vmap(
    jax.grad(_loss(conv), (0, 1))
  )(jnp.stack([x, dx]), jnp.stack([w, dw])),
  'scan': _scan_sgd,
}


class ConvTest(parameterized.TestCase):
  def _compare(self, shape, names):
    size, kernel, stride, padding, groups, features = shape
    module = layers.Conv(
      features, kernel, stride, padding, groups, use_bias=False
    )
    ours = lambda x, w: module.apply({'params': {'kernel': w}}, x)
    theirs = lambda x, w: lax.conv_general_dilated(
      x,
      w,
      (stride, stride),
      ((padding, padding),) * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=groups,
    )
    rng = np.random.default_rng(size)
    shapes = (3, size, size, _C), (kernel, kernel, _C // groups, features)
    args = [rng.normal(size=s).astype(np.float32) for s in shapes * 2]
    both = jax.jit(
      lambda *args: [
        {name: _TRANSFORMS[name](conv, *args) for name in names}
        for conv in (ours, theirs)
      ]
    )
    got, want = both(*args)
    for name in names:
      for a, b in zip(*map(jax.tree.leaves, (got[name], want[name]))):
        np.testing.assert_allclose(
          a, b, rtol=1e-4, atol=2e-5 * float(jnp.abs(b).max()), err_msg=name
        )

  @parameterized.parameters(*_RULES)
  def test_is_xla_convolution_under_every_transform(self, *shape):
    self._compare(shape, tuple(_TRANSFORMS))

  @parameterized.parameters(*_COMPOSED)
  def test_is_xla_convolution(self, *shape):
    self._compare(shape, ('value', 'grad'))

  def test_rows_of_patches_agree_with_whole_patches(self):
    conv = layers.Conv(4, 3, 2, 1, use_bias=False)
    rng = np.random.default_rng(0)
    x = jnp.array(rng.normal(size=(2, 9, 9, 3)), jnp.float32)
    variables = conv.init(jax.random.key(0), x)
    whole = conv.apply(variables, x)
    self.enter_context(mock.patch.object(layers.convolution, '_PATCH_LIMIT', 0))
    np.testing.assert_allclose(conv.apply(variables, x), whole, atol=1e-5)

  @parameterized.parameters((0, True), (1, False))
  def test_patches_are_whole_up_to_the_limit_of_memory(self, less, whole):
    conv = layers.Conv(4, 3, 2, 1, use_bias=False)
    x, w = jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 4))
    limit = 2 * 5 * 5 * 27 - less
    self.enter_context(
      mock.patch.object(layers.convolution, '_PATCH_LIMIT', limit)
    )
    trace = jax.make_jaxpr(conv.apply)({'params': {'kernel': w}}, x)
    self.assertEqual('[2,5,5,27]' in str(trace), whole)

  def test_all_derivatives_keep_the_fast_order_of_axes(self):
    """XLA:CPU falls onto a slow path in loops for any other order."""
    conv = layers.Conv(4, 3, padding=1, use_bias=False)
    f = lambda x, w: conv.apply({'params': {'kernel': w}}, x)
    x, w = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    hvp = lambda x, w: jax.jvp(jax.grad(_loss(f), (0, 1)), (x, w), (x, w))
    step = lambda w, x: (w - hvp(x, w)[1][1], None)
    scan = jax.jit(lambda w, x: lax.scan(step, w, x[None]))
    orders = re.findall(r'dim_labels=(\S+)', scan.lower(w, x).as_text('hlo'))
    self.assertGreaterEqual(len(orders), 3)
    self.assertEqual({o.strip(',') for o in orders}, {'b01f_01io->b01f'})

  @parameterized.parameters(dict(groups=2, size=8), dict(groups=1, size=1))
  def test_refuses(self, groups, size):
    conv = layers.Conv(4, 3, groups=groups)
    with self.assertRaisesRegex(InputError, 'groups=2|smaller than the kernel'):
      conv.init(jax.random.key(0), jnp.ones((1, size, size, 3)))


class PoolTest(parameterized.TestCase):
  @parameterized.parameters(
    (8, 2, None, 0), (7, 2, None, 0), (5, 3, None, 0), (9, 3, 2, 1)
  )
  def test_is_windowed_maximum(self, size, window, stride, padding):
    x = np.random.default_rng(0).normal(size=(2, size, size, 3))
    pad = ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0))
    padded = np.pad(x, pad, constant_values=-np.inf)
    step = stride or window
    windows = np.lib.stride_tricks.sliding_window_view(
      padded, (window, window), (1, 2)
    )[:, ::step, ::step]
    pool = layers.MaxPool(window, stride, padding)
    np.testing.assert_allclose(
      pool.apply({}, jnp.array(x)), windows.max((-2, -1)), rtol=1e-6
    )


class InitTest(parameterized.TestCase):
  def test_torch_default_bounds_kernel_and_bias_by_fan_in(self):
    for layer, x, fan_in in (
      (layers.Dense(5000), jnp.ones((1, 16)), 16),
      (layers.Conv(5000, 3), jnp.ones((1, 3, 3, 4)), 36),
      (layers.Conv(5000, 3, groups=4), jnp.ones((1, 3, 3, 4)), 9),
    ):
      params = layer.init(jax.random.key(0), x)['params']
      for leaf in (params['kernel'], params['bias']):
        bound = fan_in**-0.5
        self.assertLessEqual(float(jnp.abs(leaf).max()), bound)
        self.assertGreater(float(jnp.abs(leaf).max()), 0.99 * bound)
        # U(-a, a) has variance a^2 / 3; 5000 draws know it to 1.3%.
        np.testing.assert_allclose(leaf.var(), bound**2 / 3, rtol=0.06)

  def test_kaiming_normal_has_tails(self):
    w = layers.kaiming_normal(jax.random.key(0), (3, 3, 8, 512))
    sd = (2 / (512 * 9)) ** 0.5
    np.testing.assert_allclose(w.std(), sd, rtol=0.02)
    # Beyond 2.3 sd a truncated normal has nothing, a normal 2.1%.
    np.testing.assert_allclose(
      (jnp.abs(w) > 2.3 * sd).mean(), 0.0214, atol=0.003
    )


class BatchNormTest(parameterized.TestCase):
  @parameterized.product(
    shape=((2, 3), (16, 3), (4, 5, 6, 3)), momentum=(0.9, 0.9997)
  )
  def test_running_statistics_are_averages_of_unbiased_ones(
    self, shape, momentum
  ):
    rng = np.random.default_rng(0)
    norm = layers.BatchNorm(momentum=momentum)
    variables = norm.init(jax.random.key(0), jnp.zeros(shape), False)
    mean, var = np.zeros(3), np.ones(3)
    for scale in (1.0, 5.0, 2.0):
      x = np.float32(rng.normal(1.0, scale, shape))
      y, statistics = norm.apply(variables, x, False, mutable='batch_stats')
      variables = variables | statistics
      rows = x.reshape(-1, 3)
      mean = momentum * mean + (1 - momentum) * rows.mean(0)
      var = momentum * var + (1 - momentum) * rows.var(0, ddof=1)
      # What normalises the batch itself stays the biased one.
      expected = (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
      np.testing.assert_allclose(y, expected, atol=1e-4)
    statistics = variables['batch_stats']
    np.testing.assert_allclose(statistics['mean'], mean, rtol=1e-5)
    np.testing.assert_allclose(statistics['var'], var, rtol=1e-5)
    y = norm.apply(variables, x, True)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=2e-4)

  @parameterized.parameters(((2, 3),), ((16, 3),), ((4, 5, 6, 3),))
  @pytest.mark.torch
  def test_torch_keeps_the_same(self, shape):
    torch = pytest.importorskip('torch')
    kind = torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    theirs, ours = kind(3), layers.BatchNorm()
    variables = ours.init(jax.random.key(0), jnp.zeros(shape), False)
    for seed in range(3):
      x = np.float32(np.random.default_rng(seed).normal(1.0, 3.0, shape))
      _, statistics = ours.apply(variables, x, False, mutable='batch_stats')
      variables = variables | statistics
      theirs(torch.tensor(np.moveaxis(x, -1, 1).copy()))
    for name in ('mean', 'var'):
      np.testing.assert_allclose(
        variables['batch_stats'][name],
        getattr(theirs, f'running_{name}').numpy(),
        rtol=1e-5,
      )

  def test_one_value_a_channel_has_no_variance(self):
    norm, x = layers.BatchNorm(), jnp.ones((1, 3))
    variables = norm.init(jax.random.key(0), x, False)  # shapes alone
    norm.apply(variables, x, True)
    with self.assertRaisesRegex(InputError, r'\(1, 3\).*larger batch'):
      norm.apply(variables, x, False, mutable='batch_stats')


if __name__ == '__main__':
  absltest.main()
