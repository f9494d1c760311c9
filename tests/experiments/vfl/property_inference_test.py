"""Exploiting inferred labels: what a property net learns, and its controls."""

from absl.testing import absltest, parameterized
import jax
import numpy as np

from configs import appendix_e
from labelleak import experiments
from labelleak.base import InputError
from labelleak.experiments.vfl import property_inference
from labelleak.experiments.vfl.build import build


def _learned(x, extra, z, rows, epochs=60):
  index = np.random.default_rng(0).permuted(
    np.tile(np.arange(len(rows)), (epochs, 1)), axis=1
  )
  mask = np.ones(index.shape, np.float32)
  return np.asarray(
    property_inference._learn(
      0.1, 0.9, jax.random.key(0), x, extra, z, rows, index, mask
    )
  )


class LearnTest(parameterized.TestCase):
  def test_an_extra_feature_that_is_the_property_is_used(self):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5)).astype(np.float32)
    z = rng.integers(0, 2, 300)
    noise = rng.normal(size=300)
    extra = np.stack([0 * z, 2.0 * z - 1, noise]).astype(np.float32)
    named = _learned(x, extra, z, np.arange(40))
    blank, told, placebo = (named[:, 40:] == z[40:]).mean(1)
    self.assertGreater(told, 0.9)
    for chance in (blank, placebo):
      self.assertAlmostEqual(chance, 0.5, delta=0.13)  # 4 standard errors

  def test_without_the_feature_all_start_and_end_alike(self):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    z = (x[:, 0] > 0).astype(int)
    named = _learned(x, np.zeros((3, 60), np.float32), z, np.arange(30))
    np.testing.assert_array_equal(named[0], named[1])
    self.assertGreater((named[0, 30:] == z[30:]).mean(), 0.8)


class PropertyTest(parameterized.TestCase):
  def test_half_of_the_rows_exceed_the_median(self):
    config = appendix_e.get_config()
    source, exploit = build(config).source, config.exploit
    z = property_inference._property(source, exploit.column, exploit.per_class)
    self.assertAlmostEqual(z.mean(), 0.5, delta=1 / len(z))
    area = source.take(np.arange(len(z)))[:, 3]
    self.assertGreater(area[z == 1].min(), area[z == 0].max())

  def test_nobody_holds_the_property(self):
    config = appendix_e.get_config()
    parts = [c for part in config.split.columns for c in part]
    self.assertNotIn(config.exploit.column, parts)
    self.assertLen(set(parts), 28)
    self.assertEqual([len(part) for part in config.split.columns], [14, 14])

  @parameterized.parameters(
    ('exploit.column', 30, 'exploit.column=30 is no column'),
    (
      'exploit.per_class',
      500,
      r'per_class=500 must be a whole number in 1\.\.',
    ),
    ('attacks', (dict(name='completion.active'),), 'leave active attacks out'),
  )
  def test_bad_input(self, field, value, message):
    config = appendix_e.get_config('runlocal')
    config.update_from_flattened_dict({field: value})
    with self.assertRaisesRegex(InputError, message):
      experiments.run(config)


if __name__ == '__main__':
  absltest.main()
