"""Label counts of a client's batch: who reads them, and what hides them."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from labelleak import base, experiments, metrics, runs
from labelleak.base import InputError
from labelleak.experiments import grants
from labelleak.experiments.hfl import label_counts, scoring
from labelleak.experiments.hfl.build import GRANTS, build
from tests.experiments import samples


class RowsTest(parameterized.TestCase):
  def test_fedsgd_on_a_near_uniform_model_is_exact_for_llbg(self):
    # With one local step beta = 1/K - counts/B, up to the softmax's deviation,
    # which is that of a head drawn from +- 1 / sqrt(width).
    config = samples.horizontal(
      local_steps=1, partition='balanced', model__width=256
    )
    found = samples.by_attack(experiments.run(config))
    self.assertEqual(found['counts.llbg']['mean'], 1.0)
    self.assertLess(found['counts.random']['mean'], 0.9)

  def test_random_is_at_chance(self):
    rows = experiments.run(samples.horizontal(trials=200, attacks=()))
    row = rows[0]['metrics']['count_accuracy']
    # E sum min(c, t)/B for iid guesses: simulated with NumPy on such batches.
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(4000):
      a, b = rng.integers(10, size=2)
      rest = rng.integers(10, size=5)
      truth = np.bincount([a] * 10 + [b] * 5 + list(rest), minlength=10)
      guess = np.bincount(rng.integers(10, size=20), minlength=10)
      hits.append(np.minimum(truth, guess).sum() / 20)
    self.assertAlmostEqual(
      row['mean'], np.mean(hits), delta=4 * row['stderr'] + 0.01
    )

  def test_training_comes_before_the_attack(self):
    train = dict(steps=200, batch_size=64, lr=1e-2)
    config = samples.horizontal(sweep=(('train', (None, train)),))
    rows = experiments.run(config)
    untrained, trained = rows[0]['setting'], rows[-1]['setting']
    self.assertFalse(untrained['trained'])
    self.assertNotIn('accuracy', untrained['extra'])
    self.assertTrue(trained['trained'])
    self.assertGreater(trained['extra']['accuracy'], 0.6)  # chance is 0.1

  def test_clients_share_one_view(self):
    rows = experiments.run(samples.horizontal(clients=3, local_steps=1))
    self.assertEqual(rows[0]['setting']['extra']['clients'], 3)
    self.assertGreater(rows[0]['metrics']['count_accuracy']['mean'], 0.6)

  def test_defended_rows_say_so(self):
    noise = samples.at_step(
      dict(name='clip', max_norm=1.0), dict(name='gaussian', stddev=9.0)
    )
    rows = experiments.run(samples.horizontal(defense=noise))
    self.assertEqual(rows[0]['setting']['defense'], list(noise))
    free = experiments.run(samples.horizontal())
    self.assertEqual(free[0]['setting']['defense'], [])
    for noisy, clean in zip(rows[:2], free[:2]):
      self.assertLess(
        noisy['metrics']['count_accuracy']['mean'],
        clean['metrics']['count_accuracy']['mean'] - 0.2,
      )

  @parameterized.parameters('plaintext', 'ideal')
  def test_an_aggregate_hides_whose_labels_they_are(self, aggregate):
    # Of nearly uniform clients LLBG reads nearly all of the pooled counts.
    config = samples.horizontal(
      clients=4, local_steps=1, aggregate=dict(name=aggregate), trials=8
    )
    rows = experiments.run(config)
    pooled = rows[0]['metrics']['count_accuracy']['mean']
    own = rows[0]['metrics']['client_accuracy']['mean']
    self.assertGreater(pooled, 0.9)
    # Four clients have (mostly) four heavy classes, each half of its batch.
    self.assertLess(own, 0.75)
    guess = rows[-1]['metrics']['client_accuracy']['mean']
    self.assertGreater(own, guess)
    alone = experiments.run(samples.horizontal(local_steps=1))
    self.assertNotIn('client_accuracy', alone[0]['metrics'])

  def test_a_clients_share_is_what_random_rounding_expects(self):
    truth = np.array([[3, 0, 1], [0, 2, 2]])
    counts = np.array([3, 1, 4])
    found = label_counts.score_counts(counts, truth)
    self.assertEqual(found['count_accuracy'], 7 / 8)
    # Shares 1.5, .5, 2 against (3, 0, 1) and (0, 2, 2).
    self.assertEqual(found['client_accuracy'], (2.5 / 4 + 2.5 / 4) / 2)
    # Rounding 1.5 and .5 at random, to (2, 0) or (1, 1).
    rounded = [
      np.minimum(guess, row).sum() / 4
      for guess in ([2, 0, 2], [1, 1, 2])
      for row in truth
    ]
    self.assertEqual(found['client_accuracy'], np.mean(rounded))

  def test_truth_is_what_each_client_has(self):
    labels = jnp.array([[0, 2, 0, 0], [1, 2, 1, 2]])
    batches = base.Batch((), jax.nn.one_hot(labels, 3), labels)
    counts = jnp.array([3, 1, 4])
    attacked = scoring.Attacked('counts.llbg', None, None, counts)
    found = label_counts.score(attacked, batches)
    self.assertEqual(found['count_accuracy'], 7 / 8)
    self.assertEqual(found['client_accuracy'], 2.5 / 4)


def passes_once() -> optax.GradientTransformation:
  """A defense whose state lets one update through, and nothing after it."""
  return optax.GradientTransformation(
    lambda params: jnp.ones(()),
    lambda updates, state, params=None: (
      jax.tree.map(lambda u: u * state, updates),
      jnp.zeros(()),
    ),
  )


def count_rounds() -> base.Attack:
  """Says that a class has as many examples as there were rounds."""

  def infer(key, rounds, known):
    counts = jnp.zeros(known.num_classes)
    return counts.at[:2].set(jnp.array([rounds, known.batch_size - rounds]))

  return base.attack(
    infer,
    name='count_rounds',
    init=lambda known: jnp.zeros(()),
    observe=lambda rounds, view: rounds + 1,
  )


class RoundsTest(parameterized.TestCase):
  def test_the_server_steps_between_them(self):
    setup = build(samples.horizontal(rounds=3, lr=0.5, local_steps=1))
    variables, _ = setup.fit()
    batches = jax.tree.map(lambda a: a[0], setup.draw(np.arange(1)))
    view = setup.observe(jax.random.key(0), variables, batches)
    after = setup.advance(variables, view)['params']['head']['bias']
    before = variables['params']['head']['bias']
    np.testing.assert_allclose(
      after, before - 0.5 * view.grads['head']['bias'], rtol=1e-6
    )

  def test_rounds_that_no_attack_remembers_are_warned_of(self):
    with self.assertWarnsRegex(UserWarning, 'rounds=2, but every attack'):
      experiments.prepare(samples.horizontal(rounds=2, trials=1))

  @parameterized.parameters(1, 2, 5)
  def test_an_attack_over_time_sees_all(self, rounds):
    config = samples.horizontal(
      rounds=rounds,
      batch_size=5,
      per_class_cap=5,
      trials=1,
      attacks=(dict(name=f'{__name__}.count_rounds'),),
    )
    row = experiments.run(config)[0]
    truth = build(config).draw(np.arange(1)).y[0].sum((0, 1))
    guess = np.zeros(len(truth))
    guess[:2] = rounds, 5 - rounds
    expected = metrics.count_accuracy(jnp.array(guess), jnp.array(truth))
    found = row['metrics']['count_accuracy']['mean']
    self.assertAlmostEqual(found, expected, 6)

  def test_shifting_rounds_are_of_other_examples(self):
    setup = build(samples.horizontal(rounds=3, shifting=True, lr=0.5))
    batches = jax.tree.map(lambda a: a[0], setup.draw(np.arange(1)))
    self.assertEqual(batches.y.shape[:2], (1, 60))
    parts = [setup.select(batches, r).index for r in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts, 1), batches.index)
    same = build(samples.horizontal(rounds=3, lr=0.5))
    batches = jax.tree.map(lambda a: a[0], same.draw(np.arange(1)))
    self.assertIs(same.select(batches, 2), batches)

  @pytest.mark.slow
  def test_labels_of_all_shifting_rounds_are_counted(self):
    """Of labels alone, without noise, each round tells all of its own."""
    mean = dict(name='over_time.mean_update', attack='counts.calibrated')
    summed = dict(name='over_time.sum_counts', attack='counts.calibrated')
    config = samples.horizontal(
      dataset=dict(name='labels', num_classes=10, per_class=100),
      model=dict(name='mlp.linear'),
      rounds=4,
      shifting=True,
      lr=1e-4,
      local_steps=1,
      attacks=(mean, summed),
    )
    rows = experiments.run(config)
    for row in rows[:2]:
      self.assertEqual(row['metrics']['count_accuracy']['mean'], 1.0)
      self.assertTrue(row['setting']['extra']['shifting'])

  def test_more_rounds_than_there_are_examples_are_refused(self):
    config = samples.horizontal(rounds=30, shifting=True)
    with self.assertRaisesRegex(InputError, 'rounds=30 of batch_size=20 need'):
      experiments.prepare(config)

  def test_an_attack_on_one_round_of_several_is_refused(self):
    config = samples.horizontal(rounds=2, shifting=True)
    with self.assertRaisesRegex(InputError, 'use over_time.mean_update of it'):
      experiments.prepare(config)

  @pytest.mark.slow
  def test_noise_of_the_rounds_averages(self):
    # A step that moves nothing: nine rounds are as one at sigma / 3.
    run = lambda sigma, rounds: experiments.run(
      samples.horizontal(
        attacks=(dict(name='over_time.mean_update', attack='counts.llbg'),),
        defense=(dict(name='gaussian', stddev=sigma),),
        rounds=rounds,
        lr=1e-6,
        trials=60,
        local_steps=1,
      )
    )[0]['metrics']['count_accuracy']['mean']
    one, nine, third = run(0.09, 1), run(0.09, 9), run(0.03, 1)
    self.assertGreater(nine, one + 0.05)
    self.assertAlmostEqual(nine, third, delta=0.04)


def heed_noise() -> base.Attack:
  """Names one class, another where it is told of Gaussian noise."""

  def infer(key, view, known):
    told = dict(known.defense or ()).get('gaussian', 0.0) > 0
    counts = jnp.zeros(known.num_classes, int)
    return counts.at[int(told)].set(known.num_examples)

  return base.attack(infer, name='heed_noise', kind='horizontal')


class DefenseTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_its_state_is_of_one_trial(self, at_step):
    defense = (dict(name=f'{__name__}.passes_once'),)
    config = samples.horizontal(
      local_steps=1,
      trials=6,
      queries=2,
      model__width=256,  # nearly uniform: without a defense all is read
      defense=samples.at_step(*defense) if at_step else defense,
    )
    workdir = self.create_tempdir().full_path
    rows = experiments.run(config, workdir)
    self.assertEqual(rows[0]['attack'], dict(name='counts.llbg'))
    values = runs.read_arrays(workdir)['0/count_accuracy']
    self.assertLen(values, 6)
    np.testing.assert_array_equal(values, 1.0)

  @pytest.mark.slow
  def test_averaged_queries_are_less_noise(self):
    # Nine queries at sigma are as one at sigma / 3.
    run = lambda sigma, queries: experiments.run(
      samples.horizontal(
        attacks=samples.COUNTS[:1],
        defense=samples.at_step(dict(name='gaussian', stddev=sigma)),
        queries=queries,
        trials=60,
        local_steps=4,
      )
    )
    accuracy = lambda rows: rows[0]['metrics']['count_accuracy']
    many, one, less = map(accuracy, (run(0.3, 9), run(0.3, 1), run(0.1, 1)))
    error = np.hypot(many['stderr'], less['stderr'])
    self.assertLess(abs(many['mean'] - less['mean']), 4 * error)
    self.assertGreater(many['mean'] - one['mean'], 4 * error)

  @parameterized.parameters(True, False)
  def test_a_defense_has_one_row_however_it_is_spelled(self, at_step):
    name = f'{__name__}.heed_noise'
    attacks = (
      dict(name=name, known=('steps', 'defense')),
      dict(name=name, known=('steps',)),
    )
    rows = []
    for name in ('gaussian', 'noise.gaussian'):
      noise = (dict(name=name, stddev=0.3),)
      config = samples.horizontal(
        attacks=attacks,
        defense=samples.at_step(*noise) if at_step else noise,
        trials=8,
      )
      rows.append(experiments.run(config))
    for one, other in zip(*rows):
      self.assertEqual(one['setting']['defense'][0]['name'], 'gaussian')
      self.assertEqual(runs.comparable(one), runs.comparable(other))
    granted, blind = (row['metrics'] for row in rows[0][:2])
    self.assertNotEqual(granted, blind)  # the grant is read

  def test_averaged_rows_do_not_pass_for_published_ones(self):
    (row,) = experiments.run(
      samples.horizontal(queries=3, trials=1, attacks=())
    )
    self.assertEqual(row['setting']['extra']['queries'], 3)
    (row,) = experiments.run(samples.horizontal(trials=1, attacks=()))
    self.assertNotIn('queries', row['setting']['extra'])

  def test_a_head_without_bias_leaves_what_reads_the_kernel(self):
    model = dict(name='mlp.mlp', width=16, head_bias=False)
    kernel = ('counts.idlg', 'counts.llg', 'counts.llg_star')
    config = samples.horizontal(
      model=model, attacks=tuple(dict(name=name) for name in kernel), trials=20
    )
    rows = samples.by_attack(experiments.run(config))
    guess = rows['counts.random']
    for name in kernel[1:]:
      ahead = rows[name]['mean'] - guess['mean']
      self.assertGreater(ahead, 4 * (rows[name]['stderr'] + guess['stderr']))
    for name in ('ebi', 'llbg', 'calibrated'):
      config.attacks = (dict(name=f'counts.{name}'),)
      with self.assertRaisesRegex(
        InputError, f'counts.{name} reads .* bias, but .* use counts.llg'
      ) as caught:
        label_counts.experiment(config=config)
      self.assertNotIn('\n', str(caught.exception))

  @pytest.mark.slow
  def test_calibration_finds_the_scale_that_clipping_hides(self):
    clip = samples.at_step(dict(name='clip', max_norm=0.1))
    calibrated = dict(name='counts.calibrated')
    attacks = (
      dict(name='counts.llbg'),
      calibrated | dict(known=('steps', 'clients', 'defense')),
      calibrated | dict(known=('steps', 'clients')),
    )
    rows = experiments.run(
      samples.horizontal(defense=clip, attacks=attacks, trials=8)
    )
    fixed, granted, blind = (
      row['metrics']['count_accuracy']['mean'] for row in rows[:3]
    )
    self.assertGreater(granted, fixed + 0.2)
    self.assertGreater(blind, fixed + 0.2)


class CostTest(parameterized.TestCase):
  def _flops(self, **fields):
    """Of the compiled trial, and of its model's forward pass alone."""
    config = samples.horizontal(
      local_steps=1, model__width=256, batch_size=64, **fields
    )
    setup = build(config)
    attackers = grants.load_attacks(
      [dict(name='counts.llbg')],
      config.known,
      kind='horizontal',
      fields=GRANTS,
      baseline='counts.llbg',
    )
    scored = scoring.Scoring(label_counts.score, label_counts.METRICS)
    trial = label_counts._trial(setup, attackers, scored)
    batches = jax.tree.map(lambda a: a[0], setup.draw(np.arange(1)))
    x = batches.xs[0][0]
    variables = setup.model.init(jax.random.key(0), x)
    flops = lambda fn, *args: (
      jax.jit(fn).lower(*args).compile().cost_analysis()['flops']
    )
    whole = flops(trial, jax.random.key(0), batches, (variables, None, ()))
    return whole, flops(setup.model.apply, variables, x)

  def test_fedsgd_without_defense_needs_no_backward_pass(self):
    # Nobody reads the gradients below the head, so that XLA drops them.
    whole, forward = self._flops()
    self.assertLess(whole, 1.25 * forward)

  def test_clipping_reads_all_gradients(self):
    clip = (dict(name='clip', max_norm=1.0),)
    whole, forward = self._flops(defense=clip)
    self.assertGreater(whole, 2.5 * forward)


