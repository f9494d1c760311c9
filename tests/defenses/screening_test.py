"""Screening against scikit-learn's covariance, and on what it is meant for."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
from sklearn import covariance

from labelleak import base, defenses
from labelleak.defenses import screening

B, K, D = 200, 3, 5


def _data(seed=0):
  rng = np.random.default_rng(seed)
  y = np.eye(K, dtype=np.float32)[rng.integers(K, size=B)]
  mix = rng.normal(size=(D, D))
  h = (rng.normal(size=(B, D)) @ mix + 6 * y @ rng.normal(size=(K, D))).astype(
    np.float32
  )
  return jnp.array(h), jnp.array(y)


def _apply(h, y, cut, drop, mask=None):
  tx = defenses.build((dict(name='screen', drop=drop),)).gradient
  run = jax.jit(
    lambda *a: tx.update(a[0], tx.init(h), a[1], labels=a[2], mask=a[3])[0]
  )
  mask = jnp.ones(B) if mask is None else mask
  return run(cut, h, y, mask)


class ScreenTest(parameterized.TestCase):
  def test_distances_are_mahalanobis_s(self):
    h, y = _data()
    label = np.asarray(y.argmax(-1))
    mean = np.stack([np.asarray(h)[label == k].mean(0) for k in range(K)])
    gap = np.asarray(h) - mean[label]
    oracle = covariance.EmpiricalCovariance(assume_centered=True).fit(gap)
    found = screening.mahalanobis(h, y)
    np.testing.assert_allclose(found, oracle.mahalanobis(gap), rtol=2e-2)

  def test_rows_at_the_mean_of_their_class_have_no_distance(self):
    h, y = _data()
    first = np.asarray(y).argmax(0)  # a row of each class
    for rows in (h[first], np.zeros((K, D), np.float32)):
      found = screening.mahalanobis(rows, y[first])
      np.testing.assert_array_equal(found, np.zeros(K))

  def test_they_do_not_depend_on_units(self):
    h, y = _data()
    mixed = h @ np.diag([2.0, 0.5, 1.0, 3.0, 1.0]).astype(np.float32) + 7.0
    np.testing.assert_allclose(
      screening.mahalanobis(mixed, y), screening.mahalanobis(h, y), rtol=3e-2
    )

  def test_padding_counts_for_nothing(self):
    h, y = _data()
    mask = jnp.array(np.arange(B) < 150, jnp.float32)
    moved = h.at[150:].set(1e3)
    np.testing.assert_allclose(
      screening.mahalanobis(moved, y, mask)[:150],
      screening.mahalanobis(h[:150], y[:150]),
      rtol=1e-3,
    )
    out = _apply(moved, y, jnp.ones((B, D)) * mask[:, None], 0.1, mask)
    self.assertEqual(int(out[:150].any(-1).sum()), 135)

  def test_nothing_is_dropped_at_0(self):
    h, y = _data()
    cut = jnp.ones((B, D))
    chex.assert_trees_all_equal(_apply(h, y, cut, 0.0), cut)

  def test_rows_in_the_place_of_another_class_go_first(self):
    h, y = _data()
    label = np.asarray(y.argmax(-1))
    wrong = np.flatnonzero(label == 0)[:5]
    h = h.at[wrong].set(h[np.flatnonzero(label == 1)[:5]])
    out = _apply(h, y, jnp.ones((B, D)), 0.05)
    dropped = np.flatnonzero(~np.asarray(out).any(-1))
    self.assertLen(dropped, 10)
    self.assertContainsSubset(wrong, dropped)

  @parameterized.parameters(-0.1, 1.0, 'all')
  def test_bad_shares_are_refused(self, drop):
    with self.assertRaisesRegex(base.InputError, 'screen: drop=.* must be'):
      defenses.build((dict(name='screen', drop=drop),))

  def test_it_says_what_it_needs(self):
    tx = defenses.build((dict(name='screen', drop=0.1),)).gradient
    cut = jnp.ones((B, D))
    with self.assertRaisesRegex(base.InputError, 'params=None'):
      tx.update(cut, tx.init(cut), labels=jnp.ones((B, K)))


if __name__ == '__main__':
  absltest.main()
