"""What a defense hides and what it costs, in one training a trial."""

from absl.testing import absltest, parameterized
import chex
import jax
import numpy as np
import pytest

from configs import common
from labelleak import experiments, metrics
from labelleak.base import InputError
from labelleak.defenses import accounting
from labelleak.experiments.vfl.build import build


def _config(**fields):
  config = common.vfl('test')
  config.experiment = 'vfl.privacy_utility'
  config.aggregate = dict(name='plaintext')
  config.attacks = (dict(name='scores.direct'),)
  config.batch_size = config.train.batch_size = 64
  config.train.steps, config.trials = 5, 3
  for path, value in fields.items():
    config.update_from_flattened_dict({path.replace('__', '.'): value})
  return config


def _batch(joint, number):
  """The batch of one training step, from 1, in the order of seed 0."""
  return jax.tree.map(lambda a: a[0], joint.epochs(np.array([number]), 0))


class PrivacyUtilityTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_together_is_one_by_one(self, shuffle):
    joint = build(_config(train__shuffle=shuffle))
    first, _, last = joint.fit_all((3, 4), (0, 2, 5))
    for i, seed in enumerate((3, 4)):
      alone = joint.init(seed)
      ours = jax.tree.map(lambda a, i=i: a[i], first)
      chex.assert_trees_all_equal(ours, alone)
      alone = joint.fit(seed)
      ours = jax.tree.map(lambda a, i=i: a[i], last)
      chex.assert_trees_all_close(
        ours.variables, alone.variables, atol=1e-5, rtol=1e-4
      )

  def test_rows_hold_the_attack_on_the_first_batch_and_the_end(self):
    config = _config(
      train__steps=100,
      optimizer__lr=0.01,
      sweep=(('defense', ((), (dict(name='gaussian', stddev=1.0),))),),
    )
    rows = experiments.run(config)
    clean, guess, noisy, _ = (row['metrics'] for row in rows)
    self.assertEqual(clean['label_accuracy']['mean'], 1.0)
    self.assertGreater(clean['main_accuracy']['mean'], 0.7)
    self.assertEqual(guess['main_accuracy'], clean['main_accuracy'])
    # Only the passive party's messages are noise; the other still learns.
    self.assertLess(noisy['label_accuracy']['mean'], 0.3)
    self.assertGreater(noisy['main_accuracy']['mean'], 0.2)
    self.assertEqual([row['trials'] for row in rows], [3] * 4)
    defenses = [row['setting']['defense'] for row in rows]
    noise = dict(name='gaussian', stddev=1.0)
    self.assertEqual(defenses, [[], [], [noise], [noise]])
    for row in rows:  # at the first step of a training
      self.assertFalse(row['setting']['trained'])
      self.assertEqual(row['setting']['extra']['step'], 0)
      self.assertNotIn('observed', row['setting']['extra'])

  def test_steps_are_averaged(self):
    config = _config(train__shuffle=False, observed__steps=4, trials=1)
    row = experiments.run(config)[1]
    self.assertEqual(row['attack'], dict(name='scores.random'))
    observed = row['setting']['extra']['observed']
    self.assertEqual(observed, dict(steps=4, epochs=1))
    self.assertLess(row['metrics']['label_accuracy']['mean'], 0.2)
    config.attacks = (dict(name='scores.direct', rule='complement'),)
    config.optimizer.lr = 1.0  # labels move far between steps
    scores, matrices = [], []
    joint = build(config)
    state, step = joint.init(0), jax.jit(joint.protocol.step)
    for number in range(1, 5):
      state, (views, _) = step(state, batch := _batch(joint, number))
      hits = np.argmax(views[0].cut_grads, -1) == batch.y.argmax(-1)
      scores.append(hits.mean())
      matrices.append(metrics.label_matrix(views[0].cut_grads, batch.y))
    row = experiments.run(config)[0]
    self.assertAlmostEqual(
      row['metrics']['label_accuracy']['mean'], np.mean(scores), places=4
    )
    np.testing.assert_allclose(
      row['matrix'], np.mean(matrices, axis=0), atol=1e-3
    )

  @pytest.mark.slow
  def test_epochs_average_noise_out(self):
    accuracy = []
    for epochs in (1, 6):
      config = _config(
        train__shuffle=False,
        observed__epochs=epochs,
        train__steps=5 * 23,
        optimizer__lr=1e-6,  # the model stands still
        defense=(dict(name='gaussian', stddev=0.016),),
      )
      row = experiments.run(config)[0]
      accuracy.append(row['metrics']['label_accuracy']['mean'])
    # Noise of .016 hides 1/64, noise of .0065 does not.
    self.assertLess(accuracy[0], 0.5)
    self.assertGreater(accuracy[1], 0.65)

  @pytest.mark.slow
  def test_codes_penalties_and_bottlenecks_are_defenses(self):
    defense = (
      dict(name='penalties.distance_correlation', weight=0.1),
      dict(name='permutation', seed=3),
      dict(name='mid', weight=0.01),
    )
    config = _config(
      trials=1, defense=defense, top_optimizer=dict(name='adam', lr=1e-4)
    )
    row = experiments.run(config)[0]
    first = dict(name='distance_correlation', weight=0.1)  # as rows spell it
    self.assertEqual(row['setting']['defense'], [first, *defense[1:]])
    state = build(config).init(0)
    self.assertNotEmpty(state.top)  # the bottleneck is trained
    bare = build(_config(trials=1)).init(0)
    self.assertEmpty(bare.top)

  def test_epsilon_stands_beside_sigma(self):
    noise = dict(name='gaussian', stddev=0.1)
    clipped = (dict(name='clip_per_example', max_norm=0.05), noise)
    each = 22  # steps an epoch
    found = []
    for defense, steps in ((clipped, each), (clipped, each + 1), ((noise,), 1)):
      config = _config(train__steps=steps, defense=defense)
      found.append(build(config).setting.extra.get('epsilon'))
    one, two = (
      accounting.epsilon(0.1, 0.05, steps=epochs, delta=1e-5)
      for epochs in (1, 2)
    )
    self.assertAlmostEqual(found[0], one, delta=0.01 * one)
    self.assertAlmostEqual(found[1], two, delta=0.01 * two)
    self.assertIsNone(found[2])  # without a clip there is no guarantee

  @parameterized.parameters(
    (dict(train__steps=0), 'train.steps=0'),
    (dict(batch_size=32), 'batch_size=32'),
    (dict(observed__steps=0), 'observed.steps=0'),
    (dict(observed__steps=6), 'within the train.steps=5'),
    (dict(observed__steps=22, train__steps=30), 'use at most 21'),
    (dict(observed__epochs=2, train__steps=30), 'train.shuffle=False'),
    (dict(defense=(dict(alpha=0.1),)), 'has no name'),
    (dict(defense=(dict(name='smoothing', alpha=2.0),)), 'alpha=2.0'),
    (dict(defense=(dict(name='dcor'),)), "defenses has no 'dcor'"),
    (
      dict(defense=(dict(name='gaussian', stddev=1.0, at='step'),)),
      "takes no 'at'",
    ),
    (
      dict(
        defense=(dict(name='mid', weight=1.0),), top=dict(name='mlp.linear')
      ),
      'one model cannot have two',
    ),
    (dict(top_optimizer=dict(lr=1.0), top=dict(name='mlp.linear')), 'name'),
  )
  def test_bad_input_is_one_line(self, fields, message):
    with self.assertRaisesRegex(InputError, message) as caught:
      experiments.run(_config(**fields))
    self.assertNotIn('\n', str(caught.exception))


