"""Models cut at a stage: both parts together are the whole."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from configs import completion, completion_depth
from labelleak import models, spec, sweep
from labelleak.base import InputError

_WHOLE = dict(name='resnet.resnet20', width=4, shortcut='pad', init='fan_in')
_LARGE = dict(name='resnet.resnet50')
K = 5


def _load(name, **options):
  return models.load(name, num_classes=K, **options)


def _parts(stages, model=None, height=9):
  model = dict(model or _WHOLE)
  bottom = _load('depth.bottom', model=model, stages=stages)
  rest = _load('depth.remainder', model=model, stages=stages, height=height)
  return _load(**model), bottom, rest


def _count(tree):
  return sum(a.size for a in jax.tree.leaves(tree))


class ResNetTest(parameterized.TestCase):
  @parameterized.parameters((0, True), (1, False), (2, True), (3, True))
  def test_both_parts_are_the_whole(self, stages, train):
    """With the whole network's own parameters, by their names; odd sizes."""
    whole, bottom, rest = _parts(stages)
    x = jax.random.normal(jax.random.key(0), (3, 9, 7, 3))
    variables = whole.init(jax.random.key(1), x)

    def apply(model, x, names):
      own = {
        k: {n: v[n] for n in names[k]} for k, v in variables.items() if names[k]
      }
      if not train:
        return model.apply(own, x)
      return model.apply(own, x, train=True, mutable=['batch_stats'])[0]

    shapes = [jax.eval_shape(bottom.init, jax.random.key(2), x)]
    h = jax.eval_shape(bottom.apply, shapes[0], x)
    shapes.append(jax.eval_shape(rest.init, jax.random.key(3), h))
    names = [{k: set(s.get(k, ())) for k in variables} for s in shapes]
    for k, v in variables.items():
      self.assertEqual(names[0][k] | names[1][k], set(v))
      self.assertEmpty(names[0][k] & names[1][k])
    self.assertEqual(sum(map(_count, shapes)), _count(variables))
    found = apply(rest, apply(bottom, x, names[0]), names[1])
    everything = {k: set(v) for k, v in variables.items()}
    expected = apply(whole, x, everything)
    self.assertEqual(found.shape, (3, K))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

  @parameterized.parameters(
    (0, 8 * 6 * 4), (1, 8 * 6 * 4), (2, 4 * 3 * 8), (3, 2 * 2 * 16)
  )
  def test_maps_are_sent_column_by_column(self, stages, width):
    """Parts of an image side by side give the width of the whole."""
    _, bottom, rest = _parts(stages, height=8)
    x = jnp.zeros((2, 8, 6, 3))
    variables = bottom.init(jax.random.key(0), x)
    h = bottom.apply(variables, x)
    self.assertEqual(h.shape, (2, width))
    both = jnp.concatenate([h, h], -1)
    top = rest.init(jax.random.key(1), both)
    self.assertEqual(rest.apply(top, both).shape, (2, K))

  def test_columns_far_from_the_seam_are_those_of_the_whole_image(self):
    _, bottom, _ = _parts(0)
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
    variables = bottom.init(jax.random.key(1), x)
    left, right = (bottom.apply(variables, a) for a in jnp.split(x, 2, axis=2))
    found = jnp.concatenate([left, right], -1).reshape(2, 8, 6, 4)
    expected = bottom.apply(variables, x).reshape(2, 8, 6, 4)
    far = np.array([0, 1, 2, 5, 6, 7])
    np.testing.assert_allclose(found[:, far], expected[:, far], rtol=1e-5)
    self.assertGreater(float(jnp.abs(found - expected).max()), 1e-3)

  @parameterized.parameters(0, 1, 4)
  def test_large_networks_are_cut_alike(self, stages):
    whole, bottom, rest = _parts(stages, _LARGE, height=64)
    x, key = jnp.zeros((1, 64, 32, 3)), jax.random.key(0)
    own = jax.eval_shape(bottom.init, key, x)
    h = jax.eval_shape(bottom.apply, own, x)
    left = jax.eval_shape(rest.init, key, h)
    total = jax.eval_shape(whole.init, key, x)
    self.assertEqual(_count((own, left)), _count(total))

  def test_what_cannot_be_cut_is_named(self):
    with self.assertRaisesRegex(InputError, 'stages=4 must be .* in 0..3'):
      _parts(4)
    with self.assertRaisesRegex(InputError, 'mlp.mlp2 has no stages'):
      _parts(1, dict(name='mlp.mlp2'))
    _, _, rest = _parts(1)
    with self.assertRaisesRegex(InputError, 'no columns of 9 x 4'):
      rest.init(jax.random.key(0), jnp.zeros((2, 40)))


class ChainTest(parameterized.TestCase):
  def test_it_is_one_after_the_other(self):
    first, then = dict(name='mlp.mlp2'), dict(name='mlp.bn_mlp', widths=(7,))
    model = _load('depth.chain', width=6, first=first, then=then)
    x = jax.random.normal(jax.random.key(0), (4, 3, 2, 1))
    variables = model.init(jax.random.key(1), x)
    own = lambda part: {k: v[part] for k, v in variables.items() if part in v}
    h = models.load(num_classes=6, **first).apply(own('first'), x)
    expected = _load(**then).apply(own('then'), h)
    np.testing.assert_allclose(model.apply(variables, x), expected, rtol=1e-6)
    self.assertEqual(h.shape, (4, 6))
    _, moved = model.apply(variables, x, train=True, mutable=['batch_stats'])
    self.assertGreater(_count(moved), 0)


class ConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    ('digits', (8, 4, 1), 6),
    ('criteo', (4096,), 6),
    ('cifar10', (32, 16, 3), 24),
    ('histopathology', (50, 50, 3), 24),
  )
  def test_layers_move_and_their_number_stays(self, data, shape, layers):
    """Kernels of one bottom, as many as its depth, and those of the top."""
    config = completion_depth.get_config(f'data={data}')
    whole = completion.get_config(f'data={data}')
    default = spec.describe(whole.model), spec.describe(whole.top)
    key, x, found = jax.random.key(0), jnp.zeros((2, *shape)), []
    for _, full in sweep.grid(config):
      bottom = models.load(num_classes=full.cut_width, **full.model.to_dict())
      top = models.load(num_classes=2, **dict(full.top))
      lower = jax.eval_shape(bottom.init, key, x)
      h = jax.eval_shape(bottom.apply, lower, x)
      both = jax.ShapeDtypeStruct((2, 2 * h.shape[1]), h.dtype)
      upper = jax.eval_shape(top.init, key, both)
      self.assertEqual(jax.eval_shape(top.apply, upper, both).shape, (2, 2))
      num, rest = map(_kernels, (lower, upper))
      self.assertEqual((num, num + rest), (full.depth, layers))
      found.append((spec.describe(full.model), spec.describe(full.top)))
    self.assertEqual(found.count(default), 1)  # the published cut is in it


def _kernels(variables):
  leaves = jax.tree_util.tree_leaves_with_path(variables['params'])
  return sum(path[-1].key == 'kernel' for path, _ in leaves)


if __name__ == '__main__':
  absltest.main()
