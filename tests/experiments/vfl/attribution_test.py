"""Pictures of the joint model: what rows keep, and that files appear."""

import pathlib
import types
from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np

from configs import completion_figures
from labelleak import experiments
from labelleak.experiments.vfl import attribution


class ExplainTest(parameterized.TestCase):
  def test_rows_and_files(self):
    config = completion_figures.get_config('runlocal')
    config.trials, config.train.steps = 1, 60
    config.attacks = config.attacks[:1]
    workdir = self.create_tempdir().full_path
    run = attribution.sweep.map_trials

    def run_another(trial, num, **options):
      """Adds a trial that kept nothing: a row shows the first."""
      looks = run(trial, num, **options)
      return [*looks, [(values, {}) for values, _ in looks[0]]]

    with mock.patch.object(attribution.sweep, 'map_trials', run_another):
      rows = experiments.run(config, workdir)
    self.assertEqual(
      [row['attack']['name'] for row in rows],
      ['completion.passive', 'scores.random'],
    )
    points = np.array(rows[0]['points'])
    self.assertEqual(points.shape, (60, 3))
    self.assertContainsSubset(set(points[:, 2]), range(10))
    self.assertGreater(points[:, :2].std(), 0)
    self.assertBetween(rows[0]['metrics']['reliance']['mean'], 0.01, 0.99)
    self.assertNotIn('maps', rows[0])
    self.assertTrue(pathlib.Path(workdir, 'points.png').exists())

  def test_a_few_rows_are_drawn_with_few_neighbours(self):
    """t-SNE asks for a perplexity below the number of points."""
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    source = types.SimpleNamespace(y=np.arange(7), take=lambda rows: x[rows])
    party = types.SimpleNamespace(apply=lambda v, x, train, key: (x, {}))
    joint = types.SimpleNamespace(
      source=source, party=party, part=lambda x: x, attacker=0
    )
    state = types.SimpleNamespace(variables=[{}])
    tsne = attribution.manifold.TSNE
    for points, perplexity in ((3, 2 / 3), (7, 2.0)):
      with mock.patch.object(
        attribution.manifold, 'TSNE', side_effect=tsne
      ) as made:
        pictures = attribution._pictures(
          joint, state, 0, points=points, images=0, layer=None
        )
      self.assertAlmostEqual(made.call_args.kwargs['perplexity'], perplexity)
      drawn = np.array(pictures['points'])
      self.assertEqual(drawn.shape, (points, 3))
      self.assertLen(np.unique(drawn[:, :2], axis=0), points)

  def test_rows_are_spread(self):
    self.assertEqual(attribution._spread(10, 99).tolist(), list(range(10)))
    self.assertEqual(attribution._spread(101, 3).tolist(), [0, 50, 100])


if __name__ == '__main__':
  absltest.main()
