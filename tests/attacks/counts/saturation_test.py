"""Counts by entries that saturate, against Adam's own steps in NumPy."""

from absl.testing import absltest
import jax
import numpy as np

from labelleak.attacks.counts import posterior, saturation

K, N = 6, 90
COUNTS = np.array([45, 20, 12, 8, 5, 0])


def step_adam(gradients):
  """Returns where Adam of rate 1 moves entries, [S, K] -> [K]."""
  first = second = end = np.zeros(gradients.shape[1])
  for t, g in enumerate(gradients, 1):
    first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
    bias = np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    end = end + bias * first / (np.sqrt(second) + 1e-8)
  return end


def train(seed, epochs=6, size=10):
  """Returns the bias update of Adam under an even softmax, [K]."""
  rng = np.random.default_rng(seed)
  labels = np.eye(K)[np.repeat(np.arange(K), COUNTS)]
  orders = [rng.permutation(N).reshape(-1, size) for _ in range(epochs)]
  steps = np.concatenate(orders)
  return step_adam(1 / K - labels[steps].mean(1))


infer = jax.jit(saturation.infer_counts, static_argnums=1)


class SaturationTest(absltest.TestCase):
  def test_adam_of_many_steps(self):
    """Named better than by a line through the entries."""
    found, linear = [], []
    for seed in range(6):
      beta = train(seed)
      counts = posterior.allocate(infer(beta, N).probs)
      found.append(np.minimum(counts, COUNTS).sum() / N)
      drop = beta.max() - beta
      linear.append(np.minimum(N * drop / drop.sum(), COUNTS).sum() / N)
    self.assertGreater(np.mean(found), 0.9)
    self.assertGreater(np.mean(found), np.mean(linear) + 0.02)

  def test_intervals_hold_the_truth(self):
    held = []
    for seed in range(5):
      low, high, _ = posterior.interval(infer(train(seed), N).probs)
      held.append((low <= COUNTS) & (high >= COUNTS))
    self.assertGreater(np.mean(held), 0.8)

  def test_scale_tells_nothing(self):
    beta = train(3)
    one, other = infer(beta, N), infer(20 * beta, N)
    np.testing.assert_allclose(one.probs, other.probs, atol=1e-3)
    # As of a density.
    drop = one.evidence - other.evidence
    self.assertAlmostEqual(drop, K * np.log(20), delta=0.01)

  def test_classes_have_no_order(self):
    beta, order = train(4), np.array([3, 1, 5, 0, 2, 4])
    one, other = infer(beta, N), infer(beta[order], N)
    np.testing.assert_allclose(one.probs[order], other.probs, atol=1e-3)

  def test_an_update_of_nothing_is_finite(self):
    probs = infer(np.zeros(K), N).probs
    self.assertTrue(np.isfinite(probs).all())
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-3)


if __name__ == '__main__':
  absltest.main()
