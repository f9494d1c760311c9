"""Label codes: inverses, laws of what is drawn, and that rows keep answers."""

import math

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from labelleak import defenses
from labelleak.base import InputError
from labelleak.defenses import LabelCode, label_codes

KEY = jax.random.key(0)
K = 7
SMOOTH = dict(name='smoothing', alpha=0.3)
RENAME = dict(name='permutation', seed=3)
COMPLEMENT = dict(name='complement')


def build(specs, num_classes=K):
  """The code of a config's chain."""
  return defenses.build(specs, num_classes).labels


def make(name, num_classes=K, **options):
  """The code of one constructor."""
  return getattr(label_codes, name)(num_classes=num_classes, **options).labels


def soft(num=50, seed=0):
  return jax.random.dirichlet(jax.random.key(seed), jnp.full(K, 0.5), (num,))


def drawn(code, label, num):
  """Which classes `num` rows of a label get, [K] counts."""
  y = jnp.tile(jax.nn.one_hot(label, K), (num, 1))
  return np.asarray(
    label_codes.encode_rows(KEY, code, y, jnp.arange(num)).sum(0)
  )


def accepted(count, num, p):
  """Whether count of num is within 4 standard errors of the chance p."""
  return abs(count - num * p) < 4 * math.sqrt(num * p * (1 - p))


