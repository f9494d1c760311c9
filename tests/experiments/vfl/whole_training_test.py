"""What a whole training gives away, in the smallest of trainings."""

from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np
import pytest

from configs import common
from labelleak import experiments, runs
from labelleak.attacks.history import smoothing, trace
from labelleak.attacks.memory_folder import MemoryFolder
from labelleak.base import InputError
from labelleak.experiments.vfl import whole_training
from tests.experiments import samples


def _config(**fields):
  config = samples.vertical(
    experiment='vfl.whole_training',
    aggregate=dict(name='plaintext'),
    attacks=(dict(name='scores.direct'),),
    trials=1,
    **fields,
  )
  config.after = (1, 2)
  common.train(config, batch_size=256, epochs=2)
  config.optimizer = dict(name='adam', lr=0.01)
  return config


class WholeTrainingTest(parameterized.TestCase):
  def test_undefended_steps_give_every_label_away(self):
    config = _config()
    config.known = ('pool',)
    config.attacks += (dict(name='history.gaussian_process', anchors=60),)
    direct, process, guess = experiments.run(config)
    for row in (direct, process):
      self.assertEqual(row['metrics']['label_accuracy']['mean'], 1.0)
      self.assertEqual(row['metrics']['after_1']['mean'], 1.0)
      self.assertEqual(row['metrics']['best_step']['mean'], 1.0)
    self.assertLess(guess['metrics']['label_accuracy']['mean'], 0.2)
    self.assertEqual(direct['setting']['extra']['after'], [1, 2])

  @parameterized.parameters(False, True)
  def test_a_killed_training_is_observed_from_where_it_ended(self, new_code):
    config = _config(defense=(dict(name='gaussian', stddev=0.005),))
    config.known = ('pool',)
    config.attacks += (dict(name='history.gaussian_process', anchors=60),)
    rows = experiments.run(config)
    steps, real = [], trace.observe

    def observe(memory, view):
      if len(steps) == 8:
        steps.append('killed')
        raise KeyboardInterrupt
      steps.append(view.index)
      return real(memory, view)

    workdir = self.create_tempdir().full_path
    with (
      mock.patch.object(runs, 'EVERY', 0.0),
      mock.patch.object(smoothing.trace, 'observe', observe),
    ):
      with self.assertRaises(KeyboardInterrupt):
        experiments.run(config, workdir)
      code = ['other'] if new_code else runs.code()
      with mock.patch.object(whole_training.runs, 'code', return_value=code):
        again = experiments.run(config, workdir)
    self.assertLen(steps, 9 + (12 if new_code else 12 - 8))
    self.assertEqual(*[[*map(runs.comparable, r)] for r in (rows, again)])

  def test_a_memory_that_no_folder_keeps_costs_no_run(self):
    refused = InputError('a memory holds a set')
    with (
      mock.patch.object(runs, 'EVERY', 0.0),
      mock.patch.object(MemoryFolder, 'save', side_effect=refused) as save,
      mock.patch.object(whole_training, 'say') as say,
    ):
      experiments.run(_config(), self.create_tempdir().full_path)
    save.assert_called_once()
    say.assert_called_once()
    self.assertIn('any more: a memory holds a set', say.call_args.args[0])

  @pytest.mark.slow
  def test_test_rows_are_named_by_who_names_rows_of_no_step(self):
    config = _config(defense=(dict(name='gaussian', stddev=0.005),))
    config.known = ('pool',)
    config.attacks += (
      dict(name='history.gaussian_process', anchors=60),
      dict(name='history.classifier'),
      dict(
        name='history.true_labels', learner='network', known=('pool', 'labels')
      ),
    )
    direct, process, own, bound, _ = experiments.run(config)
    value = lambda row, name: row['metrics'][name]['mean']
    self.assertLess(value(direct, 'test_accuracy'), 0.2)
    for row in (process, own):
      self.assertGreater(value(row, 'test_accuracy'), 0.7)
      gain = value(row, 'label_accuracy') - value(direct, 'label_accuracy')
      self.assertGreater(gain, 0.1)
    self.assertGreater(value(bound, 'test_accuracy'), 0.85)
    self.assertLess(value(bound, 'label_accuracy'), 1.0)

  @pytest.mark.slow
  def test_a_sealed_training_gives_labels_away(self):
    config = _config()
    config.aggregate = dict(name='ideal')
    config.known = 'pool', 'bottom'
    config.attacks = (
      dict(name='history.gaussian_process', anchors=60),
      dict(name='history.classifier'),
      dict(name='linear.least_squares'),
    )
    for row in experiments.run(config)[:3]:
      self.assertGreater(row['metrics']['label_accuracy']['mean'], 0.7)
      self.assertNotIn('best_step', row['metrics'])

  def test_a_sealed_link_is_read_by_the_own_model_alone(self):
    config = _config()
    config.aggregate = dict(name='ideal')
    config.known = ('pool',)
    config.attacks = (dict(name='history.classifier'),)
    with self.assertRaisesRegex(InputError, "add 'bottom' to known"):
      experiments.run(config)

  def test_an_attack_of_an_instant_answers_with_its_mean(self):
    config = _config(defense=(dict(name='gaussian', stddev=0.001),))
    direct, _ = experiments.run(config)
    once, twice = (direct['metrics'][f'after_{e}']['mean'] for e in (1, 2))
    self.assertGreater(twice, once + 0.02)
    self.assertEqual(direct['metrics']['label_accuracy']['mean'], twice)

  def test_trainings_are_the_same_whatever_observes_them(self):
    alone, _ = experiments.run(_config())
    config = _config()
    config.attacks = (dict(name='scores.random'),)
    other, *_ = experiments.run(config)
    np.testing.assert_equal(
      alone['metrics']['main_accuracy'], other['metrics']['main_accuracy']
    )

  def test_refuses_scores_that_would_mean_nothing(self):
    config = _config()
    config.train.tested = 'train'
    with self.assertRaisesRegex(InputError, 'tested names the rows'):
      experiments.prepare(config)
    config = _config(top=dict(name='mlp.fcnn'))
    experiments.prepare(config)
    config.known = ('pool',)
    config.attacks = (dict(name='history.classifier'),)
    with self.assertRaisesRegex(InputError, 'top=.*history.classifier'):
      experiments.prepare(config)

  @parameterized.parameters(
    ((), 'ascend'),
    ((2, 1), 'ascend'),
    ((1, 1), 'ascend'),
    ((3,), 'after=3'),
    ((0,), 'after=0'),
  )
  def test_refuses_epochs_that_are_not_trained(self, after, says):
    config = _config()
    config.after = after
    with self.assertRaisesRegex(InputError, says):
      experiments.prepare(config)


if __name__ == '__main__':
  absltest.main()
