"""The labels of one batch: rows, and what is refused before anything runs."""

from absl.testing import absltest, parameterized
import numpy as np

from labelleak import experiments
from labelleak.base import InputError
from tests.experiments import samples


class RunTest(parameterized.TestCase):
  @parameterized.parameters(0, 2)
  def test_rows(self, steps):
    config = samples.vertical(batch_size=8, train__steps=steps, classes=3)
    rows = experiments.run(config)
    self.assertEqual(
      [row['attack'] for row in rows],
      [dict(name='linear.last_layer'), dict(name='scores.random')],
    )
    exact, guess = (row['metrics']['label_accuracy']['mean'] for row in rows)
    self.assertGreater(exact, 0.9)
    self.assertLess(guess, 0.9)
    for row in rows:
      shares = np.sum(row['matrix'], 1)
      np.testing.assert_allclose(shares, shares.round(), atol=0.01)
      self.assertGreater(shares.sum(), 1)
      permuted = row['metrics']['permuted_label_accuracy']['mean']
      self.assertGreaterEqual(
        permuted, row['metrics']['label_accuracy']['mean'] - 1e-6
      )
      self.assertEqual('accuracy' in row['setting']['extra'], steps > 0)
      self.assertEqual(row['setting']['trained'], steps > 0)

  def test_probabilities_alone_have_a_calibration(self):
    attacks = dict(name='linear.full'), dict(name='linear.last_layer')
    rows = experiments.run(samples.vertical(batch_size=8, attacks=attacks))
    measured = ['calibration_error' in row['metrics'] for row in rows]
    self.assertEqual(measured, [True, False, False])

  def test_every_label_is_read_in_the_clear(self):
    """Exactly all of them, though XLA may compute a score twice."""
    config = samples.vertical(
      batch_size=128,
      attacks=(dict(name='scores.direct'),),
      aggregate=dict(name='plaintext'),
    )
    row = experiments.run(config)[0]
    for metric in ('label_accuracy', 'permuted_label_accuracy'):
      self.assertEqual(row['metrics'][metric]['mean'], 1.0)

  def test_ciphertexts_show_what_an_ideal_link_does(self):
    rows = [
      experiments.run(
        samples.vertical(model=dict(name='mlp.linear'), aggregate=aggregate)
      )[0]
      for aggregate in (dict(name='ckks', bound=1 / 31), dict(name='ideal'))
    ]
    real, ideal = (row['metrics']['label_accuracy']['mean'] for row in rows)
    self.assertAlmostEqual(real, ideal, delta=0.05)
    self.assertGreater(real, 0.5)

  def test_an_attack_over_time_sees_the_one_step(self):
    config = samples.vertical(
      attacks=(
        dict(name='over_time.average', attack='scores.direct'),
        dict(name='scores.direct'),
      ),
      aggregate=dict(name='plaintext'),
      defense=(dict(name='gaussian', stddev=0.01),),
    )
    over_time, instant, _ = experiments.run(config)
    self.assertEqual(over_time['metrics'], instant['metrics'])

  @parameterized.parameters(
    (
      dict(attacker=1),
      r'attacker=1 must be .* in 0\.\.0; it is a passive party',
    ),
    (dict(batch_size=1), 'batch_size=1 must be a whole number in 2'),
    (dict(batch_size=5000), 'batch_size=5000 must be a whole number in 2'),
    (dict(classes=11), 'classes=11 must be a whole number in 2'),
    (dict(draw='last'), "draw='last' is unknown"),
    (dict(optimizer__lr=-1.0), 'optimizer.lr=-1.0 must be positive'),
    (dict(optimizer__name='addam'), "no optimizer 'addam'"),
    (dict(aggregate=dict(name='idael')), "no 'idael'.*'ideal'"),
    (dict(model=dict(name='mlp.mlp3')), "no 'mlp.mlp3'"),
    (dict(split=dict(name='splits.patches')), 'cuts examples of shape'),
    (dict(attacks=(dict(name='scores.direct'),)), 'link is sealed'),
    (dict(attacks=(dict(name='linear.full', known=('labelled', 'z')),)), "'z'"),
    (dict(cut_width=4), 'return as many'),
    (
      dict(cut_width=4, experiment='vfl.training', train__steps=1),
      'return as many',
    ),
    (dict(train__batch_size=0), 'train.batch_size=0 must be .* of at least 1'),
    (
      dict(train__steps=1, train__epochs=2),
      'train.steps=1 and train.epochs=2 both',
    ),
    (dict(train__steps=1, train__tested='tset'), "split='tset' is unknown"),
    (
      dict(train__steps=1, train__batch_size=673),  # 1347 rows
      'train.batch_size=673 leaves a sealed batch of 1 of 1347 rows',
    ),
    (dict(aux__per_class=0), 'aux.per_class=0 must be .* of at least 1'),
    (dict(experiment='vfl.training'), 'train.steps=0 must be .* of at least 1'),
  )
  def test_bad_input_is_named_before_anything_runs(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      experiments.run(samples.vertical(**fields))


if __name__ == '__main__':
  absltest.main()
