"""Vertical splits: what parties hold makes up the example, exactly."""

import itertools

from absl.testing import absltest, parameterized
import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np

from labelleak import base, data, registry

IMAGE, TABLE, STACK = (6, 5, 3), (30,), (4, 6, 5, 3)
SPLITS = (
  ('rows', IMAGE, {}),
  ('rows', IMAGE, dict(parties=3, shared=2)),
  ('rows', IMAGE, dict(order=(1, 0))),
  ('columns', IMAGE, dict(sizes=(1, 4), shared=1)),
  ('quarters', IMAGE, {}),
  ('features', TABLE, dict(sizes=[10, 5, 15], order=[2, 0, 1], shared=12)),
  ('random_features', TABLE, dict(fraction=0.3, parties=3)),
  ('random_features', IMAGE, dict(fraction=0.5)),
  ('patches', STACK, {}),
  ('patches', STACK, dict(shared=2)),
)


def numbered(shape, rows=3):
  """Examples whose entries all differ, [n, *shape]."""
  return np.arange(rows * np.prod(shape)).reshape(rows, *shape)


def cut(name, shape, **hyper):
  """The parts of numbered examples."""
  split = registry.load('data', f'splits.{name}', shape=shape, **hyper)
  return split(numbered(shape))


@st.composite
def bands(draw):
  """The length of an axis and arguments that cut it, even or by sizes."""
  sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=6))
  if draw(st.booleans()):
    return sum(sizes), dict(sizes=sizes)
  return sum(sizes), dict(parties=len(sizes))


