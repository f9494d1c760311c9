"""Remarks: each at its limit, and not below it."""

import pathlib
import types

from absl.testing import absltest, parameterized
import numpy as np

from labelleak.messages import remarks

K = 16  # classes, of which rounding makes an imbalance of 0.02


def _update(imbalance):
  """A kernel whose sums over classes are such a share of its size."""
  row = np.tile([1.0, -1.0], K // 2)
  return dict(kernel=np.tile(row + imbalance * np.abs(row), (5, 1)))


class HeadTest(parameterized.TestCase):
  @parameterized.parameters((0.019, 0), (0.021, 1))
  def test_an_imbalance_beyond_rounding(self, imbalance, num):
    self.assertLen([*remarks.on_head(_update(imbalance), None, 1e-7)], num)

  @parameterized.parameters((0.055, 0), (0.064, 1))
  def test_rounding_of_the_files_is_allowed_for(self, imbalance, num):
    """A 20th of the update, by K random entries: 3 / 20 / sqrt(K) more."""
    update = _update(imbalance)
    size = np.abs(update['kernel']).sum()
    server = dict(kernel=np.full((5, K), 2.0 * size / (5 * K)))
    found = [*remarks.on_head(update, server, 0.1)]
    self.assertLen(found, num)
    self.assertNotIn('Rounding', ''.join(found))

  @parameterized.parameters((0.39, False), (0.41, True))
  def test_loud_rounding(self, precision, loud):
    update = _update(0.0)
    server = dict(kernel=-update['kernel'])
    found = ' '.join(remarks.on_head(update, server, precision))
    self.assertEqual('is about 10% of the update' in found, loud)

  @parameterized.parameters(0.0, 1.0, -1.0)
  def test_a_turned_sign_shows_whatever_the_mean(self, shift):
    """Labels of few classes make a few entries far below the others."""
    bias = np.full(K, 1 / K)
    bias[3] -= 1
    said = lambda bias: (
      'swapped'
      in ' '.join(remarks.on_head(dict(bias=bias + shift), None, 1e-7))
    )
    self.assertFalse(said(bias))
    self.assertTrue(said(-bias))
    even = np.tile([1.0, -1.0], K // 2)
    self.assertFalse(said(even))


class FilesTest(absltest.TestCase):
  def test_what_is_absent_is_named_and_nothing_else(self):
    ones = np.ones(2)
    file = lambda name, **parameters: types.SimpleNamespace(
      path=pathlib.Path(name), parameters=parameters, buffers={}, notes=()
    )
    server, client = file('a', x=ones, y=ones), file('b', x=ones)
    (found,) = remarks.on_files(server, client)
    self.assertIn('lacks y of a', found)
    self.assertEmpty([*remarks.on_files(server, server)])


if __name__ == '__main__':
  absltest.main()
