"""What is made of a posterior and of an update, against closed forms."""

import types

from absl.testing import absltest, parameterized
import numpy as np

from labelleak import hfl
from labelleak.audit import horizontal, readings

K, N = 3, 6
COUNTS = np.array([3, 2, 1])


def _reading(probs=None):
  """A posterior that is sure of COUNTS, or another one."""
  probs = np.eye(N + 1)[COUNTS] if probs is None else probs
  known = hfl.Known(K, N)
  return readings.Reading(None, known, probs, COUNTS)


def _capture(**update):
  """A capture that has an update alone."""
  return types.SimpleNamespace(update=update, server=None)


class HorizontalTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(), 1), (dict(batch_size=2), 3), (dict(batch_size=4, epochs=2), 4)
  )
  def test_a_rate_is_that_of_as_many_steps(self, fields, steps):
    """Negative entries sum to the rate times the steps, of SGD."""
    capture = _capture(bias=np.array([0.3, -0.5, -0.1]))
    setting = readings.Setting(hfl.Client(**fields), N)
    found = readings._guess_rate(capture, setting)
    self.assertAlmostEqual(found, 0.6 / steps)
    still = _capture(bias=np.ones(3))
    self.assertEqual(readings._guess_rate(still, setting), 1.0)

  def test_a_view_is_the_update_by_the_rate(self):
    view = readings._view(_capture(bias=np.array([0.5, -1.0])), 0.25)
    np.testing.assert_array_equal(view.grads['head']['bias'], [2.0, -4.0])

  def test_expected_accuracy_is_a_mean_over_draws(self):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(N + 1), size=K)
    draws = np.stack([rng.choice(N + 1, 20_000, p=p) for p in probs], 1)
    found = horizontal.expected_accuracy(COUNTS, probs)
    drawn = np.minimum(draws, COUNTS).sum(1).mean() / N
    self.assertAlmostEqual(found, drawn, delta=0.01)

  def test_scores_of_guessing_and_of_the_classes(self):
    probs = np.eye(N + 1)[COUNTS]
    probs[2] = 0.6, 0.4, 0, 0, 0, 0, 0  # rather not there
    setting = readings.Setting(hfl.Client(), N, truth=np.array([4, 2, 0]))
    update = dict(bias=np.array([-0.3, -0.1, 0.4]))
    view = hfl.View(grads={'head': update})
    middle = _reading(probs)._replace(view=view)
    scores = {
      score.name: score
      for score in horizontal._score(_capture(**update), setting, middle)
    }
    self.assertEqual(scores['guessing'].counts, (2.0, 2.0, 2.0))
    self.assertEqual(scores['classes alone'].counts, (3.0, 3.0, 0.0))
    calibrated = scores['calibrated']
    self.assertAlmostEqual(calibrated.expected, (3 + 2 + 0.4) / 6)
    self.assertAlmostEqual(calibrated.agreement, 1.0)
    self.assertAlmostEqual(calibrated.accuracy, (3 + 2 + 0) / 6)
    self.assertAlmostEqual(scores['guessing'].agreement, (2 + 2 + 1) / 6)
    self.assertContainsSubset({'EBI', 'LLBG'}, scores)
    self.assertNotIn('LLG', scores)  # which reads a kernel

  def test_published_attacks_see_one_epoch(self):
    """Of 2 epochs of a batch; their steps are those of one."""
    client = hfl.Client(lr=1.0, batch_size=4, epochs=2)
    setting = readings.Setting(client, 8)
    # Two steps of four examples an epoch: 1 / K - counts / 4 each.
    counts = np.array([5, 2, 1])
    update = dict(bias=np.float32(2 * (2 / 3 - counts / 4)))
    middle = readings.Reading(
      hfl.View(grads={'head': update}), hfl.Known(K, 8, steps=2), None, counts
    )
    found = horizontal._attack(_capture(**update), setting, middle)
    np.testing.assert_array_equal(found['LLBG'], counts)

  def test_an_interval_is_the_shortest(self):
    probs = np.array(
      [
        [0.04, 0.02, 0.8, 0.1, 0.03, 0.01, 0.0],
        [0.06, 0.9, 0.04, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.05, 0.9, 0.05, 0.0, 0.0],
      ]
    )
    estimates = horizontal._estimate(_reading(probs), np.array([2, 1, 3]))
    self.assertEqual(
      [(e.low, e.high) for e in estimates], [(2, 3), (1, 1), (3, 3)]
    )
    np.testing.assert_allclose([e.present for e in estimates], [0.96, 0.94, 1])
    self.assertEqual([e.count for e in estimates], list(COUNTS))
    self.assertEqual([e.truth for e in estimates], [2, 1, 3])

  def test_rates_are_scored_by_the_middle_one(self):
    other = _reading()._replace(counts=np.array([6, 0, 0]))
    found = horizontal._compare_rates(
      (0.1, 0.2), [other, _reading()], _reading()
    )
    self.assertEqual([s.name for s in found], ['lr = 0.1', 'lr = 0.2'])
    self.assertEqual([s.agreement for s in found], [0.5, 1.0])
    one = horizontal._compare_rates((0.1,), [other], _reading())
    self.assertEmpty(one)


if __name__ == '__main__':
  absltest.main()
