"""Training without an attack: what its row says of time and traffic."""

import time

from absl.testing import absltest

from labelleak import experiments, train
from labelleak.experiments.vfl import training
from tests.experiments import samples


class TrainingTest(absltest.TestCase):
  def test_steps_take_no_longer_than_the_run(self):
    config = samples.vertical(
      experiment='vfl.training', train__steps=30, trials=1
    )
    config.model = dict(name='mlp.linear')
    started = time.perf_counter()
    (row,) = experiments.run(config)
    passed = time.perf_counter() - started
    self.assertBetween(30 * row['step_seconds'], 1e-3, passed)
    total = sum(sum(messages.values()) for messages in row['traffic'])
    self.assertEqual(row['metrics']['bytes']['mean'], total)
    self.assertGreater(total, 0)

  def test_a_resumed_training_counts_what_was_left(self):
    chunk = train.CHUNK
    ends = [chunk, 2 * chunk, 2 * chunk + 5]
    for done in range(3):
      left = 2 * chunk + 5 - done * chunk
      self.assertEqual(training._count(ends[-1], ends[done:]), left)


if __name__ == '__main__':
  absltest.main()
