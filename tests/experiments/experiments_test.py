"""HFL experiments from config to rows, and the errors that stop them early."""

import dataclasses
import os
from unittest import mock

from absl.testing import parameterized
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from ml_collections.config_flags import config_path
import numpy as np
import optax
from scipy import stats

from configs import common, llbg_defenses
from labelleak import attacks, experiments, models, report, sweep
from labelleak.attacks import counts
from labelleak.base import Attack, InputError
from labelleak.experiments import grants, inputs
from labelleak.experiments.hfl import label_counts, main_task
from labelleak.report import published

_BASIC = (dict(name='counts.llbg'), dict(name='counts.ebi'))


def _config(**fields):
  config = common.hfl('test')
  config.attacks = _BASIC
  config.model = dict(name='mlp.mlp', width=16)
  config.trials = 6
  config.batch_size = 20
  for path, value in fields.items():
    config_path.set_value(path.replace('__', '.'), config, value)
  return config


def _by_attack(rows):
  return {row['attack']: row['metrics']['count_accuracy'] for row in rows}


def probe(*, wants: str):
  """An attack that checks what it is granted, then guesses."""

  def infer(key, view, known):
    fields = {f.name: getattr(known, f.name) for f in dataclasses.fields(known)}
    assert fields[wants] is not None
    SEEN.append(fields)
    return counts.random().infer(key, view, known)

  return Attack(infer=infer)


SEEN = []


