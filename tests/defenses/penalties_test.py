"""Distance correlation against NumPy; the bottleneck's limits."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import distance

from labelleak.base import InputError
from labelleak.defenses import bottleneck, penalties


def _oracle(a, b):
  """Distance correlation from its definition, in double precision."""
  centred = []
  for rows in (a, b):
    d = distance.squareform(distance.pdist(rows.astype(float)))
    centred.append(d - d.mean(0) - d.mean(1)[:, None] + d.mean())
  (x, y), mean = centred, lambda u, v: (u * v).mean()
  return np.sqrt(mean(x, y) / np.sqrt(mean(x, x) * mean(y, y)))


class DistanceCorrelationTest(parameterized.TestCase):
  def test_against_numpy_and_without_padding(self):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(30, 4)).astype(np.float32)
    b = np.eye(3, dtype=np.float32)[rng.integers(3, size=30)]
    mask = np.ones(30, np.float32)
    found = penalties.correlation(a, b, mask)
    self.assertAlmostEqual(float(found), _oracle(a, b), places=5)
    mask[20:] = 0
    found = penalties.correlation(a, b, mask)
    self.assertAlmostEqual(float(found), _oracle(a[:20], b[:20]), places=5)

  def test_one_of_a_similar_copy_and_little_of_independent_rows(self):
    rng = np.random.default_rng(1)
    a = rng.normal(size=(500, 2)).astype(np.float32)
    mask = np.ones(500, np.float32)
    copy = 3 * a[:, ::-1] + 1
    self.assertAlmostEqual(
      float(penalties.correlation(a, copy, mask)), 1.0, places=4
    )
    other = rng.normal(size=(500, 2)).astype(np.float32)
    self.assertLess(float(penalties.correlation(a, other, mask)), 0.15)

  def test_gradients_are_finite_where_rows_agree(self):
    y = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    a = np.array([[1.0], [1.0], [2.0], [4.0]], np.float32)
    penalty = penalties.distance_correlation(weight=0.5).penalty
    grads = jax.grad(lambda h: penalty((h, h), y, np.ones(4, np.float32)))(a)
    self.assertTrue(np.isfinite(grads).all())
    # A step against the gradient lowers the correlation.
    before = penalties.correlation(a, y, np.ones(4, np.float32))
    after = penalties.correlation(a - 0.01 * grads, y, np.ones(4, np.float32))
    self.assertLess(float(after), float(before))

  def test_the_active_party_counts_where_it_is_told_to(self):
    rng = np.random.default_rng(2)
    hs = tuple(rng.normal(size=(3, 20, 2)).astype(np.float32))
    y = np.eye(2, dtype=np.float32)[rng.integers(2, size=20)]
    mask = np.ones(20, np.float32)
    logs = [np.log(_oracle(h, y)) for h in hs]
    for active, wanted in ((False, sum(logs[:2])), (True, sum(logs))):
      make = penalties.distance_correlation
      penalty = make(weight=0.5, active=active).penalty
      self.assertAlmostEqual(float(penalty(hs, y, mask)), wanted / 2, places=4)

  def test_no_weight_is_no_penalty_and_bad_ones_are_refused(self):
    a, y = np.ones((4, 2), np.float32), np.eye(4, dtype=np.float32)
    none = penalties.distance_correlation(weight=0.0).penalty
    self.assertEqual(float(none((a, a), y, np.ones(4, np.float32))), 0.0)
    for weight in (-1, 'much', float('nan')):
      with self.assertRaisesRegex(InputError, 'weight'):
        penalties.distance_correlation(weight=weight)


def _mid(**options):
  """The bottleneck of three classes."""
  return bottleneck.mid(num_classes=3, **options).top


class BottleneckTest(parameterized.TestCase):
  def test_the_active_party_passes_by(self):
    top = _mid(weight=1.0)
    x = jax.random.normal(jax.random.key(0), (8, 6))
    variables = top.init(jax.random.key(1), x)
    out = top.apply(variables, x)
    moved = top.apply(variables, x.at[:, 3:].add(2.0))
    np.testing.assert_allclose(moved - out, 2.0, rtol=1e-5)

  def test_training_draws_and_the_divergence_is_that_of_its_gaussian(self):
    top = _mid(weight=1.0, scale=2)
    x = jax.random.normal(jax.random.key(0), (500, 6))
    variables = top.init(jax.random.key(1), x)
    draw = lambda key: top.apply(
      variables, x, train=True, rngs={'dropout': key}, mutable=['penalty']
    )
    one, sown = draw(jax.random.key(2))
    two, _ = draw(jax.random.key(3))
    self.assertGreater(float(jnp.abs(one - two).max()), 0.0)
    dense = jax.device_get(variables['params']['Bottleneck_0']['Dense_0'])
    hidden = np.maximum(np.array(x)[:, :3] @ dense['kernel'] + dense['bias'], 0)
    mean, spread = np.split(hidden, 2, axis=-1)
    stddev = np.log1p(np.exp(spread - 5.0))
    kl = np.log(1 / stddev) + (stddev**2 + mean**2) / 2 - 0.5
    self.assertAlmostEqual(
      float(sown['penalty']['kl']), kl.sum(-1).mean(), places=3
    )

  @parameterized.parameters(1, 2)
  def test_z_is_as_many_times_as_wide_as_an_embedding(self, scale):
    top = _mid(weight=1.0, scale=scale)
    for batch in (1, 8):
      shapes = jax.eval_shape(top.init, jax.random.key(0), jnp.ones((batch, 9)))
      for name in ('Bottleneck_0', 'Bottleneck_1'):  # of two passive parties
        kernels = [d['kernel'].shape for d in shapes['params'][name].values()]
        width = 3 * scale
        self.assertEqual(
          kernels, [(3, 2 * width), (width, 5 * width), (5 * width, 3)]
        )

  def test_predictions_draw_where_they_are_told_to(self):
    """The same draw at every call, around the mean's prediction."""
    load = lambda **options: _mid(weight=1.0, shift=0.0, **options)
    x = jax.random.normal(jax.random.key(0), (400, 6))
    variables = load().init(jax.random.key(1), x)
    mean, drawn = (
      load(sampled=sampled).apply(variables, x) for sampled in (False, True)
    )
    again = load(sampled=True).apply(variables, x)
    np.testing.assert_array_equal(drawn, again)
    self.assertGreater(float(jnp.abs(drawn - mean).max()), 0.01)

  def test_other_widths_and_bad_options_are_refused(self):
    top = _mid(weight=1.0)
    with self.assertRaisesRegex(InputError, 'cut_width'):
      top.init(jax.random.key(0), jnp.ones((2, 7)))
    for bad in (dict(weight=-1.0), dict(weight=1.0, scale=0)):
      with self.assertRaisesRegex(InputError, 'at least'):
        _mid(**bad)


if __name__ == '__main__':
  absltest.main()
