"""Pictures of the joint model: what rows keep, and that files appear."""

import pathlib

from absl.testing import absltest, parameterized
import numpy as np

from configs import completion_figures
from labelleak import experiments
from labelleak.experiments.vfl import attribution
from labelleak.report import explained


def _row(attack, **fields):
  metrics = dict(reliance=dict(mean=0.5, std=0.0, stderr=0.0))
  return dict(attack=attack, metrics=metrics, **fields)


class ExplainTest(parameterized.TestCase):
  def test_rows_and_files(self):
    config = completion_figures.get_config('runlocal')
    config.trials, config.train.steps = 1, 60
    config.attacks = config.attacks[:1]
    workdir = self.create_tempdir().full_path
    rows = experiments.run(config, workdir)
    self.assertEqual(
      [row['attack'] for row in rows], ['completion.passive', 'scores.random']
    )
    points = np.array(rows[0]['points'])
    self.assertEqual(points.shape, (60, 3))
    self.assertContainsSubset(set(points[:, 2]), range(10))
    self.assertGreater(points[:, :2].std(), 0)
    self.assertBetween(rows[0]['metrics']['reliance']['mean'], 0.01, 0.99)
    self.assertNotIn('maps', rows[0])
    self.assertTrue(pathlib.Path(workdir, 'points.png').exists())

  def test_rows_are_spread(self):
    self.assertEqual(attribution._some(10, 99).tolist(), list(range(10)))
    self.assertEqual(attribution._some(101, 3).tolist(), [0, 50, 100])

  def test_maps_are_drawn_over_images(self):
    shown = dict(image=np.zeros((4, 6, 3)).tolist(), map=np.eye(4, 6).tolist())
    rows = [_row('completion.passive', maps=[shown] * 2)] * 2
    fig = explained.looked_at(rows)
    drawn = [len(ax.images) for ax in fig.axes]
    self.assertEqual(drawn, [1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(
      fig.axes[2].images[1].get_array(), np.eye(4, 6)
    )

  def test_points_are_colored_by_label(self):
    points = [[0, 1, 3], [2, 5, 4]]
    fig = explained.scatter([_row('completion.active', points=points)])
    (cloud,) = fig.axes[0].collections
    np.testing.assert_array_equal(cloud.get_array(), [3, 4])
    self.assertIn('active', fig.axes[0].get_title())


if __name__ == '__main__':
  absltest.main()