class RowsTest(parameterized.TestCase):
  def test_a_row_is_complete(self):
    rows = experiments.run(_config())
    self.assertEqual(
      [row['attack'] for row in rows],
      ['counts.llbg', 'counts.ebi', 'counts.random'],
    )
    for row in rows:
      self.assertEqual(row['config'], 'test')
      self.assertEqual(row['data'], 'digits')
      self.assertEqual(row['trials'], 6)
      self.assertEqual(
        row['known'], ['lr', 'steps', 'clients', 'defense', 'model']
      )
      for metric in ('count_accuracy', 'presence_precision', 'count_error'):
        self.assertEqual(set(row['metrics'][metric]), {'mean', 'std', 'stderr'})
      for field in ('seconds', 'device', 'versions', 'commit', 'paper', 'seed'):
        self.assertIn(field, row)

  def test_fedsgd_on_a_near_uniform_model_is_exact_for_llbg(self):
    # With one local step beta = 1/K - counts/B, up to the softmax's deviation.
    found = _by_attack(
      experiments.run(_config(local_steps=1, partition='balanced'))
    )
    self.assertEqual(found['counts.llbg']['mean'], 1.0)
    self.assertLess(found['counts.random']['mean'], 0.9)

  def test_random_is_at_chance(self):
    rows = experiments.run(_config(trials=200, attacks=()))
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

  def test_more_trials_extend_fewer(self):
    few, many = self.create_tempdir().full_path, self.create_tempdir().full_path
    experiments.run(_config(trials=3), few)
    experiments.run(_config(trials=5, per_device=1), many)
    many = report.trials(many)
    for name, values in report.trials(few).items():
      np.testing.assert_allclose(values, many[name][:3])

  @parameterized.parameters(False, True)
  def test_a_killed_point_goes_on_from_its_last_trial(self, new_code):
    whole, killed = [self.create_tempdir().full_path for _ in range(2)]
    config = _config(trials=9, per_device=1)
    rows = experiments.run(config, whole)
    told = experiments.Progress.__call__
    moves = []

    def tell(progress, num, values=None):
      told(progress, num, values)
      moves.append(num)
      if len(moves) == 2:
        raise KeyboardInterrupt  # as early as a kill would end it

    with (
      mock.patch.object(experiments, '_KEEP_EVERY', 0.0),
      mock.patch.object(experiments.Progress, '__call__', tell),
    ):
      with self.assertRaises(KeyboardInterrupt):
        experiments.run(config, killed)
      self.assertEmpty(report.read(killed))
      code = ['other'] if new_code else report._code()
      with mock.patch.object(report, '_code', return_value=code):
        again = experiments.run(config, killed)
    left = 9 if new_code else 9 - sum(moves[:2])
    self.assertEqual(sum(moves[2:]), left)
    self.assertEqual(*[[*map(report.comparable, r)] for r in (rows, again)])
    self.assertNotIn('unfinished.npz', os.listdir(killed))
    for name, values in report.trials(whole).items():
      np.testing.assert_array_equal(report.trials(killed)[name], values)

  def test_device_count_does_not_change_rows(self):
    rows = []
    for num in (1, 4):
      devices = jax.local_devices()[:num]
      with mock.patch.object(jax, 'devices', return_value=devices):
        rows.append(
          [
            {**report.comparable(row), 'config': ''}
            for row in experiments.run(_config(trials=6, per_device=1))
          ]
        )
    self.assertEqual(*rows)

  def test_attacks_do_not_disturb_each_other(self):
    alone = _by_attack(experiments.run(_config(attacks=_BASIC[1:])))
    both = _by_attack(experiments.run(_config()))
    for name in alone:
      self.assertEqual(alone[name], both[name])

  def test_one_initialisation_by_seed(self):
    rows = [experiments.run(_config(seed=seed)) for seed in (0, 0, 1)]
    first, again, other = map(_by_attack, rows)
    self.assertEqual(first, again)
    self.assertNotEqual(first, other)

  def test_training_comes_before_the_attack(self):
    train = dict(steps=200, batch_size=64, lr=1e-2)
    config = _config(sweep=(('train', (None, train)),))
    rows = experiments.run(config)
    untrained, trained = rows[0]['setting'], rows[-1]['setting']
    self.assertFalse(untrained['trained'])
    self.assertIsNone(untrained['accuracy'])
    self.assertTrue(trained['trained'])
    self.assertGreater(trained['accuracy'], 0.6)  # chance is 0.1

  def test_clients_share_one_view(self):
    rows = experiments.run(_config(clients=3, local_steps=1))
    self.assertEqual(rows[0]['setting']['clients'], 3)
    self.assertGreater(rows[0]['metrics']['count_accuracy']['mean'], 0.6)

  def test_defended_rows_say_so(self):
    noise = (dict(name='clip', max_norm=1.0), dict(name='gaussian', stddev=9.0))
    rows = experiments.run(_config(step_defense=noise))
    self.assertEqual(rows[0]['defense'], 'clip+gaussian')
    self.assertEqual(
      rows[0]['setting']['defense'], 'clip(max_norm=1.0)+gaussian(stddev=9.0)'
    )
    free = experiments.run(_config())
    for noisy, clean in zip(rows[:2], free[:2]):
      self.assertLess(
        noisy['metrics']['count_accuracy']['mean'],
        clean['metrics']['count_accuracy']['mean'] - 0.2,
      )

  @parameterized.parameters('plaintext', 'ideal')
  def test_an_aggregate_hides_whose_labels_they_are(self, aggregate):
    # Of nearly uniform clients LLBG reads nearly all of the pooled counts.
    config = _config(
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
    alone = experiments.run(_config(local_steps=1))
    self.assertNotIn('client_accuracy', alone[0]['metrics'])

  def test_a_clients_share_is_what_random_rounding_expects(self):
    truth = np.array([[3, 0, 1], [0, 2, 2]])
    counts = np.array([3, 1, 4])
    found = label_counts._scored(counts, truth)
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


class MainTaskTest(parameterized.TestCase):
  """What a model trained under the same defense still learns."""

  def _run(self, *links, **options):
    config = _config(step_defense=links, trials=1, attacks=_BASIC[:1])
    config.main_task = dict(steps=60, batch_size=64, lr=5e-3, seeds=2) | options
    return experiments.run(config)

  def test_rows_say_what_a_defense_costs(self):
    free = self._run()
    noisy = self._run(dict(name='gaussian', stddev=100.0))
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
    self.assertNotIn('main_accuracy', experiments.run(_config())[0]['metrics'])

  def test_epsilon_stands_beside_sigma(self):
    clip, noise = dict(name='clip', max_norm=0.5), dict(name='gaussian')
    config = _config()
    config.main_task = dict(steps=16, batch_size=64, lr=0.1)
    privacy = lambda *links: main_task.privacy(config, links)
    spent = privacy(clip, noise | dict(stddev=40.0))['epsilon']
    # Sixteen messages at 40 are one at 10: mu = 2 * .5 / 10, and a Gaussian
    # has delta = Phi(mu / 2 - eps / mu) - exp(eps) Phi(-mu / 2 - eps / mu).
    mu = 0.1
    delta = stats.norm.cdf(mu / 2 - spent / mu) - np.exp(
      spent
    ) * stats.norm.cdf(-mu / 2 - spent / mu)
    self.assertAlmostEqual(delta, 1e-5, delta=1e-6)
    self.assertEqual(privacy(noise | dict(stddev=1.0)), {})  # unbounded
    self.assertEqual(privacy(clip), {})
    # As published it is no guarantee: of the order of mu^2 / 2.
    published = privacy(clip | dict(max_norm=1.0), noise | dict(stddev=0.01))
    self.assertGreater(published['epsilon'], 1e5)
    config.main_task = None
    self.assertEqual(privacy(clip, noise | dict(stddev=1.0)), {})

  def test_its_model_may_be_another_one(self):
    config = _config()
    config.main_task = dict(model=dict(name='mlp.mlp', width=8))
    self.assertEqual(main_task.describe(config), 'mlp.mlp(width=8)')
    config.main_task = dict(steps=1)
    self.assertIsNone(main_task.describe(config))

  def test_the_attacked_model_is_defended_only_where_the_config_says_so(self):
    noise = (dict(name='gaussian', stddev=100.0),)
    accuracy = {}
    for defended in (False, True):
      train = dict(steps=60, batch_size=64, lr=5e-3)
      train |= dict(defended=True) if defended else {}
      config = _config(step_defense=noise, trials=1)
      config.train = train
      accuracy[defended] = experiments.run(config)[0]['setting']['accuracy']
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
    config = _config()
    config.main_task = options
    with self.assertRaisesRegex(InputError, message) as caught:
      label_counts.experiment(config=config)
    self.assertNotIn('\n', str(caught.exception))


def passes_once():
  """A defense whose state lets one update through, and nothing after it."""
  return optax.GradientTransformation(
    lambda params: jnp.ones(()),
    lambda updates, state, params=None: (
      jax.tree.map(lambda u: u * state, updates),
      jnp.zeros(()),
    ),
  )


class DefenseTest(parameterized.TestCase):
  @parameterized.parameters('step_defense', 'defense')
  def test_its_state_is_of_one_trial(self, place):
    fields = {place: (dict(name=f'{__name__}.passes_once'),)}
    config = _config(local_steps=1, trials=6, queries=2, **fields)
    workdir = self.create_tempdir().full_path
    experiments.run(config, workdir)
    values = report.trials(workdir)
    (name,) = [n for n in values if 'llbg' in n and 'count_accuracy' in n]
    np.testing.assert_array_equal(values[name], 1.0)

  def test_averaged_queries_are_less_noise(self):
    # Nine queries at sigma are as one at sigma / 3.
    run = lambda sigma, queries: experiments.run(
      _config(
        attacks=_BASIC[:1],
        step_defense=(dict(name='gaussian', stddev=sigma),),
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

  @parameterized.parameters(
    # step sigma, update sigma, S, Q -> what a step of one query would carry
    (0.3, 0.0, 10, 1, 0.3),
    (0.3, 0.0, 10, 4, 0.15),
    (0.0, 0.3, 4, 1, 0.15),
    (0.3, 0.8, 4, 1, 0.5),
  )
  def test_what_is_granted_of_noise(self, step, update, steps, queries, want):
    noise = lambda sigma: (dict(name='gaussian', stddev=sigma),) * (sigma > 0)
    config = _config(
      local_steps=steps,
      queries=queries,
      step_defense=(dict(name='clip', max_norm=1.0), *noise(step)),
      defense=(dict(name='compress', drop=0.4), *noise(update)),
    )
    granted = dict(label_counts._strengths(config))
    self.assertAlmostEqual(granted.pop('gaussian'), want)
    self.assertEqual(granted, dict(clip=1.0, compress=0.4))

  def test_a_defense_has_one_row_however_it_is_spelled(self):
    # Noise that `calibrated` allows for where it is told of it.
    rows = []
    for name in ('gaussian', 'noise.gaussian'):
      noise = (dict(name=name, stddev=0.3),)
      attacks = (dict(name='counts.calibrated', known=('steps', 'defense')),)
      config = _config(attacks=attacks, step_defense=noise, trials=8)
      rows.append(experiments.run(config)[0])
    for field in ('attack', 'known', 'setting', 'defense', 'metrics'):
      self.assertEqual(rows[0][field], rows[1][field])
    self.assertEqual(rows[0]['defense'], 'gaussian')

  @parameterized.parameters(
    (dict(name='smoothing', alpha=0.1), 'smoothing .* is of vertical FL'),
    (dict(name='distance_correlation', weight=0.1), 'acts on the loss'),
    (dict(name='mid', weight=0.1), 'mid .* is of vertical FL'),
  )
  def test_what_is_of_vertical_fl_is_refused(self, spec, message):
    config = _config(defense=(spec,))
    with self.assertRaisesRegex(InputError, message):
      label_counts.experiment(config=config)

  def test_averaged_rows_do_not_pass_for_published_ones(self):
    (row,) = experiments.run(_config(queries=3, trials=1, attacks=()))
    self.assertEqual(row['setting']['queries'], 3)
    (row,) = experiments.run(_config(trials=1, attacks=()))
    self.assertIsNone(row['setting']['queries'])

  def test_a_head_without_bias_leaves_what_reads_the_kernel(self):
    model = dict(name='mlp.mlp', width=16, head_bias=False)
    kernel = ('counts.idlg', 'counts.llg', 'counts.llg_star')
    config = _config(
      model=model, attacks=tuple(dict(name=name) for name in kernel), trials=20
    )
    rows = _by_attack(experiments.run(config))
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

  def test_calibration_finds_the_scale_that_clipping_hides(self):
    clip = (dict(name='clip', max_norm=0.1),)
    calibrated = dict(name='counts.calibrated')
    attacks = (
      dict(name='counts.llbg'),
      calibrated | dict(known=('steps', 'clients', 'defense')),
      calibrated | dict(known=('steps', 'clients')),
    )
    rows = experiments.run(
      _config(step_defense=clip, attacks=attacks, trials=8)
    )
    fixed, granted, blind = (
      row['metrics']['count_accuracy']['mean'] for row in rows[:3]
    )
    self.assertGreater(granted, fixed + 0.2)
    self.assertGreater(blind, fixed + 0.2)


class PublishedDefensesTest(parameterized.TestCase):
  @parameterized.parameters(11, 12, 13, 14)
  def test_each_printed_cell_is_a_point_of_the_config(self, number):
    table = published.table(f'llbg Table {number}')
    config = llbg_defenses.get_config(f'table={number},paper')
    points = [full for _, full in sweep.grid(config)]
    for label, cell in table.cells.items():
      fits = []
      for full in points:
        defense, _ = grants.chain(label_counts._links(full))
        setting = dict(
          data=full.dataset.name,
          model=sweep.describe(full.model),
          num_classes=100,
          batch_size=full.batch_size,
          local_steps=full.local_steps,
          clients=full.clients,
          partition=full.partition,
          trained=bool(full.train),
          defense=defense,
        )
        learned = dict(relative_accuracy=0) if full.get('main_task') else {}
        fits += [
          spec
          for spec in full.attacks
          if published.holds(
            cell,
            dict(
              attack=spec['name'],
              attack_args=grants.hyper(spec),
              setting=setting,
              metrics=learned,
            ),
          )
        ]
      attacks = len(config.attacks) if cell.attack is None else 1
      self.assertLen(fits, attacks, label)


class CostTest(parameterized.TestCase):
  def _flops(self, **fields):
    """Of the compiled trial, and of its model's forward pass alone."""
    config = _config(
      local_steps=1, attacks=_BASIC, model__width=256, batch_size=64, **fields
    )
    source = inputs.source(config)
    model = models.load(
      num_classes=source.num_classes, **config.model.to_dict()
    )
    batches = jax.tree.map(
      lambda a: a[0],
      inputs.batches(config, source, np.arange(len(source.y)), np.arange(1)),
    )
    x = batches.xs[0][0]
    variables = model.init(jax.random.key(0), x)
    specs = [dict(name='counts.llbg')]
    trial = label_counts._trial(
      config, model, source, specs, label_counts.COUNTING
    )
    flops = lambda fn, *args: (
      jax.jit(fn).lower(*args).compile().cost_analysis()['flops']
    )
    whole = flops(trial, jax.random.key(0), batches, (variables, {}, ()))
    return whole, flops(model.apply, variables, x)

  def test_fedsgd_without_defense_needs_no_backward_pass(self):
    # Nobody reads the gradients below the head, so that XLA drops them.
    whole, forward = self._flops()
    self.assertLess(whole, 1.25 * forward)

  def test_clipping_reads_all_gradients(self):
    clip = (dict(name='clip', max_norm=1.0),)
    whole, forward = self._flops(defense=clip)
    self.assertGreater(whole, 2.5 * forward)


class GrantsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    SEEN.clear()

  def _seen(self, wants, **fields):
    name = f'{__name__}.probe'
    spec = (dict(name=name, wants=wants, known=('labelled', 'defense')),)
    experiments.run(_config(attacks=spec, trials=1, **fields))
    return SEEN[0]

  def test_only_what_is_granted(self):
    noise = (dict(name='clip', max_norm=0.5), dict(name='gaussian', stddev=0.1))
    seen = self._seen('labelled', step_defense=noise)
    self.assertIsNone(seen['model'])
    self.assertIsNone(seen['lr'])
    self.assertEqual(seen['steps'], 1)
    self.assertEqual(seen['defense'], (('clip', 0.5), ('gaussian', 0.1)))
    self.assertEqual(seen['labelled'].x.shape, (100, 8, 8, 1))
    self.assertEqual(seen['labelled'].y.shape, (100, 10))
    for field in ('unlabelled', 'labels'):
      self.assertIsNone(seen[field])

  def test_nothing_in_a_known_is_the_victims(self):
    allowed = {
      'num_classes', 'batch_size', 'steps', 'clients', 'lr', 'defense',
      'model', 'labelled', 'unlabelled',
    }  # fmt: skip
    # `labels` are of upper bounds, which no experiment on counts has.
    self.assertEqual(set(self._seen('labelled')), allowed | {'labels'})


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(attacks=(dict(name='counts.llbgg'),)), "llbgg.*'counts.llbg'"),
    (dict(attacks=(dict(name='counts.llbg', gamma=1),)), "takes no 'gamma'"),
    (dict(attacks=(dict(),)), 'no attack or defense'),
    (
      dict(attacks=(dict(name='counts.llg_plus'),)),
      "llg_plus needs 'labelled'",
    ),
    (dict(model__name='mlp.mpl'), "'mlp.mpl'.*'mlp.mlp'"),
    (dict(dataset=dict(name='digit')), 'did you mean digits'),
    (dict(dataset=dict(name='digits', split='tst')), "'tst'"),
    (dict(partition='unbalancd'), "'unbalanced'"),
    (dict(batch_size=100_000), 'larger than the data'),
    (dict(batch_size=12), 'leaves.*without examples.*local_steps='),
    (dict(batch_size=0), 'batch_size=0'),
    (dict(lr=0.0), 'lr=0.0'),
    (dict(trials=0), 'trials=0'),
    (dict(known=('lr', 'labels')), "'labels'"),
    (dict(experiment='hlf'), "'hlf'; known: .*hfl"),
    (dict(aggregate=dict(name='plaintxt')), "'plaintext'"),
    (dict(weights='/nowhere.npz'), '/nowhere.npz'),
    (dict(train=dict(steps=3, lr=0.1)), "'batch_size'"),
    (dict(train=dict(steps=3, lr=0.1, batch_size=4, speed=1)), "'speed'"),
    (
      dict(step_defense=(dict(name='gaussian', stddev=-1.0),)),
      'stddev=-1.0',
    ),
    (dict(model=dict(name='vit.tiny')), 'vit.tiny|patch'),
    (
      dict(dataset=dict(name='synthetic', num_classes=1)),
      'num_classes',
    ),
    (
      dict(known=('unlabelled',), aux__split='test'),
      "'test'.*hold examples out",
    ),
    (dict(known=('labelled',), aux__per_class=0), 'per_class=0'),
    (dict(dataset=dict(split='test')), 'dataset lacks a name'),
    (dict(per_device=0), 'per_device=0'),
    (dict(clients=0), 'clients=0'),
    (dict(queries=0), 'queries=0'),
    (dict(seed=-1), 'seed=-1'),
  )
  def test_one_line_naming_the_value(self, fields, message):
    with self.assertRaisesRegex(InputError, message) as caught:
      experiments.run(_config(**fields))
    self.assertNotIn('\n', str(caught.exception))

  def test_a_bad_point_stops_the_sweep_before_the_first_runs(self):
    config = _config(sweep=(('batch_size', (20, 12)),))
    workdir = self.create_tempdir().full_path
    with self.assertRaisesRegex(InputError, 'batch_size=12'):
      experiments.run(config, workdir)
    self.assertEmpty(report.read(workdir))

  def test_a_stranger_adds_an_attack_without_an_edit(self):
    SEEN.clear()
    config = _config(
      attacks=(dict(name=f'{__name__}.probe', wants='num_classes'),)
    )
    rows = experiments.run(config)
    self.assertEqual(rows[0]['attack'], f'{__name__}.probe')
    self.assertIs(attacks.load('counts.llbg').__class__, Attack)


class ResumeTest(parameterized.TestCase):
  def test_finished_points_are_not_run_again(self):
    config = _config(sweep=(('batch_size', (20, 30)),))
    workdir = self.create_tempdir().full_path
    rows = experiments.run(config, workdir)
    with mock.patch.object(report, 'append') as append:
      again = experiments.run(config, workdir)
    append.assert_not_called()
    self.assertEqual(rows, again)
    self.assertEqual(rows, report.read(workdir))

  def test_config_dict_survives(self):
    config = _config()
    before = config.to_json()
    experiments.run(config)
    self.assertEqual(config.to_json(), before)
    self.assertIsInstance(config, ConfigDict)


class AuxiliaryTest(parameterized.TestCase):
  def test_held_out_examples_never_reach_a_client(self):
    config = _config(aux__per_class=10)
    source = inputs.source(config)
    aux, rows = inputs.auxiliary(config, source)
    np.testing.assert_array_equal(aux.y.sum(0), 10)
    self.assertLen(rows, len(source.y) - 100)
    batch = inputs.batches(config, source, rows, np.arange(20))
    self.assertLessEqual(set(batch.index.ravel()), set(rows))
    held = np.setdiff1d(np.arange(len(source.y)), rows)
    taken = source.take(held)[np.argsort(source.y[held], kind='stable')]
    self.assertEqual(
      {row.tobytes() for row in taken}, {row.tobytes() for row in aux.x}
    )

  def test_overlap_leaves_all_rows_to_the_clients(self):
    config = _config(aux__per_class=10, aux__overlap=True)
    source = inputs.source(config)
    aux, rows = inputs.auxiliary(config, source)
    self.assertLen(rows, len(source.y))
    first = np.flatnonzero(source.y == 0)[:10]
    np.testing.assert_array_equal(aux.x[:10], source.take(first))

  def test_holding_out_too_much_is_refused(self):
    config = _config(aux__per_class=44)
    with self.assertRaisesRegex(InputError, 'aux.per_class=44 leaves'):
      inputs.auxiliary(config, inputs.source(config))