class SplitsTest(parameterized.TestCase):
  @parameterized.parameters(*SPLITS)
  def test_jax_under_jit_is_numpy(self, name, shape, hyper):
    split = registry.load('data', f'splits.{name}', shape=shape, **hyper)
    x = numbered(shape)
    parts, traced = split(x), jax.jit(split)(x)
    self.assertLen(traced, len(parts))
    for part, other in zip(parts, traced):
      self.assertIsInstance(part, np.ndarray)
      np.testing.assert_array_equal(part, other)

  @parameterized.parameters(*SPLITS)
  def test_examples_are_cut_one_by_one(self, name, shape, hyper):
    split = registry.load('data', f'splits.{name}', shape=shape, **hyper)
    x = numbered(shape)
    for part, alone in zip(split(x[::-1]), split(x[:1])):
      np.testing.assert_array_equal(part[-1:], alone)
    for part, none in zip(split(x), split(x[:0])):
      self.assertEqual(none.shape, (0, *part.shape[1:]))

  @parameterized.parameters(*SPLITS)
  def test_every_feature_is_held(self, name, shape, hyper):
    x = numbered(shape)
    held = np.concatenate([part.ravel() for part in cut(name, shape, **hyper)])
    self.assertEqual(set(held), set(x.ravel()))
    if not hyper.get('shared'):
      self.assertLen(held, x.size)

  @parameterized.parameters(*SPLITS)
  def test_other_examples_are_refused(self, name, shape, hyper):
    split = registry.load('data', f'splits.{name}', shape=shape, **hyper)
    other = (shape[0] + 1, *shape[1:])
    with self.assertRaisesRegex(base.InputError, 'this split cuts examples of'):
      split(numbered(other))
    with self.assertRaisesRegex(base.InputError, 'this split cuts examples of'):
      jax.jit(split)(numbered(other))

  @hypothesis.settings(deadline=None)
  @hypothesis.given(bands(), st.integers(0, 2))
  def test_bands_reassemble_in_order(self, cuts, axis):
    length, hyper = cuts
    shape = [(length,), (length, 2, 3), (2, length, 3)][axis]
    name = ['features', 'rows', 'columns'][axis]
    parts = cut(name, shape, **hyper)
    along = 2 if name == 'columns' else 1
    np.testing.assert_array_equal(np.concatenate(parts, along), numbered(shape))
    widths = [part.shape[along] for part in parts]
    if 'sizes' in hyper:
      self.assertEqual(widths, list(hyper['sizes']))
    else:
      self.assertLen(widths, hyper['parties'])
      self.assertLessEqual(max(widths) - min(widths), 1)
      self.assertEqual(widths, sorted(widths, reverse=True))

  @hypothesis.settings(deadline=None)
  @hypothesis.given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 3))
  def test_quarters_reassemble(self, height, width, channels):
    parts = cut('quarters', (height, width, channels))
    top, bottom = (np.concatenate(parts[i : i + 2], 2) for i in (0, 2))
    x = numbered((height, width, channels))
    np.testing.assert_array_equal(np.concatenate([top, bottom], 1), x)
    np.testing.assert_array_equal(parts[0][:, 0, 0], x[:, 0, 0])
    np.testing.assert_array_equal(parts[3][:, -1, -1], x[:, -1, -1])

  def test_published_halves(self):
    x = numbered((28, 28, 1))
    top, bottom = cut('rows', (28, 28, 1))  # VFLAIR: party 0 on top
    np.testing.assert_array_equal(top, x[:, :14])
    np.testing.assert_array_equal(bottom, x[:, 14:])
    lower, _ = cut('rows', (28, 28, 1), order=(1, 0))  # BLI: the attacker's
    np.testing.assert_array_equal(lower, bottom)
    left, right = cut('columns', (32, 32, 3), sizes=(8, 24))  # Fu: half=8
    np.testing.assert_array_equal(left, numbered((32, 32, 3))[:, :, :8])
    self.assertEqual(right.shape, (3, 32, 24, 3))

  @hypothesis.settings(deadline=None)
  @hypothesis.given(bands(), st.data())
  def test_a_block_goes_to_the_party_named(self, cuts, drawn):
    length, hyper = cuts
    natural = cut('features', (length,), **hyper)
    order = drawn.draw(st.permutations(range(len(natural))))
    for k, part in zip(order, cut('features', (length,), order=order, **hyper)):
      np.testing.assert_array_equal(part, natural[k])

  @hypothesis.settings(deadline=None)
  @hypothesis.given(bands(), st.data())
  def test_party_0_shares_exactly_what_is_stated(self, cuts, drawn):
    length, hyper = cuts
    alone = cut('features', (length,), **hyper)
    others = np.concatenate(alone[1:], 1)
    shared = drawn.draw(st.integers(0, others.shape[1]))
    parts = cut('features', (length,), shared=shared, **hyper)
    for part, same in zip(parts[1:], alone[1:]):
      np.testing.assert_array_equal(part, same)
    np.testing.assert_array_equal(parts[0][:, : alone[0].shape[1]], alone[0])
    both = np.intersect1d(parts[0][0], others[0])
    np.testing.assert_array_equal(both, others[0, :shared])

  @hypothesis.settings(deadline=None)
  @hypothesis.given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.floats(0, 1),
    st.integers(2, 5),
    st.integers(0, 9),
  )
  def test_a_fraction_and_the_rest_permute_the_features(
    self, shape, fraction, parties, seed
  ):
    size = int(np.prod(shape))
    own = round(fraction * size)
    hyper = dict(fraction=fraction, parties=parties, seed=seed)
    if not 1 <= own <= size - parties + 1:
      with self.assertRaisesRegex(base.InputError, 'without any; change'):
        cut('random_features', shape, **hyper)
      return
    parts = cut('random_features', shape, **hyper)
    self.assertLen(parts, parties)
    self.assertEqual(parts[0].shape, (3, own))
    self.assertGreater(min(part.shape[1] for part in parts), 0)
    together = np.sort(np.concatenate(parts, 1), 1)
    np.testing.assert_array_equal(together, numbered(shape).reshape(3, -1))

  def test_larger_fractions_hold_smaller_ones(self):
    halves = [
      set(cut('random_features', (80,), fraction=k / 8)[0][0])
      for k in range(1, 8)
    ]
    for fewer, more in itertools.pairwise(halves):
      self.assertLess(fewer, more)
    same = cut('random_features', (80,), fraction=1 / 8)[0][0]
    other = cut('random_features', (80,), fraction=1 / 8, seed=1)[0][0]
    self.assertEqual(halves[0], set(same))
    self.assertNotEqual(halves[0], set(other))

  @parameterized.parameters(0, 1, 3)
  def test_patches_lie_side_by_side(self, shared):
    x = numbered(STACK)
    first, *others = cut('patches', STACK, shared=shared)
    np.testing.assert_array_equal(
      first, np.concatenate([x[:, p] for p in range(1 + shared)], 2)
    )
    self.assertLen(others, 3)
    for p, part in enumerate(others, 1):
      np.testing.assert_array_equal(part, x[:, p])

  @parameterized.parameters(
    ('rows', TABLE, {}, r'shape \(H, W, C\), not \(30,\)'),
    ('quarters', STACK, {}, r'shape \(H, W, C\), not'),
    ('features', IMAGE, {}, r'shape \(F\), not \(6, 5, 3\)'),
    ('patches', IMAGE, {}, r'shape \(P, H, W, C\), not'),
    ('patches', (1, 6, 5, 3), {}, r'parties=1 must be .* in 2\.\.1'),
    ('patches', STACK, dict(shared=4), r'shared=4 must be .* in 0\.\.3'),
    ('quarters', (1, 6, 3), {}, r'parties=2 must be .* in 2\.\.1'),
    ('rows', IMAGE, dict(parties=1), r'parties=1 must be .* in 2\.\.6'),
    ('columns', IMAGE, dict(parties=6), r'2\.\.5; .* 5 columns'),
    ('rows', IMAGE, dict(sizes=(3, 4)), r'sizes=\(3, 4\) .* the 6 rows'),
    ('rows', IMAGE, dict(sizes=(6,)), r'sizes=\(6,\) must be two or more'),
    ('rows', IMAGE, dict(sizes=(7, -1)), r'numbers above 0'),
    ('rows', IMAGE, dict(sizes=(2.5, 3.5)), r'sizes.0.=2.5 must be a whole'),
    ('rows', IMAGE, dict(parties=3, sizes=(3, 3)), 'parties=3 contradicts'),
    ('rows', IMAGE, dict(shared=4), r'shared=4 must be .* in 0\.\.3'),
    ('rows', IMAGE, dict(shared=-1), r'shared=-1 must be'),
    ('rows', IMAGE, dict(order=(0, 0)), r'order=\(0, 0\) must name'),
    ('features', TABLE, dict(order=(0, 2)), r'order=\(0, 2\) must name'),
    ('random_features', TABLE, dict(fraction=0.5, parties=1), '1 parties'),
    ('rows', IMAGE, dict(bands=2), "takes no 'bands'"),
  )
  def test_what_does_not_fit_is_refused_at_once(
    self, name, shape, hyper, message
  ):
    with self.assertRaisesRegex(base.InputError, message):
      registry.load('data', f'splits.{name}', shape=shape, **hyper)

  def test_a_split_is_no_source(self):
    with self.assertRaisesRegex(base.InputError, "takes no 'split'"):
      data.load('splits.rows')


if __name__ == '__main__':
  absltest.main()