class StateTest(absltest.TestCase):
  def test_the_active_party_is_defended_only_where_the_config_says_so(self):
    cuts = []
    for own in (False, True):
      config = _config(
        defense=(dict(name='optax.scale', step_size=0.0),), defend_active=own
      )
      joint = build(config)
      _, (views, _) = joint.protocol.step(joint.init(0), _batch(joint, 1))
      self.assertEqual(float(np.abs(views[0].cut_grads).max()), 0)
      cuts.append(float(np.abs(views[1].cut_grads).max()))
    self.assertGreater(cuts[0], 0)
    self.assertEqual(cuts[1], 0)

  def test_a_defenses_state_starts_anew_with_every_trial(self):
    joint = build(_config(defense=(dict(name='optax.trace', decay=0.9),)))
    first, second = joint.init(0), joint.init(0)
    batch, step = _batch(joint, 1), joint.protocol.step
    used, (views, _) = step(first, batch)
    _, (again, _) = step(second, batch)
    chex.assert_trees_all_equal(views, again)
    _, (later, _) = step(first._replace(link_states=used.link_states), batch)
    difference = np.abs(later[0].cut_grads - views[0].cut_grads).max()
    self.assertGreater(float(difference), 0)  # the state does act


if __name__ == '__main__':
  absltest.main()