class EncryptedTest(parameterized.TestCase):
  """Updates under real keys: small models, and refused where they are not."""

  def _config(self, *, trials=2, **aggregate):
    model = dict(name='mlp.mlp', width=2)
    return samples.horizontal(model=model, trials=trials, aggregate=aggregate)

  def test_counts_are_those_of_what_is_ideal(self):
    self.assertLen(jax.devices(), 4)  # which hang where they share a callback
    sealed, ideal = (
      samples.by_attack(experiments.run(self._config(**aggregate)))
      for aggregate in (dict(name='ckks', bound=32.0), dict(name='ideal'))
    )
    self.assertEqual(sealed, ideal)

  @parameterized.parameters('paillier', 'ckks')
  def test_too_long_a_run_is_refused_before_it_starts(self, name):
    config = self._config(name=name, trials=10**5)
    config.rounds = 10
    config.attacks += (
      dict(name='over_time.mean_update', attack='counts.llbg'),
    )
    says = f'{10**6} encrypted steps of .* more than he.max_hours=1;'
    if name == 'ckks':  # long before
      config.he.max_hours = 1e-6
      config.trials = 100
      says = 'more than he.max_hours=1e-06;'
    with self.assertRaisesRegex(InputError, says):
      experiments.run(config)

  def test_more_results_than_a_key_may_open_are_refused(self):
    config = self._config(name='ckks', mask_bits=24)  # 16 results
    with self.assertRaisesRegex(InputError, r'more than the 16 .*mask_bits by'):
      experiments.run(config)


if __name__ == '__main__':
  absltest.main()
