"""What an experiment returns, and the row that it becomes."""

from absl.testing import absltest
import numpy as np

from labelleak.experiments import result


class SummaryTest(absltest.TestCase):
  def test_closed_form(self):
    out = result.summary(np.array([0.0, 1.0]))
    self.assertAlmostEqual(out['mean'], 0.5)
    self.assertAlmostEqual(out['std'], 0.5**0.5)  # n - 1, as papers report
    self.assertAlmostEqual(out['stderr'], 0.5)
    self.assertEqual(result.summary(np.ones(1))['stderr'], 0.0)


if __name__ == '__main__':
  absltest.main()
