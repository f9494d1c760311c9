import functools
import sys
import types
from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import base, defenses, registry
from labelleak.defenses import Defense, LabelCode, Strength, noise

KEY = jax.random.key(0)
EXACT = (  # without noise
  dict(name='clip', max_norm=1.0),
  dict(name='clip_per_example', max_norm=0.5),
  dict(name='clip_batch', max_norm=0.5),
  dict(name='compress', drop=0.5),
  dict(name='keep_largest', keep=0.5),
  dict(name='sparsify', drop=0.5),
  dict(name='sparsify', drop=0.5, memory='sample', rows=12),
  dict(name='sparsify', drop=0.5, memory=None),
  dict(name='discretize', bins=6),
  dict(name='discretize_fixed', bins=6, bound=1.0),
  dict(name='discretize_first', bins=6),
)
RANDOM = (
  dict(name='gaussian', stddev=0.1),
  dict(name='laplace', scale=0.1),
  dict(name='grad_perturb', epsilon=5.0),
  dict(name='marvell', s=2.0),
  dict(name='marvell', s=2.0, isotropic=False),
  dict(name='ppdl', theta=0.3),
  dict(name='ppdl', theta=0.9, early_exit=True),
  dict(name='ppdl_described', theta=0.5, tau=0.1, scale=0.1),
)
EVERY = tuple((spec,) for spec in EXACT + RANDOM)
ONE_EACH = tuple((s,) for s in {s['name']: s for (s,) in EVERY}.values())
STATEFUL = ('sparsify', 'discretize', 'discretize_first', 'ppdl')


def _load(name, **hyper):
  """The transform of one constructor."""
  return registry.load('defenses', name, **hyper).gradient


def _build(specs):
  """The transform of a config's chain."""
  return defenses.build(specs).gradient


def _tree(seed=0):
  rng = np.random.default_rng(seed)
  leaf = lambda *shape: jnp.array(rng.normal(size=shape), jnp.float32)
  return {'head': {'kernel': leaf(6, 5), 'bias': leaf(5)}, 'scale': leaf()}


def _apply(tx, tree, key=KEY):
  return tx.update(tree, tx.init(tree), key=key)[0]


def _cuts(seed=0, steps=3, rows=12):
  """Cut gradients [S, B, D] of two classes, taken in turn."""
  rng = np.random.default_rng(seed)
  cuts = rng.normal(size=(steps, rows, 4)) + (np.arange(rows) % 2)[:, None]
  return jnp.array(cuts, jnp.float32)


def _sent(tx, cuts, key=KEY, real=None):
  """What a link sends of cut gradients [S, B, D], an epoch each, [S, B, D]."""
  steps, rows, width = cuts.shape
  real = rows if real is None else real
  y = jnp.eye(2, dtype=cuts.dtype)[jnp.arange(rows) % 2]
  mask = (jnp.arange(rows) < real).astype(jnp.float32)
  relabel = lambda y: (y @ jnp.ones((2, width), y.dtype)) * mask[:, None]

  def step(state, inputs):
    cut, epoch = inputs
    out, state = tx.update(
      cut,
      state,
      jnp.zeros_like(cut),
      key=jax.random.fold_in(key, epoch),
      labels=y,
      index=jnp.arange(rows) % real,  # padding repeats real rows
      mask=mask,
      epoch=epoch,
      relabel=relabel,
    )
    return state, out

  cuts = cuts * mask[None, :, None]
  return jax.lax.scan(step, tx.init(cuts[0]), (cuts, jnp.arange(steps)))[1]


@functools.cache
def _compiled(*spec):
  """(tx, jitted `_sent`) of a config's pairs; one compilation serves all."""
  tx = _build((dict(spec),))
  return tx, jax.jit(functools.partial(_sent, tx))


