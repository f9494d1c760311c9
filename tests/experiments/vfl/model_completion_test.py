"""The experiment of model completion: what a run trains, grants and scores."""

from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from configs import common
from labelleak import attacks, experiments
from labelleak.attacks.completion import malicious
from labelleak.base import InputError
from labelleak.experiments.vfl import joint, model_completion
from labelleak.experiments.vfl.build import build

_QUICK = dict(epochs=3, iterations=100, ema=0.98)


def _config(**fields):
  config = common.completion('test')
  config.model = dict(name='mlp.mlp2', width=64)
  config.optimizer = dict(name='sgd', lr=0.05, momentum=0.9, weight_decay=5e-4)
  config.batch_size = config.train.batch_size = 32
  config.train.steps = 43 * 15
  config.trials = 1
  config.attacks = tuple(
    dict(name=f'completion.{name}', **_QUICK)
    for name in ('passive', 'active', 'semi_supervised')
  )
  for path, value in fields.items():
    config.update_from_flattened_dict({path.replace('__', '.'): value})
  return config


class ExperimentTest(parameterized.TestCase):
  def test_the_bottom_leaks_on_digits(self):
    """More than the same head on a bottom that was never trained."""
    config = _config(train__steps=43 * 30)
    schedule = dict(epochs=3, iterations=200, ema=0.99)
    bound = dict(known=('party', 'pool', 'labels'), epochs=15, batch_size=32)
    config.attacks = (
      dict(name='completion.passive', **schedule),
      dict(name='completion.active', **schedule),
      dict(name='completion.semi_supervised', tune='head', **schedule),
      dict(name='completion.supervised', **bound),
    )
    rows = experiments.run(config)
    by_attack = {row['attack']['name']: row['metrics'] for row in rows}
    mean = lambda attack, name='label_accuracy': by_attack[attack][name]['mean']
    passive, untrained = 'completion.passive', 'completion.semi_supervised'
    self.assertGreater(mean(passive), mean(untrained) + 0.05)
    self.assertGreater(mean(passive), 0.5)
    self.assertGreater(mean('completion.supervised'), mean(passive))
    self.assertLess(mean('scores.random'), 0.15)
    for row in rows:
      metrics = row['metrics']
      self.assertGreater(metrics['main_accuracy']['mean'], 0.8)
      self.assertGreaterEqual(
        metrics['top5_accuracy']['mean'], metrics['label_accuracy']['mean']
      )
      if row['attack']['name'] != 'scores.random':
        self.assertGreaterEqual(
          metrics['best_accuracy']['mean'] + 1e-6,
          metrics['label_accuracy']['mean'],
        )
      self.assertTrue(row['setting']['trained'])
      extra = row['setting']['extra']
      self.assertEqual(extra['labelled'], 40)
      self.assertEqual(
        [extra[k] for k in ('parties', 'share', 'shared')], [2, 0.5, 0]
      )
    # Who shares a training shares its model; the active attack has its own.
    main = lambda attack: mean(attack, 'main_accuracy')
    self.assertEqual(main(passive), main(untrained))
    self.assertNotEqual(main('completion.active'), main(passive))
    (active,) = (
      row for row in rows if row['attack']['name'] == 'completion.active'
    )
    self.assertEqual(active['gain']['over'], passive)
    self.assertEqual(active['gain']['verdict'], 'not told from 0')  # one seed
    gain = mean('completion.active') - mean(passive)
    self.assertAlmostEqual(active['gain']['mean'], gain, places=4)

  def test_each_trial_trains_from_a_seed_of_its_own(self):
    setup = model_completion.prepare(_config(seed=5))
    with mock.patch.object(
      joint.Joint, 'fit', side_effect=FloatingPointError('stop')
    ) as fit:
      for trial in (0, 3):
        with self.assertRaisesRegex(FloatingPointError, 'stop'):
          model_completion._trial(setup, trial, None)
    self.assertEqual([call.args[0] for call in fit.call_args_list], [5, 8])

  def test_labelled_rows_are_of_training_and_not_scored(self):
    config = _config(aux__per_class=3)
    setup = model_completion.prepare(config)
    source = setup.joint.source
    for trial in (0, 1):
      rows = setup.joint.draw_labelled(3, trial)
      pool = model_completion._pool_rows(setup, trial)
      np.testing.assert_array_equal(np.bincount(source.y[rows]), np.full(10, 3))
      np.testing.assert_array_equal(
        np.sort(np.append(rows, pool)), np.arange(len(source.y))
      )
    self.assertFalse(
      np.array_equal(
        *(np.sort(setup.joint.draw_labelled(3, t)) for t in (0, 1))
      )
    )
    known = model_completion._grant(setup, setup.attackers[0], 0)
    part = lambda rows: setup.joint.part(source.take(rows))
    rows, pool = (
      setup.joint.draw_labelled(3, 0),
      model_completion._pool_rows(setup, 0),
    )
    np.testing.assert_array_equal(known.labelled.x, part(rows))
    np.testing.assert_array_equal(known.labelled.y.argmax(1), source.y[rows])
    np.testing.assert_array_equal(known.pool.take(np.arange(9)), part(pool[:9]))
    self.assertEqual(known.pool.size, len(pool))

  def test_test_rows_reach_neither_training_nor_completion(self):
    """Other test rows: the same labels of training rows, bit for bit."""
    values = []
    for split in ('test', 'all'):
      config = _config(train__steps=40)
      config.attacks = config.attacks[:1]
      config.train.tested = split
      row = experiments.run(config)[0]
      values.append(row['metrics'])
    for name in ('label_accuracy', 'top5_accuracy', 'best_accuracy'):
      self.assertEqual(values[0][name], values[1][name])
    self.assertNotEqual(values[0]['test_accuracy'], values[1]['test_accuracy'])

  def test_an_active_attacker_alone_is_accelerated(self):
    config = _config(train__steps=20)
    active = attacks.load('completion.active').optimizer
    joints = [
      build(config, attackers=(0,), optimizer=optimizer)
      for optimizer in (None, active)
    ]
    states = [joint.fit(3) for joint in joints]
    starts = [joint.init(3) for joint in joints]
    chex.assert_trees_all_equal(*(s.variables for s in starts))
    chex.assert_trees_all_equal(*(s.top for s in starts))
    structures = [jax.tree.structure(s.opt_states) for s in states]
    self.assertNotEqual(*structures)
    names = [type(s.opt_states[1][1]).__name__ for s in states]
    self.assertEqual(*names)  # the active party runs its own SGD

  def test_everyone_may_be_malicious(self):
    config = _config()
    config.optimizer.name = 'labelleak.attacks.completion.malicious.sgd'
    config.top_optimizer = dict(name='sgd', lr=0.05)
    joint = build(config)
    params = {'w': jnp.ones(3)}
    states = [p.tx.init(params) for p in joint.parties]
    for state in states:
      kinds = [
        type(s).__module__
        for s in jax.tree.leaves(
          state, is_leaf=lambda s: isinstance(s, malicious.State)
        )
      ]
      self.assertIn('labelleak.attacks.completion.malicious', kinds)

  def test_weighted_classes(self):
    config = _config(
      dataset=dict(name='breast_cancer', split='train'),
      split=dict(name='splits.features'),
      model=dict(name='mlp.fcnn', widths=(8,)),
      class_weights=(1.0, 0.3),
      train__steps=60,
      aux__per_class=10,
    )
    config.attacks = ()
    row = experiments.run(config)[0]
    self.assertEqual(row['setting']['extra']['class_weights'], [1.0, 0.3])
    self.assertBetween(row['metrics']['f1']['mean'], 0.3, 0.8)  # a guess
    self.assertBetween(row['metrics']['main_f1']['mean'], 0.5, 1.0)

  @parameterized.parameters(
    (dict(train__steps=0), 'train.steps=0 must be .* of at least 1'),
    (dict(aux__per_class=0), 'aux.per_class=0 must be a whole number in 1'),
    (dict(aux__per_class=1), 'batch_size=16 must be .* 1..10; the 10 labelled'),
    (dict(class_weights=(1.0, 2.0)), 'not one for each of 10 classes'),
    (dict(class_weights=(0.0,) * 10), 'must all be positive'),
    (dict(known=('party',)), "needs 'pool'"),
    (dict(known=('party', 'labels')), "'labels'.*upper bounds alone"),
  )
  def test_bad_input_is_named_before_anything_runs(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      experiments.run(_config(**fields))

  @parameterized.parameters(
    (dict(name='rmsprop', lr=0.01), "'rmsprop' has no malicious form"),
    (dict(name='sgd', lr=0.01, nesterov=True), "takes no 'nesterov'"),
  )
  def test_an_active_attack_takes_the_place_of(self, optimizer, message):
    config = _config()
    config.optimizer = optimizer
    with self.assertRaisesRegex(InputError, message):
      experiments.run(config)

  def test_a_diverging_reading_is_named(self):
    config = _config()
    config.attacks = (
      dict(name='completion.active', reading='printed', **_QUICK),
    )
    with self.assertRaisesRegex(
      InputError, r'active.*reading=printed.*loss is .* at step'
    ):
      experiments.run(config)


if __name__ == '__main__':
  absltest.main()