class LabelsTest(parameterized.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(
    ((),),
    ((SMOOTH,),),
    ((dict(name='smoothing', alpha=0.95),),),
    ((RENAME,),),
    ((COMPLEMENT,),),
    ((SMOOTH, RENAME, COMPLEMENT),),
    ((COMPLEMENT, SMOOTH, RENAME),),
  )
  def test_decoding_undoes_encoding(self, specs):
    code, y = build(specs), soft()
    fake = self.variant(code.encode)(KEY, y)
    np.testing.assert_allclose(fake.sum(-1), 1, atol=1e-5)
    chex.assert_trees_all_close(self.variant(code.decode)(fake), y, atol=1e-4)

  @parameterized.parameters(
    (dict(name='smoothing', alpha=0.0),),
    (dict(name='randomized_response', epsilon=60.0),),
    (dict(name='randomized_response', epsilon=float('inf')),),
    (dict(name='draw'),),
  )
  def test_limits_leave_labels_alone(self, spec):
    y = jnp.eye(K)
    fake = build((spec,)).encode(KEY, y)
    chex.assert_trees_all_close(fake, y, atol=1e-6)

  def test_closed_forms(self):
    y = jnp.eye(3)
    smooth = make('smoothing', num_classes=3, alpha=0.6).encode(KEY, y)
    chex.assert_trees_all_close(smooth, 0.4 * y + 0.2, atol=1e-6)
    others = make('complement', num_classes=3).encode(KEY, y)
    chex.assert_trees_all_close(others, (1 - y) / 2, atol=1e-6)

  def test_a_chain_encodes_in_order_and_decodes_in_reverse(self):
    specs = (RENAME, dict(name='permutation', seed=4))
    first, second = (build((spec,)) for spec in specs)
    both, y = build(specs), soft()
    fake = second.encode(KEY, first.encode(KEY, y))
    chex.assert_trees_all_equal(both.encode(KEY, y), fake)
    swapped = first.encode(KEY, second.encode(KEY, y))
    self.assertFalse(np.allclose(fake, swapped))

  @parameterized.parameters(0.5, 2.0, 4.0)
  def test_responses_have_the_odds_of_epsilon(self, epsilon):
    num = 20000
    counts = drawn(make('randomized_response', epsilon=epsilon), 2, num)
    kept = lambda e: math.exp(e) / (math.exp(e) + K - 1)
    self.assertTrue(accepted(counts[2], num, kept(epsilon)))
    self.assertFalse(accepted(counts[2], num, kept(epsilon * 2 / 3)))
    self.assertFalse(accepted(counts[2], num, kept(epsilon * 3 / 2)))
    self.assertGreater(stats.chisquare(np.delete(counts, 2)).pvalue, 1e-4)

  def test_decoding_a_response_is_right_on_average(self):
    num, y = 40000, jnp.array([0.5, 0.3, 0.2, 0, 0, 0, 0])
    code = make('randomized_response', epsilon=1.5)
    rows = jnp.tile(y, (num, 1))
    mean = label_codes.encode_rows(KEY, code, rows, jnp.arange(num)).mean(0)
    np.testing.assert_allclose(code.decode(mean[None])[0], y, atol=0.03)
    self.assertGreater(np.abs(mean - y).max(), 0.1)  # and not by itself

  def test_draws_follow_the_soft_label(self):
    p = np.array([0.5, 0.3, 0.2, 0, 0, 0, 0], np.float32)
    code = make('draw')
    rows = jnp.tile(jnp.asarray(p), (5000, 1))
    counts = np.asarray(code.encode(KEY, rows).sum(0))
    self.assertEqual(counts[3:].sum(), 0)
    self.assertGreater(stats.chisquare(counts[:3], 5000 * p[:3]).pvalue, 1e-4)

  @parameterized.parameters(1, 3, 6)
  def test_a_drawn_complement_is_never_the_label(self, num):
    code = build((COMPLEMENT, dict(name='draw', num=num)))
    counts = num * drawn(code, 4, 3000)
    self.assertAlmostEqual(counts.sum(), 3000 * num, delta=0.1)
    self.assertEqual(counts[4], 0)
    chances = np.full(K - 1, 3000 / (K - 1) * num)
    # Draws of one row exclude each other, which only helps.
    self.assertLess(stats.chisquare(np.delete(counts, 4), chances)[0], 30)

  def test_several_draws_share_the_mass_of_those_that_have_any(self):
    y = jnp.array([[0.6, 0.4, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0]])
    fake = make('draw', num=4).encode(KEY, y)
    wanted = [[0.5, 0.5, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0]]
    np.testing.assert_allclose(fake, wanted)
    one = make('draw').encode(KEY, jnp.tile(y, (500, 1)))
    np.testing.assert_array_equal(jnp.unique(one), [0, 1])

  @chex.variants(with_jit=True, without_jit=True)
  def test_a_row_keeps_its_answer_whatever_its_batch(self):
    code = make('randomized_response', epsilon=1.0)
    y, index = jax.nn.one_hot(jnp.arange(40) % K, K), jnp.arange(40)
    encode = self.variant(
      lambda k, y, i: label_codes.encode_rows(k, code, y, i)
    )
    whole = encode(KEY, y, index)
    part = jnp.array([31, 5, 5, 12])
    chex.assert_trees_all_equal(encode(KEY, y[part], index[part]), whole[part])
    self.assertFalse(np.array_equal(encode(KEY, y, index + 40), whole))
    other = jax.random.key(1)
    self.assertFalse(np.array_equal(encode(other, y, index), whole))

  def test_links_of_a_chain_draw_on_their_own(self):
    """Two responses in a row are not one: they keep less than either."""
    num, link = 4000, dict(name='randomized_response', epsilon=2.0)
    p = math.exp(2) / (math.exp(2) + K - 1)
    twice = p**2 + (1 - p) ** 2 / (K - 1)
    kept = drawn(build((link, link)), 0, num)[0]
    self.assertTrue(accepted(kept, num, twice))
    self.assertFalse(accepted(kept, num, p))

  def test_secret_names_are_uniform(self):
    num = 800
    made = [make('permutation', num_classes=4, seed=s) for s in range(num)]
    tables = np.stack([np.asarray(c.encode(KEY, jnp.eye(4))) for c in made])
    np.testing.assert_array_equal(tables.sum(1), 1)
    named = tables.argmax(-1)  # [num, 4], a permutation each
    for column in named.T:
      counts = np.bincount(column, minlength=4)
      self.assertGreater(stats.chisquare(counts).pvalue, 1e-4)
    self.assertLen({tuple(row) for row in named}, math.factorial(4))

  def test_statistics_are_closed_forms(self):
    own = label_codes.statistics(KEY, LabelCode(), K)
    wanted = dict(
      reconstruction_accuracy=1,
      true_mass=1,
      entropy=0,
      max_mass=1,
      distinct=K,
    )
    chex.assert_trees_all_close({k: float(v) for k, v in own.items()}, wanted)
    others = label_codes.statistics(KEY, make('complement'), K)
    self.assertAlmostEqual(float(others['entropy']), math.log(K - 1), places=5)
    self.assertAlmostEqual(float(others['true_mass']), 0, places=6)
    merge = lambda key, y: y.at[:, 0].add(y[:, 1]).at[:, 1].set(0)
    merged = LabelCode(merge, lambda p: p)
    found = label_codes.statistics(KEY, merged, K)['reconstruction_accuracy']
    self.assertAlmostEqual(float(found), (K - 1) / K, places=6)
    tied = LabelCode(lambda key, y: y, jnp.ones_like)
    found = label_codes.statistics(KEY, tied, K)['reconstruction_accuracy']
    self.assertEqual(float(found), 0)

  @parameterized.parameters(
    (dict(alpha=0.1), 'has no name'),
    ('smoothing', 'has no name'),
    (dict(name='smothing', alpha=0.1), "did you mean 'smoothing'"),
    (dict(name='smoothing'), "needs 'alpha'"),
    (dict(name='smoothing', alpha=0.1, beta=1), "takes no 'beta'"),
    (dict(name='smoothing', alpha=1.0), r'alpha=1.0 must be in \[0, 1\)'),
    (dict(name='smoothing', alpha=-0.1), 'alpha=-0.1 must'),
    (dict(name='randomized_response', epsilon=0.0), 'epsilon=0.0 must'),
    (dict(name='draw', num=0), r'num=0 must .* in 1\.\.7'),
    (dict(name='draw', num=8), r'num=8 must .* in 1\.\.7'),
    (
      dict(name='randomized_response', epsilon=float('nan')),
      'epsilon=nan must',
    ),
  )
  def test_bad_codes_are_named(self, spec, message):
    with self.assertRaisesRegex(InputError, message):
      build((spec,))


if __name__ == '__main__':
  absltest.main()