def _close(spec):
  """Tolerances; the noise at MARVELL's flat minimum is known to its root."""
  return dict(atol=2e-3 if spec['name'] == 'marvell' else 1e-5)


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
  def test_limits_are_identities_on_trees(self, spec):
    tx, tree = _build((spec,)), _tree()
    out = self.variant(lambda t, k: _apply(tx, t, k))(tree, KEY)
    chex.assert_trees_all_equal(out, tree)

  @parameterized.parameters(
    (dict(name='gaussian', stddev=0.0),),
    (dict(name='laplace', scale=0.0),),
    (dict(name='grad_perturb', epsilon=float('inf')),),
    (dict(name='marvell', s=0.0),),
    (dict(name='clip_per_example', max_norm=float('inf')),),
    (dict(name='clip_batch', max_norm=1e6),),
    (dict(name='compress', drop=0.0),),
    (dict(name='sparsify', drop=0.0),),
    (dict(name='sparsify', drop=0.0, memory='sample', rows=12),),
    (dict(name='sparsify', drop=0.0, memory=None),),
    (dict(name='ppdl_described', theta=1.0, tau=0.0, scale=0.0),),
    # Ever finer bins, to within half a bin.
    (dict(name='discretize_fixed', bins=10**6, bound=1.0), 2e-6),
    (dict(name='discretize_first', bins=10**6), 3e-6),
  )
  def test_limits_are_identities_on_cut_gradients(self, spec, atol=1e-7):
    cuts = _cuts()
    out = _sent(_build((spec,)), cuts, real=9)
    np.testing.assert_allclose(out[:, :9], cuts[:, :9], rtol=0, atol=atol)

  def test_no_defense_is_the_identity(self):
    tree = _tree()
    chex.assert_trees_all_equal(_apply(_build(()), tree), tree)

  @parameterized.parameters(
    ('gaussian', 'stddev', np.std, 1.0),
    # E|x| = scale, Var x = 2 scale^2.
    ('laplace', 'scale', lambda x: np.abs(x).mean(), 1.0),
    ('laplace', 'scale', np.std, np.sqrt(2.0)),
  )
  def test_noise_has_the_stated_scale(self, name, argument, estimate, factor):
    tx = _load(name, **{argument: 0.3})
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
    tx, tree = _build((spec,)), _tree()
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

  @parameterized.parameters(
    (dict(name='gaussian', stddev=1.0), 'gaussian has key=None; pass key='),
    (dict(name='ppdl', theta=0.5), 'ppdl has key=None; pass key='),
    (
      dict(name='ppdl_described', theta=0.5, tau=0.0, scale=0.0),
      'ppdl_described has key=None; pass key=',
    ),
    (dict(name='marvell', s=1.0), 'marvell has labels=None; pass labels='),
    (dict(name='grad_perturb', epsilon=1.0), 'grad_perturb has labels=None'),
    (dict(name='discretize', bins=2), 'discretize has epoch=None; pass epoch='),
    (
      dict(name='sparsify', drop=0.5, memory='sample', rows=2),
      'sparsify has index=None; pass index=',
    ),
  )
  def test_a_missing_argument_is_named(self, spec, message):
    tx, cut = _load(**spec), jnp.ones((4, 3))
    key = None if 'key' in message else KEY
    with self.assertRaisesRegex(base.InputError, message):
      tx.update(cut, tx.init(cut), key=key)

  @parameterized.parameters(
    'clip_per_example', 'clip_batch', 'keep_largest', 'discretize_first'
  )
  def test_what_needs_rows_refuses_a_client_s_tree(self, name):
    argument = dict(keep_largest='keep', discretize_first='bins')
    hyper = {argument.get(name, 'max_norm'): 1}
    tx = _load(name, **hyper)
    state = tx.init(jnp.zeros((2, 3)))
    with self.assertRaisesRegex(base.InputError, f'{name} acts on one cut'):
      tx.update(_tree(), state)
    with self.assertRaisesRegex(base.InputError, r'mask of shape \(3,\)'):
      tx.update(jnp.zeros((2, 3)), state, mask=jnp.ones(3))

  @parameterized.parameters(
    *((spec,) for (spec,) in EVERY if spec['name'] in STATEFUL)
  )
  def test_state_never_leaks_between_trials(self, spec):
    """A trial of a vmap is the trial run alone, whatever ran before it."""
    _, sent = _compiled(*spec.items())
    cuts = jnp.stack([_cuts(0), _cuts(1), _cuts(0)])
    keys = jnp.stack([KEY, jax.random.key(1), KEY])
    together = jax.vmap(sent, (0, 0, None))(cuts, keys, 12)
    alone = [sent(*each, 12) for each in zip(cuts, keys)]
    chex.assert_trees_all_equal(alone[0], alone[2])
    self.assertTrue(np.any(alone[0] != alone[1]))
    chex.assert_trees_all_close(together, jnp.stack(alone), **_close(spec))

  @parameterized.parameters(*ONE_EACH)
  def test_jit_is_no_jit(self, spec):
    tx, sent = _compiled(*spec.items())
    with jax.disable_jit():
      slow = _sent(tx, _cuts(), KEY, 9)
    chex.assert_trees_all_close(sent(_cuts(), KEY, 9), slow, **_close(spec))

  @parameterized.parameters(*EVERY)
  def test_float32_stays_so_under_x64(self, spec):
    tx, cuts = _build((spec,)), _cuts(steps=1)
    with jax.enable_x64(True):
      out = jax.eval_shape(functools.partial(_sent, tx), cuts)
    self.assertEqual(out.dtype, jnp.float32)

  @parameterized.parameters(*EVERY)
  def test_padding_stays_zero_and_the_rest_changes(self, spec):
    _, sent = _compiled(*spec.items())
    cuts, out = _cuts(), sent(_cuts(), KEY, 9)
    self.assertFalse(np.any(out[:, 9:]))
    self.assertGreater(np.abs(out - cuts)[-1, :9].max(), 1e-3)
    for cuts, real in ((_cuts(), 9), (_cuts(), 0), (0 * _cuts(), 12)):
      self.assertTrue(np.isfinite(sent(cuts, KEY, real)).all())

  @parameterized.parameters(*((spec,) for spec in EXACT))
  def test_padding_counts_in_no_statistic(self, spec):
    tx, sent = _compiled(*spec.items())
    padded = sent(_cuts(), KEY, 9)[:, :9]
    chex.assert_trees_all_close(padded, _sent(tx, _cuts()[:, :9]), atol=1e-6)

  @parameterized.parameters(
    dict(name='sparsify', drop=0.5),
    dict(name='ppdl', theta=0.3),
    dict(name='marvell', s=2.0),
  )
  def test_it_chains_with_optax(self, **spec):
    link = _load(**spec)
    chain = optax.chain(optax.scale(1.0), link, optax.scale(2.0))
    chex.assert_trees_all_close(
      _sent(chain, _cuts()), 2 * _sent(link, _cuts()), **_close(spec)
    )

  @parameterized.parameters(2.0, 50.0)
  def test_grad_perturb_has_the_stated_scale(self, epsilon):
    tx, zeros = _load('grad_perturb', epsilon=epsilon), jnp.zeros((2000, 5))
    # The gradient of class c is e_c: what is added is u itself.
    noise = tx.update(
      zeros, tx.init(zeros), key=KEY, labels=zeros, relabel=lambda y: y
    )[0]
    noise = np.ravel(noise)
    for factor, accepted in ((1, True), (2 / 3, False), (3 / 2, False)):
      scale = 2 / epsilon * factor
      mean = lambda x: np.abs(x).mean()
      self.assertEqual(_scale_accepted(noise, mean, scale), accepted)

  def test_grad_perturb_mixes_the_gradients_of_all_labels(self):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), size=8).astype(np.float32)
    w = rng.normal(size=(3, 4)).astype(np.float32)
    relabel = lambda y: (probs - y) / 8 @ w
    y = jnp.eye(3)[rng.integers(3, size=8)]
    tx = _load('grad_perturb', epsilon=0.5)
    cut = relabel(y)
    extra = dict(key=KEY, labels=y, relabel=relabel)
    noise = tx.update(cut, tx.init(cut), **extra)[0] - cut
    # Solve for u [B, K] row by row: four equations, three unknowns.
    for row in range(8):
      each = np.stack([relabel(np.eye(3)[[c] * 8])[row] for c in range(3)], 1)
      u = np.linalg.lstsq(each, noise[row])[0]
      np.testing.assert_allclose(each @ u, noise[row], rtol=1e-3, atol=1e-4)
    # Every row draws its own.
    self.assertLen(np.unique(np.round(noise @ np.ones(4), 5)), 8)

  @parameterized.parameters(0.05, 0.3, 2.0)
  def test_clip_per_example_is_a_loop_over_rows(self, rho):
    cut = _cuts(steps=1)[0]
    out = _apply(_load('clip_per_example', max_norm=rho), cut)
    norm = np.linalg.norm(cut, axis=1)
    for row, size in enumerate(norm):
      scale = rho / size if size > rho else 1.0
      np.testing.assert_allclose(out[row], cut[row] * scale, rtol=1e-5)
    self.assertLessEqual(np.linalg.norm(out, axis=1).max(), rho * (1 + 1e-6))
    self.assertTrue(np.any(norm > rho))

  @parameterized.parameters(0.2, 1e6)
  def test_clip_batch_is_the_published_formula(self, rho):
    cut = np.asarray(_cuts(steps=1)[0], np.float64)
    factor = max(1, np.linalg.norm(cut, axis=1).max() / (rho + 1e-6))
    out = _apply(_load('clip_batch', max_norm=rho), jnp.array(cut))
    np.testing.assert_allclose(out, cut / factor, rtol=1e-5)

  def test_links_of_a_chain_draw_their_own_noise(self):
    link = dict(name='gaussian', stddev=0.3)
    noise = _apply(_build((link, link)), {'a': jnp.zeros(20000)})['a']
    std = lambda x: np.std(np.asarray(x))
    self.assertTrue(_scale_accepted(noise, std, 0.3 * np.sqrt(2)))
    self.assertFalse(_scale_accepted(noise, std, 0.3 * 2))  # the same twice
    other = dict(name='laplace', scale=0.3)
    noise = _apply(_build((link, other)), {'a': jnp.zeros(20000)})['a']
    self.assertTrue(_scale_accepted(noise, std, 0.3 * np.sqrt(3)))

  @parameterized.parameters(0.1, 1.0, 3.0, 5.0, 100.0)
  def test_clip_is_the_published_formula(self, rho):
    tree = _tree()
    flat = np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)])
    norm = np.sqrt((flat.astype(np.float64) ** 2).sum())
    scale = rho / (norm + 1e-6) if norm > rho else 1.0
    out = _apply(_load('clip', max_norm=rho), tree)
    chex.assert_trees_all_close(
      out, jax.tree.map(lambda u: u * scale, tree), rtol=1e-5
    )

  def test_of_tiny_norms_a_millionth_counts(self):
    cut = jnp.array([[6e-6, 8e-6], [0.0, 1e-6]])  # norms of 1e-5 and 1e-6
    clipped = _apply(_load('clip', max_norm=5e-6), cut[:1])
    np.testing.assert_allclose(clipped, cut[:1] * 5 / 11, rtol=1e-5)
    divided = _apply(_load('clip_batch', max_norm=1.5e-6), cut)
    np.testing.assert_allclose(divided, cut / 4, rtol=1e-5)

  def test_clip_of_a_zero_gradient_is_zero(self):
    zeros = jax.tree.map(jnp.zeros_like, _tree())
    out = _apply(_load('clip', max_norm=0.5), zeros)
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

    tx = _load('compress', drop=drop)
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
    tx = _build(specs)
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
    norm = lambda *specs: optax.tree.norm(_apply(_build(specs), _tree()))
    self.assertLess(norm(big, noise, small), 1.0 + 1e-5)
    self.assertGreater(norm(small, noise), 1.5)  # sqrt(36) * .5 = 3 of noise

  def test_absolute_paths_load(self):
    spec = dict(name='optax.clip_by_global_norm', max_norm=0.5)
    out = _apply(_build((spec,)), _tree())
    np.testing.assert_allclose(optax.tree.norm(out), 0.5, rtol=1e-5)

  def test_the_package_lists_its_constructors_only(self):
    names = registry.names('defenses')
    known = [registry.canonical('defenses', name) for name in names]
    self.assertContainsSubset([spec['name'] for (spec,) in EVERY], known)
    self.assertContainsSubset(['coae', 'smoothing', 'mid'], known)
    self.assertFalse([name for name in known if '.' in name])
    self.assertNotIn('build', known)
    with self.assertRaisesRegex(base.InputError, "has no 'build'"):
      registry.find('defenses', 'build')

  def test_a_name_has_one_spelling_in_rows(self):
    for name in (
      'gaussian',
      'noise.gaussian',
      'labelleak.defenses.noise.gaussian',
    ):
      self.assertEqual(registry.canonical('defenses', name), 'gaussian')
      self.assertIs(registry.find('defenses', name), noise.gaussian)
      (spec,) = defenses.canonical((dict(name=name, stddev=0.1),))
      self.assertEqual(spec, dict(name='gaussian', stddev=0.1))
    path = 'optax.clip_by_global_norm'
    self.assertEqual(registry.canonical('defenses', path), path)
    # Two modules of the attacks define `random`.
    self.assertEqual(
      registry.canonical('attacks', 'counts.random'), 'counts.random'
    )
    with self.assertRaisesRegex(
      base.InputError, "'random' in several .*counts.random, .*scores.random"
    ):
      registry.find('attacks', 'random')

  def test_a_stranger_s_file_is_a_defense(self):

    def transform(*, factor) -> optax.GradientTransformation:
      return optax.scale(factor)

    module = types.ModuleType('labelleak.defenses.mine')
    module.transform = transform
    with mock.patch.dict(sys.modules, {module.__name__: module}):
      tx = _build((dict(name='mine.transform', factor=3.0),))
    chex.assert_trees_all_equal(_apply(tx, jnp.ones(2)), 3 * jnp.ones(2))

  @parameterized.parameters(
    (dict(name='gaussian', stddev=-0.1), r'stddev=-0\.1 .*at least 0'),
    (dict(name='gaussian', stddev='big'), r"stddev='big' .*number"),
    (dict(name='laplace', scale=float('nan')), r'scale=nan must be a number'),
    (dict(name='clip', max_norm=0.0), r'max_norm=0\.0 .*positive'),
    (dict(name='clip_batch', max_norm=-1), r'clip_batch: max_norm=-1 .*pos'),
    (dict(name='clip_per_example', max_norm=0), r'max_norm=0 .*positive'),
    (dict(name='grad_perturb', epsilon=0.0), r'epsilon=0\.0 .*positive'),
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


class CompositionTest(parameterized.TestCase):
  def test_kinds_stand_side_by_side(self):
    specs = (
      dict(name='smoothing', alpha=0.5),
      dict(name='clip', max_norm=0.5),
      dict(name='distance_correlation', weight=0.1),
      dict(name='mid', weight=0.01),
      dict(name='gaussian', stddev=0.1),
    )
    both = defenses.build(specs, num_classes=3)
    # What stands between two transforms does not move their keys.
    alone = defenses.build((specs[1], specs[4]))
    out, same = (_apply(d.gradient, _tree()) for d in (both, alone))
    chex.assert_trees_all_equal(out, same)
    fake = both.labels.encode(KEY, jnp.eye(3))
    np.testing.assert_allclose(fake, 0.5 * np.eye(3) + 0.5 / 3, rtol=1e-6)
    self.assertIsNotNone(both.penalty)
    self.assertEqual(both.top.num_classes, 3)
    self.assertEqual(both.strengths, (('clip', 0.5), ('gaussian', 0.1)))

  def test_penalties_add_up(self):
    one = lambda value: Defense(penalty=lambda hs, y, mask: value)
    both = defenses.chain(one(1.0), Defense(), one(2.5)).penalty
    self.assertEqual(both((), None, None), 3.5)

  def test_none_is_the_identity_and_nothing_is_done(self):
    none = defenses.build(())
    self.assertEqual(none.strengths, ())
    self.assertIsNone(none.penalty)
    self.assertIsNone(none.top)
    y = jnp.eye(3)
    chex.assert_trees_all_equal(none.labels.encode(KEY, y), y)
    chex.assert_trees_all_equal(none.labels.decode(y), y)

  def test_two_top_models_are_one_too_many(self):
    mid = dict(name='mid', weight=0.1)
    with self.assertRaisesRegex(base.InputError, '2 defenses are a top model'):
      defenses.build((mid, mid), num_classes=3)

  @parameterized.parameters(*EXACT, *RANDOM)
  def test_each_tells_its_strength_by_its_name(self, **spec):
    (strength,) = defenses.build((spec,)).strengths
    self.assertEqual(strength.kind, spec.pop('name'))
    self.assertEqual(strength.value, next(iter(spec.values())))

  def test_of_a_bare_transform_nothing_can_be_told(self):
    bare = dict(name='optax.clip_by_global_norm', max_norm=0.5)
    for specs in ((bare,), (dict(name='gaussian', stddev=0.1), bare)):
      strengths = defenses.build(specs).strengths
      self.assertIsNone(strengths)
      granted = defenses.view_strengths((), strengths, steps=1)
      self.assertIsNone(granted)  # and not (), which is no defense

  @parameterized.parameters(
    # step, update, S, Q -> what a step of one query would carry
    (0.3, 0.0, 10, 1, 0.3),
    (0.3, 0.0, 10, 4, 0.15),
    (0.0, 0.3, 4, 1, 0.15),
    (0.3, 0.8, 4, 1, 0.5),
  )
  def test_noise_is_that_of_a_local_step(
    self, step, update, steps, queries, want
  ):
    of = lambda stddev: (Strength('gaussian', stddev),) * (stddev > 0)
    granted = defenses.view_strengths(
      (Strength('clip', 1.0), *of(step)),
      (Strength('compress', 0.4), *of(update), Strength('laplace', 0.2)),
      steps=steps,
      queries=queries,
    )
    granted = dict(granted)
    self.assertAlmostEqual(granted.pop('gaussian'), want)
    laplace = granted.pop('laplace')
    self.assertAlmostEqual(laplace, 0.2 / np.sqrt(steps * queries))
    self.assertEqual(granted, dict(clip=1.0, compress=0.4))

  @parameterized.parameters(
    (dict(name='smoothing', alpha=0.1), 'gradient', 'labels'),
    (dict(name='distance_correlation', weight=1.0), 'gradient', 'the loss'),
    (dict(name='mid', weight=1.0), 'labels', 'the joint model'),
    (dict(name='gaussian', stddev=1.0), 'labels', 'what is sent'),
  )
  def test_what_acts_elsewhere_is_refused(self, spec, field, place):
    with self.assertRaisesRegex(base.InputError, f'acts on {place}, and here'):
      defenses.build((spec,), num_classes=3, only=field)

  def test_what_needs_the_classes_says_so(self):
    with self.assertRaisesRegex(base.InputError, 'needs the number of classes'):
      defenses.build((dict(name='smoothing', alpha=0.1),))

  def test_what_is_no_defense_is_refused(self):

    def false() -> Defense:
      return LabelCode()

    module = types.ModuleType('strange')
    module.false, module.code = false, lambda: LabelCode()
    for name, message in (
      ('false', 'makes a LabelCode, no Defense'),
      ('code', 'must be annotated to return Defense or GradientTrans'),
    ):
      with (
        mock.patch.dict(sys.modules, {module.__name__: module}),
        self.assertRaisesRegex(base.InputError, message),
      ):
        defenses.build((dict(name=f'strange.{name}'),))


class SplitTest(parameterized.TestCase):
  @parameterized.parameters(('server',), ({},), ([[]],), (None,))
  def test_refuses_another_place(self, at):
    with self.assertRaisesRegex(base.InputError, "must be 'step'"):
      defenses.split([dict(name='gaussian', stddev=0.1, at=at)])


if __name__ == '__main__':
  absltest.main()
