from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import base, defenses

KEY = jax.random.key(0)


def _tree(seed=0):
  rng = np.random.default_rng(seed)
  leaf = lambda *shape: jnp.array(rng.normal(size=shape), jnp.float32)
  return {'head': {'kernel': leaf(6, 5), 'bias': leaf(5)}, 'scale': leaf()}


def _apply(tx, tree, key=KEY):
  return tx.update(tree, tx.init(tree), key=key)[0]


def _scale_accepted(noise, estimate, scale):
  """Whether `scale` lies within 4 standard errors of the noise's own scale."""
  value = estimate(noise)
  blocks = [estimate(b) for b in np.array_split(noise, 50)]
  error = np.std(blocks, ddof=1) / np.sqrt(len(blocks))
  return abs(value - scale) < 4 * error


class DefensesTest(parameterized.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(
    (dict(name='gaussian', stddev=0.0),),
    (dict(name='laplace', scale=0.0),),
    (dict(name='clip', max_norm=float('inf')),),
    (dict(name='clip', max_norm=1e6),),
    (dict(name='compress', drop=0.0),),
    (dict(name='compress', drop=0.01),),  # int(30 * .01) = 0
  )
  def test_limits_are_identities(self, spec):
    tx, tree = defenses.build((spec,)), _tree()
    out = self.variant(lambda t, k: _apply(tx, t, k))(tree, KEY)
    chex.assert_trees_all_equal(out, tree)

  def test_no_defense_is_the_identity(self):
    tree = _tree()
    chex.assert_trees_all_equal(_apply(defenses.build(()), tree), tree)

  @parameterized.parameters(
    ('gaussian', 'stddev', np.std, 1.0),
    # E|x| = scale, Var x = 2 scale^2.
    ('laplace', 'scale', lambda x: np.abs(x).mean(), 1.0),
    ('laplace', 'scale', np.std, np.sqrt(2.0)),
  )
  def test_noise_has_the_stated_scale(self, name, argument, estimate, factor):
    tx = base.load('defenses', name, **{argument: 0.3})
    zeros = {'a': jnp.zeros((50, 100)), 'b': jnp.zeros(15000)}
    out = _apply(tx, zeros)
    noise = np.concatenate([np.ravel(v) for v in jax.tree.leaves(out)])
    self.assertLess(abs(noise.mean()), 4 * noise.std() / np.sqrt(noise.size))
    self.assertTrue(_scale_accepted(noise, estimate, 0.3 * factor))
    self.assertFalse(_scale_accepted(noise, estimate, 0.2 * factor))
    self.assertFalse(_scale_accepted(noise, estimate, 0.45 * factor))

  @parameterized.parameters(
    (dict(name='gaussian', stddev=1.0),), (dict(name='laplace', scale=1.0),)
  )
  def test_noise_is_added_and_fresh_for_each_tensor_and_key(self, spec):
    tx, tree = defenses.build((spec,)), _tree()
    twins = {'a': jnp.zeros(50), 'b': jnp.zeros(50)}
    noise = _apply(tx, twins)
    self.assertFalse(np.any(noise['a'] == noise['b']))
    other = _apply(tx, twins, jax.random.key(1))
    self.assertFalse(np.any(noise['a'] == other['a']))
    shift = jax.tree.map(lambda u: u + 3.0, tree)
    moved = jax.tree.map(jnp.subtract, _apply(tx, shift), _apply(tx, tree))
    chex.assert_trees_all_close(
      moved, jax.tree.map(lambda u: jnp.full_like(u, 3.0), tree), atol=1e-5
    )

  def test_noise_without_a_key_is_refused(self):
    tx, tree = defenses.gaussian(stddev=1.0), _tree()
    with self.assertRaisesRegex(base.InputError, 'key=None; pass key='):
      tx.update(tree, tx.init(tree))

  def test_links_of_a_chain_draw_their_own_noise(self):
    link = dict(name='gaussian', stddev=0.3)
    noise = _apply(defenses.build((link, link)), {'a': jnp.zeros(20000)})['a']
    std = lambda x: np.std(np.asarray(x))
    self.assertTrue(_scale_accepted(noise, std, 0.3 * np.sqrt(2)))
    self.assertFalse(_scale_accepted(noise, std, 0.3 * 2))  # the same twice

  @parameterized.parameters(0.1, 1.0, 3.0, 5.0, 100.0)
  def test_clip_is_the_published_formula(self, rho):
    tree = _tree()
    flat = np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)])
    norm = np.sqrt((flat.astype(np.float64) ** 2).sum())
    scale = rho / (norm + 1e-6) if norm > rho else 1.0
    out = _apply(defenses.clip(max_norm=rho), tree)
    chex.assert_trees_all_close(
      out, jax.tree.map(lambda u: u * scale, tree), rtol=1e-5
    )

  def test_clip_of_a_zero_gradient_is_zero(self):
    zeros = jax.tree.map(jnp.zeros_like, _tree())
    out = _apply(defenses.clip(max_norm=0.5), zeros)
    chex.assert_trees_all_equal(out, zeros)

  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(0.1, 0.4, 0.5, 0.8, 0.99, 1.0)
  def test_compress_is_the_published_percentile(self, drop):
    tree = _tree()
    tree['ties'] = jnp.array([1.0, -1.0, 1.0, 2.0, -3.0, 0.0, 2.0])

    def oracle(u):
      u = np.asarray(u)
      k = int(u.size * drop)
      if k == 0:
        return u
      threshold = np.sort(np.abs(u).ravel())[k - 1]
      return np.where(np.abs(u) > threshold, u, 0)

    tx = defenses.compress(drop=drop)
    out = self.variant(lambda t: _apply(tx, t))(tree)
    chex.assert_trees_all_equal(out, jax.tree.map(oracle, tree))
    if drop == 0.4:  # k = 2 of 7: the second smallest is a tie of three ones
      np.testing.assert_array_equal(out['ties'], [0, 0, 0, 2, -3, 0, 2])

  @parameterized.parameters(
    ((dict(name='gaussian', stddev=0.1),),),
    ((dict(name='laplace', scale=0.1),),),
    ((dict(name='clip', max_norm=0.5), dict(name='compress', drop=0.5)),),
  )
  def test_vmap_is_a_loop(self, specs):
    tx = defenses.build(specs)
    trees = [_tree(seed) for seed in range(3)]
    keys = jax.random.split(KEY, 3)
    stack = lambda trees: jax.tree.map(lambda *a: jnp.stack(a), *trees)
    chex.assert_trees_all_close(
      jax.vmap(lambda t, k: _apply(tx, t, k))(stack(trees), keys),
      stack([_apply(tx, t, k) for t, k in zip(trees, keys)]),
      rtol=1e-6,
    )

  def test_a_chain_applies_its_links_in_order(self):
    big, small = (
      dict(name='clip', max_norm=2.0),
      dict(name='clip', max_norm=1.0),
    )
    noise = dict(name='gaussian', stddev=0.5)
    norm = lambda *specs: optax.tree.norm(
      _apply(defenses.build(specs), _tree())
    )
    self.assertLess(norm(big, noise, small), 1.0 + 1e-5)
    self.assertGreater(norm(small, noise), 1.5)  # sqrt(36) * .5 = 3 of noise

  def test_absolute_paths_load(self):
    spec = dict(name='optax.clip_by_global_norm', max_norm=0.5)
    out = _apply(defenses.build((spec,)), _tree())
    np.testing.assert_allclose(optax.tree.norm(out), 0.5, rtol=1e-5)

  def test_the_package_lists_its_constructors_only(self):
    known = base.names('defenses')
    self.assertContainsSubset(
      ['clip', 'compress', 'gaussian', 'laplace'], known
    )
    self.assertNotIn('build', known)

  @parameterized.parameters(
    (dict(name='gaussian', stddev=-0.1), r'stddev=-0\.1 .*at least 0'),
    (dict(name='gaussian', stddev='big'), r"stddev='big' .*number"),
    (dict(name='laplace', scale=float('nan')), r'scale=nan .*at least 0'),
    (dict(name='clip', max_norm=0.0), r'max_norm=0\.0 .*positive'),
    (dict(name='compress', drop=1.5), r'drop=1\.5 .*\[0, 1\]'),
    (dict(name='gausian', stddev=1.0), r"did you mean 'gaussian'"),
    (dict(name='gaussian', sigma=1.0), r"takes no 'sigma'.*stddev"),
    (dict(name='gaussian'), r"needs 'stddev'"),
    (dict(name='optax.clip_by_global_norm'), r"needs 'max_norm'"),
    (dict(stddev=1.0), r'has no name.*gaussian'),
  )
  def test_bad_input_is_refused_in_one_line(self, spec, message):
    with self.assertRaisesRegex(base.InputError, message) as caught:
      defenses.build((spec,))
    self.assertNotIn('\n', str(caught.exception))


if __name__ == '__main__':
  absltest.main()
