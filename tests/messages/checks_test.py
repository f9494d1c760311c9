"""Checks of captured files, each at its limit."""

import pathlib
import types

from absl.testing import absltest, parameterized
import numpy as np

from labelleak.base import InputError
from labelleak.messages import checks, layers

SERVER = dict(w=np.array([3.0, 0.0]), v=np.array([0.0, 4.0]))  # of size 5


def _file(name='a.npz', **parameters):
  return types.SimpleNamespace(path=pathlib.Path(name), parameters=parameters)


class ScaleTest(parameterized.TestCase):
  @parameterized.parameters(
    (1.0, 1.0, True),  # the model itself
    (-1.0, 1.0, True),
    (1.0, 0.31, True),
    (1.0, 0.29, False),  # too small to be one
    (1.0, 2.9, True),
    (1.0, 3.1, False),
    (0.91, 1.0, True),  # about in its direction
    (0.89, 1.0, False),
  )
  def test_an_update_as_long_as_the_model_and_along_it(
    self, cosine, length, refused
  ):
    along = np.array([0.6, 0.8])
    across = np.array([0.8, -0.6])
    sine = (1 - cosine**2) ** 0.5
    step = 5 * length * (cosine * along + sine * across)
    update = dict(w=np.array([step[0], 0.0]), v=np.array([0.0, step[1]]))
    check = lambda: checks.check_scale(SERVER, _file(), update)
    if refused:
      with self.assertRaisesRegex(InputError, 'holds a model where an update'):
        check()
    else:
      check()

  @parameterized.parameters((9.9, False), (10.1, True))
  def test_a_round_does_not_move_a_model_by_ten_sizes(self, times, refused):
    update = dict(w=np.array([0.0, 5 * times]), v=np.zeros(2))
    check = lambda: checks.check_scale(SERVER, _file(), update)
    if refused:
      with self.assertRaisesRegex(InputError, 'moves the model by 10.1 times'):
        check()
    else:
      check()

  @parameterized.parameters(
    ((0.9, 1.0, 1.1, 1.2), True),
    ((0.7, 1.0, 1.1, 1.3), True),
    ((0.6, 1.0, 1.1, 1.3), False),
    ((0.29, 0.3, 0.3, 0.3), False),
    ((1.0, 1.0, 1.0), False),  # too few to tell
  )
  def test_the_scale_of_a_norm_lies_about_one(self, values, is_one):
    self.assertEqual(checks._is_scale(np.array(values)), is_one)

  def test_the_first_scale_is_named(self):
    update = {name: np.ones(5) for name in ('bn1.weight', 'bn2.weight')}
    with self.assertRaisesRegex(InputError, r'\(bn1.weight scales a norm\)'):
      checks.check_scale({}, _file(), update)

  def test_norms_add_up_over_tensors(self):
    self.assertAlmostEqual(checks.norm(SERVER), 5.0)


class OrderTest(absltest.TestCase):
  def test_the_first_constant_is_named(self):
    moved = np.array([0.5, 1.5, 1.0])
    server = _file('a', x=moved, y=moved, z=np.zeros(3))
    client = _file('b', x=moved, y=np.ones(3), z=np.zeros(3))
    server.buffers = client.buffers = {}
    with self.assertRaisesRegex(InputError, 'order: y is constant'):
      checks.check_order(server, client)
    checks.check_order(client, client)

  def test_only_zeros_or_ones_are_initial(self):
    for values, initial in (
      ((0.0, 0.0), True),
      ((1.0, 1.0), True),
      ((0.5, 0.5), False),
      ((0.0, 1.0), False),
      ((1.0, 0.0), False),
      ((0.5, 1.0), False),
      ((1.0,), False),
    ):
      self.assertEqual(checks._is_initial(np.float32(values)), initial, values)


class LayersTest(absltest.TestCase):
  def test_imbalance_is_of_sums_over_sizes(self):
    tensor = np.array([[1.0, -1.0, 0.0], [2.0, 1.0, -5.0]])
    self.assertAlmostEqual(layers.imbalance(tensor), 2 / 10)
    self.assertEqual(layers.imbalance(np.zeros(3)), 1.0)

  def test_a_balanced_layer_sums_to_zero_over_its_classes(self):
    """As rows or as columns; of 5 classes, whatever the sums over inputs."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(4, 5)) + 1
    kernel -= kernel.mean(1, keepdims=True)
    layer = layers.Layer('fc.weight', None, (5,))
    self.assertTrue(layers.is_balanced({'fc.weight': kernel.T}, layer, 5))
    self.assertFalse(layers.is_balanced({'fc.weight': kernel.T + 1}, layer, 5))
    limit = layers.tolerance(5)  # 0.02
    for share, balanced in ((0.9, True), (1.1, False)):
      off = kernel + share * limit * np.abs(kernel)
      found = layers.is_balanced({'fc.weight': off.T}, layer, 5)
      self.assertEqual(found, balanced)


if __name__ == '__main__':
  absltest.main()
