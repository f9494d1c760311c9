"""Simulated remedies against what must hold of them."""

from absl.testing import absltest
import jax
import numpy as np

from labelleak import hfl
from labelleak.audit import remedies, simulation

K, H, N = 6, 40, 48
LABELS = np.array([20, 12, 8, 5, 3, 0])


def _capture(seed=0):
  """Makes the head's update of one step whose inputs are all the same."""
  rng = np.random.default_rng(seed)
  h = np.abs(rng.normal(size=H))
  bias = 0.1 * (1 / K - LABELS / N)
  server = dict(kernel=rng.normal(size=(H, K)), bias=rng.normal(size=K))
  return h, dict(kernel=np.outer(h, bias), bias=bias), server


class SimulateTest(absltest.TestCase):
  def test_stronger_defenses_leave_less(self):
    _, update, _ = _capture()
    client = hfl.Client(lr=0.1, batch_size=16)
    results = remedies.simulate(
      jax.random.key(0), update, None, client, labels=LABELS.astype(float)
    )
    self.assertLen({remedy.name for remedy in results}, len(results))
    leaks = {remedy.name: remedy.accuracy for remedy in results}
    plain = leaks['as it is']
    self.assertGreater(plain, 0.9)
    noises = [leak for name, leak in leaks.items() if name.startswith('noise')]
    self.assertLen(noises, 3)
    self.assertLess(noises[1], noises[0])
    self.assertLess(noises[2], noises[1])
    self.assertLess(noises[2], plain - 0.15)
    private = [leak for name, leak in leaks.items() if name.startswith('DP')]
    self.assertLess(private[1], private[0])
    sums = [leak for name, leak in leaks.items() if name.startswith('secure')]
    self.assertLess(max(sums), plain - 0.05)
    for remedy in results:
      self.assertBetween(remedy.guessing, 0.4, 0.9)
      self.assertBetween(remedy.accuracy, remedy.guessing - 0.1, 1.0)

  def test_a_large_head_is_not_simulated(self):
    update = dict(bias=np.zeros(3000))
    results = remedies.simulate(
      jax.random.key(0), update, None, hfl.Client(), labels=np.ones(3000)
    )
    self.assertEmpty(results)


class ReduceTest(absltest.TestCase):
  def test_keeps_the_logits_of_the_mean_input(self):
    h, update, server = _capture()
    head, mean = simulation.reduce(update, server)
    self.assertLess(len(mean), H)
    np.testing.assert_allclose(
      mean @ head['kernel'] + head['bias'],
      h @ server['kernel'] + server['bias'],
      rtol=1e-4,
    )
    np.testing.assert_allclose(
      np.linalg.norm(mean), np.linalg.norm(h), rtol=1e-5
    )

  def test_without_a_kernel_inputs_are_zero(self):
    _, update, _ = _capture()
    head, mean = simulation.reduce(dict(bias=update['bias']), None)
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_array_equal(head['kernel'], 0)
    self.assertEqual(head['kernel'].shape[1], K)


if __name__ == '__main__':
  absltest.main()
