"""What a model trained under the same defense still learns."""

from absl.testing import absltest, parameterized
import numpy as np
from scipy import stats

from labelleak import experiments
from labelleak.base import InputError
from labelleak.experiments.hfl import label_counts, main_task
from tests.experiments import samples

_CLIP = dict(name='clip', max_norm=0.5)
_NOISE = dict(name='gaussian')
_OWN = dict(dataset=dict(name='digits'), model=dict(name='mlp.mlp'))


def _build(options, *defense):
  return main_task.build(
    options, **_OWN, data_dir=None, defense=defense, seed=0
  )


class MainTaskTest(parameterized.TestCase):
  def _run(self, *links, **options):
    config = samples.horizontal(
      defense=samples.at_step(*links), trials=1, attacks=samples.COUNTS[:1]
    )
    config.main_task = dict(steps=60, batch_size=64, lr=5e-3, seeds=2) | options
    return experiments.run(config)

  def test_rows_say_what_a_defense_costs(self):
    free = self._run()
    noisy = self._run(dict(name='gaussian', stddev=100.0))
    self.assertLen(free, 2)
    for plain, row in zip(free, noisy):  # every attack's row has it
      plain, row = plain['metrics'], row['metrics']
      self.assertEqual(plain['relative_accuracy']['mean'], 0.0)
      self.assertGreater(plain['main_accuracy']['mean'], 0.5)
      self.assertLess(row['main_accuracy']['mean'], 0.3)  # chance is .1
      self.assertAlmostEqual(
        row['relative_accuracy']['mean'],
        row['main_accuracy']['mean'] - plain['main_accuracy']['mean'],
      )
      self.assertGreater(plain['main_accuracy']['std'], 0.0)  # two seeds
    rows = experiments.run(samples.horizontal())
    self.assertNotIn('main_accuracy', rows[0]['metrics'])

  def test_epsilon_stands_beside_sigma(self):
    training = dict(steps=16, batch_size=64, lr=0.1)
    privacy = lambda *links: _build(training, *links).facts
    spent = privacy(_CLIP, _NOISE | dict(stddev=40.0))['epsilon']
    # Sixteen messages at 40 are one at 10: mu = 2 * .5 / 10, and a Gaussian
    # has delta = Phi(mu / 2 - eps / mu) - exp(eps) Phi(-mu / 2 - eps / mu).
    mu = 0.1
    delta = stats.norm.cdf(mu / 2 - spent / mu) - np.exp(
      spent
    ) * stats.norm.cdf(-mu / 2 - spent / mu)
    self.assertAlmostEqual(delta, 1e-5, delta=1e-6)
    self.assertEqual(privacy(_NOISE | dict(stddev=1.0)), {})  # unbounded
    self.assertEqual(privacy(_CLIP), {})
    # As published it is no guarantee: of the order of mu^2 / 2.
    published = privacy(_CLIP | dict(max_norm=1.0), _NOISE | dict(stddev=0.01))
    self.assertGreater(published['epsilon'], 1e5)
    defended = _CLIP, _NOISE | dict(stddev=1.0)
    self.assertEqual(_build(None, *defended), main_task.MainTask())

  def test_epsilon_is_of_the_order_in_which_a_gradient_meets_its_defenses(self):
    """Steps come first, wherever the config lists them."""
    training = dict(steps=16, batch_size=64, lr=0.1)
    noise = _NOISE | dict(stddev=40.0)
    first, last = (
      _build(training, *chain).facts
      for chain in (
        (_CLIP, noise),
        (noise, *samples.at_step(_CLIP)),
      )
    )
    self.assertEqual(first, last)
    self.assertIn('epsilon', first)

  def test_its_model_may_be_another_one(self):
    training = dict(steps=1, batch_size=8, lr=0.1)
    other = dict(model=dict(name='mlp.mlp', width=8))
    facts = _build(training | other).facts
    self.assertEqual(facts, dict(main_task='mlp.mlp(width=8)'))
    self.assertEqual(_build(training).facts, {})
    config = samples.horizontal(trials=1, attacks=())
    config.main_task = training | other
    (row,) = experiments.run(config)
    self.assertEqual(row['setting']['extra']['main_task'], 'mlp.mlp(width=8)')
    self.assertEqual(row['setting']['model'], dict(name='mlp.mlp', width=16))

  def test_the_attacked_model_is_defended_only_where_the_config_says_so(self):
    noise = samples.at_step(dict(name='gaussian', stddev=100.0))
    accuracy = {}
    for defended in (False, True):
      train = dict(steps=60, batch_size=64, lr=5e-3)
      train |= dict(defended=True) if defended else {}
      config = samples.horizontal(defense=noise, trials=1)
      config.train = train
      row = experiments.run(config)[0]
      accuracy[defended] = row['setting']['extra']['accuracy']
    self.assertGreater(accuracy[False], 0.5)
    self.assertLess(accuracy[True], 0.3)

  @parameterized.parameters(
    (dict(lr=0.1, batch_size=8), "config.main_task lacks 'steps'"),
    (
      dict(steps=1, lr=0.1, batch_size=8, optimizer='sdg'),
      "no optimizer 'sdg'",
    ),
    (dict(steps=1, lr=0.1, batch_size=8, model=dict(name='x.y')), "'x.y'"),
    (
      dict(steps=1, lr=0.1, batch_size=8, dataset=dict(name='no.set')),
      "'no.set'",
    ),
  )
  def test_what_cannot_run_is_refused_before_the_run(self, options, message):
    config = samples.horizontal()
    config.main_task = options
    with self.assertRaisesRegex(InputError, message) as caught:
      label_counts.experiment(config=config)
    self.assertNotIn('\n', str(caught.exception))


if __name__ == '__main__':
  absltest.main()
