"""The horizontal round of a config: what it draws, grants and refuses."""

from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np

from labelleak import experiments
from labelleak.base import InputError
from labelleak.experiments.hfl import main_task
from labelleak.experiments.hfl.build import build
from tests.experiments import samples


class RoundTest(parameterized.TestCase):
  def test_a_trials_batches_are_of_the_seed_and_the_trial_alone(self):
    setup = build(samples.horizontal(clients=3))
    batches = setup.draw(np.arange(4))
    self.assertEqual(batches.y.shape, (4, 3, 20, 10))
    self.assertEqual(batches.xs[0].shape, (4, 3, 20, 8, 8, 1))
    np.testing.assert_array_equal(
      batches.y.argmax(-1), setup.source.y[batches.index]
    )
    np.testing.assert_array_equal(
      batches.xs[0][1, 2], setup.source.take(batches.index[1, 2])
    )
    alone = build(samples.horizontal(clients=3, attacks=())).draw(np.array([2]))
    np.testing.assert_array_equal(alone.index[0], batches.index[2])
    other = build(samples.horizontal(clients=3, seed=1)).draw(np.arange(4))
    self.assertFalse((other.index == batches.index).all(-1).any())

  def test_a_setting_is_what_the_config_says(self):
    noise = samples.at_step(dict(name='gaussian', stddev=0.1))
    setting = build(
      samples.horizontal(
        defense=(dict(name='compress', drop=0.5), *noise),
        stands_for__data='cifar10',
        clients=2,
        queries=3,
      )
    ).setting
    self.assertEqual(setting.data, 'digits')
    self.assertEqual(setting.model, dict(name='mlp.mlp', width=16))
    self.assertEqual(setting.num_classes, 10)
    self.assertEqual(setting.batch_size, 20)
    self.assertFalse(setting.trained)
    self.assertEqual(setting.defense, [dict(name='compress', drop=0.5), *noise])
    self.assertEqual(setting.stands_for, dict(data='cifar10'))
    self.assertEqual(
      setting.extra,
      dict(local_steps=10, clients=2, partition='unbalanced', queries=3),
    )

  @parameterized.parameters(
    # step sigma, update sigma, S, Q -> what a step of one query would carry
    (0.3, 0.0, 10, 1, 0.3),
    (0.3, 0.0, 10, 4, 0.15),
    (0.0, 0.3, 4, 1, 0.15),
    (0.3, 0.8, 4, 1, 0.5),
  )
  def test_what_is_granted_of_noise(self, step, update, steps, queries, want):
    noise = lambda sigma: (dict(name='gaussian', stddev=sigma),) * (sigma > 0)
    at_step = samples.at_step(dict(name='clip', max_norm=1.0), *noise(step))
    at_update = (dict(name='compress', drop=0.4), *noise(update))
    setup = build(
      samples.horizontal(
        local_steps=steps, queries=queries, defense=(*at_step, *at_update)
      )
    )
    granted = dict(setup.known['defense'])
    self.assertAlmostEqual(granted.pop('gaussian'), want)
    self.assertEqual(granted, dict(clip=1.0, compress=0.4))


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(attacks=(dict(name='counts.llbgg'),)), "llbgg.*'counts.llbg'"),
    (dict(attacks=(dict(name='counts.llbg', gamma=1),)), "takes no 'gamma'"),
    (dict(attacks=(dict(),)), 'is no attack; write dicts with a name'),
    (dict(attacks=('counts.llbg',)), "'counts.llbg' is no attack"),
    (dict(defense=(dict(stddev=1.0),)), 'has no name'),
    (dict(defense=('clip',)), "defense 'clip' has no name"),
    (
      dict(attacks=(dict(name='counts.llg_plus'),)),
      "llg_plus needs 'labelled'",
    ),
    (dict(model__name='mlp.mpl'), "'mlp.mpl'.*'mlp.mlp'"),
    (dict(dataset=dict(name='digit')), 'did you mean digits'),
    (dict(dataset=dict(name='digits', split='tst')), "'tst'"),
    (dict(partition='unbalancd'), "'unbalanced'"),
    (
      dict(batch_size=100_000),
      'batch_size=100000 must be .*; the rows of the data',
    ),
    (dict(batch_size=12), 'leaves.*without examples.*local_steps='),
    (dict(batch_size=0), 'batch_size=0'),
    (dict(lr=0.0), 'lr=0.0'),
    (dict(known=('lr', 'labels')), "'labels'"),
    (dict(aggregate=dict(name='plaintxt')), "'plaintext'"),
    (dict(weights='/nowhere.npz'), '/nowhere.npz'),
    (dict(train=dict(steps=3, lr=0.1)), "'batch_size'"),
    (dict(train=dict(steps=3, lr=0.1, batch_size=4, speed=1)), "'speed'"),
    (
      dict(defense=(dict(name='gaussian', stddev=-1.0, at='step'),)),
      'stddev=-1.0',
    ),
    (dict(defense=(dict(name='clip', max_norm=1.0, at='end'),)), "at='end'"),
    (dict(model=dict(name='vit.tiny')), 'vit.tiny|patch'),
    (
      dict(dataset=dict(name='synthetic', num_classes=1)),
      'num_classes',
    ),
    (
      dict(known=('unlabelled',), aux__split='test'),
      "aux.split='test'.*hold examples out",
    ),
    (dict(known=('labelled',), aux__per_class=0), 'per_class=0'),
    (dict(dataset=dict(split='test')), "dataset lacks 'name', .* add it"),
    (dict(per_device=0), 'per_device=0'),
    (dict(clients=0), 'clients=0'),
    (dict(queries=0), 'queries=0'),
    (dict(seed=-1), 'seed=-1'),
    (
      dict(defense=(dict(name='smoothing', alpha=0.1),)),
      'smoothing .* is of vertical FL',
    ),
    (
      dict(defense=(dict(name='distance_correlation', weight=0.1),)),
      'acts on the loss',
    ),
    (
      dict(defense=(dict(name='mid', weight=0.1),)),
      'mid .* is of vertical FL',
    ),
  )
  def test_one_line_naming_the_value(self, fields, message):
    with self.assertRaisesRegex(InputError, message) as caught:
      experiments.run(samples.horizontal(**fields))
    self.assertNotIn('\n', str(caught.exception))


class CheckpointsTest(absltest.TestCase):
  """A workdir of the training: every point has its own model, killed or not."""

  def _accuracies(self, **options):
    fixed = dict(steps=20, batch_size=32, **options)
    train = [dict(fixed, lr=lr) for lr in (1e-5, 1e-2)]
    config = samples.horizontal(
      attacks=samples.COUNTS[:1],
      trials=1,
      sweep=(('train', tuple(train)),),
    )
    config.train = train[0]
    config.main_task = train[1]
    rows = experiments.run(config)
    return [
      (row['setting']['extra']['accuracy'], row['metrics']['main_accuracy'])
      for row in rows
    ]

  def test_points_do_not_share_a_model(self):
    free = self._accuracies()
    self.assertLess(free[0][0], free[-1][0])
    workdir = self.create_tempdir().full_path
    for _ in range(2):  # the second finds what the first left
      with mock.patch.dict(main_task._ACCURACIES, clear=True):
        self.assertEqual(self._accuracies(workdir=workdir), free)


if __name__ == '__main__':
  absltest.main()
