"""FATE's hetero-LR, from a config to rows: arbiters, encryption, epochs."""

from absl.testing import absltest, parameterized
import jax

from configs import common, hetero_lr
from labelleak import experiments
from labelleak.base import InputError


def _config(part='starts', **fields):
  config = hetero_lr.get_config(f'part={part},runlocal')
  config.trials, config.sweep = 1, ()
  for path, value in fields.items():
    config.update_from_flattened_dict({path.replace('__', '.'): value})
  return config


def _run(config):
  rows = experiments.run(config)
  return {row['attack']['name']: row for row in rows}


class HeteroLrTest(parameterized.TestCase):
  @parameterized.parameters(
    dict(name='sgd', lr=0.15, momentum=0.9, weight_decay=0.01),
    dict(name='adam', lr=0.15),
  )
  def test_the_first_update_of_any_arbiter_gives_all_labels(self, **optimizer):
    config = _config(batch_size=40)
    config.attacks = (dict(config.attacks[0], searches=2),)
    config.optimizer = optimizer
    rows = _run(config)
    row = rows['residues.expectation_propagation']
    self.assertEqual(row['metrics']['label_accuracy']['mean'], 1.0)
    self.assertEqual(row['setting']['extra']['arbiter'], optimizer)
    self.assertEqual(row['setting']['extra']['loss'], {'name': 'taylor'})
    self.assertFalse(jax.config.jax_enable_x64)

  @parameterized.parameters(
    dict(name='paillier', key_bits=256, insecure_for_tests=True),
    dict(name='ckks'),
  )
  def test_encryption_hides_none_of_it(self, **aggregate):
    config = _config(batch_size=40)
    config.attacks = (dict(config.attacks[0], searches=2),)
    config.aggregate = aggregate
    row = _run(config)['residues.expectation_propagation']
    self.assertEqual(row['metrics']['label_accuracy']['mean'], 1.0)

  def test_a_whole_training_is_read_through_adam(self):
    config = _config('epochs', model__start=(0.0, 0.0))
    config.optimizer = dict(name='adam', lr=0.01)
    config.attacks = config.attacks[:1]
    metrics = _run(config)['residues.epochs']['metrics']
    self.assertEqual(metrics['after_1']['mean'], metrics['after_2']['mean'])
    self.assertGreater(metrics['label_accuracy']['mean'], 0.85)

  def test_a_network_of_one_logit_is_read_by_linear_attacks(self):
    config = _config(batch_size=30, arbiter=False)
    config.model = dict(name='mlp.mlp2')
    config.loss = dict(name='sigmoid')
    config.optimizer = dict(name='sgd', lr=0.1)
    config.attacks = (
      dict(name='linear.full'),
      dict(name='residues.expectation_propagation', loss='sigmoid'),
    )
    for row in list(_run(config).values())[:2]:
      self.assertGreater(row['metrics']['label_accuracy']['mean'], 0.9)

  def test_what_an_arbiter_cannot_be_is_refused(self):
    config = _config()
    config.optimizer = dict(name='lion', lr=0.1)
    with self.assertRaisesRegex(InputError, "optimizer='lion' is unknown"):
      experiments.run(config)
    config = _config()
    config.loss = dict(name='hinge')
    with self.assertRaisesRegex(InputError, "vfl has no 'hinge'"):
      experiments.run(config)
    config = _config(cut_width=2)
    with self.assertRaisesRegex(InputError, '2 joint logits for 2 classes'):
      experiments.run(config)

  @parameterized.parameters(
    (dict(train__steps=3), 'keeps what this attacker has not seen'),
    (dict(aggregate=dict(name='plaintext')), 'this aggregate seals nothing'),
    (
      dict(attacks=(dict(name='residues.epochs'),)),
      "use experiment='vfl.whole_training'",
    ),
    (
      dict(
        attacks=(dict(name='residues.expectation_propagation', loss='sigmoid'),)
      ),
      "contradicts Known: loss='taylor'",
    ),
    (
      dict(loss=dict(name='cross_entropy', class_weights=(1.0, 2.0, 3.0))),
      'are not one for each of 2 classes',
    ),
    (dict(model__start=(0.0, 1.0, 2.0)), 'must be .low, high.'),
  )
  def test_what_contradicts_is_refused(self, fields, message):
    config = _config()
    for path, value in fields.items():
      if isinstance(value, dict):
        config[path] = value
      else:
        config.update_from_flattened_dict({path.replace('__', '.'): value})
    with self.assertRaisesRegex(InputError, message):
      experiments.prepare(config)

  def test_who_has_its_own_optimizer_has_no_arbiter(self):
    config = common.backdoor('test')
    config.arbiter = True
    with self.assertRaisesRegex(InputError, 'here one has its own'):
      experiments.prepare(config)

  def test_start_is_an_interval(self):
    with self.assertRaisesRegex(InputError, 'must be .low, high. that ascend'):
      experiments.run(_config(model__start=(1.0, 0.0)))


if __name__ == '__main__':
  absltest.main()
