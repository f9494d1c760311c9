"""Replacement as an experiment: what it reports, and what it refuses."""

import types
from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np
import pytest

from configs import common
from labelleak import experiments, he, metrics
from labelleak.base import InputError
from labelleak.data import Source, triggers
from labelleak.experiments.vfl import backdoor, observation
from labelleak.experiments.vfl.build import build

_GUESS = dict(name='scores.random')


def _config(**fields):
  config = common.backdoor('test')
  config.trials = 2
  config.train.update(steps=320, epochs=0)  # whole chunks compile once
  for path, value in fields.items():
    config.update_from_flattened_dict({path.replace('__', '.'): value})
  return config


def _backdoor(**options):
  return dict(name='backdoor.backdoor', **options)


def _means(config):
  return [
    {k: v['mean'] for k, v in row['metrics'].items()}
    for row in experiments.run(config)
  ]


def _observer(joint, config):
  """What watches a training step for the attackers of a config."""
  return observation.observer(
    joint,
    config.poison.inference,
    config.known,
    per_class=config.aux.per_class,
  )


class MetricsTest(parameterized.TestCase):
  def test_the_target_class_is_left_out_of_the_rate(self):
    y = np.eye(4)[[0, 1, 2, 2, 3]]
    named = np.eye(4)[[2, 1, 2, 2, 2]]
    rate = metrics.backdoor_rate(named, y, 2)
    self.assertAlmostEqual(float(rate), 2 / 3, places=6)
    count = metrics.backdoor_count(named, y, 2)
    self.assertAlmostEqual(float(count), 4 / 5, places=6)

  def test_a_perfect_model_has_no_rate_and_a_share_of_the_count(self):
    y = np.eye(4)[np.arange(40) % 4]
    self.assertEqual(float(metrics.backdoor_rate(y, y, 1)), 0.0)
    self.assertEqual(float(metrics.backdoor_count(y, y, 1)), 0.25)

  def test_no_example_of_another_class_is_no_rate(self):
    y = np.eye(4)[[1, 1]]
    self.assertEqual(float(metrics.backdoor_rate(y, y, 1)), 0.0)


def _encrypted(aggregate, attack, **fields):
  """Two steps on two classes, watched for an epoch of three before."""
  return _config(
    aggregate=aggregate,
    attacks=(dict(name=f'backdoor.{attack}'),),
    classes=2,
    model=dict(name='mlp.linear'),
    poison__count=20,
    poison__form='paired' if attack == 'backdoor' else 'alone',
    poison__inference=None if attack == 'backdoor' else _GUESS,
    train__steps=2,
    train__batch_size=80,
    batch_size=80,
    trials=1,
    **fields,
  )


class EncryptedTest(parameterized.TestCase):
  @parameterized.product(
    scheme=('paillier', 'ckks'), attack=('backdoor', 'relabel')
  )
  @pytest.mark.slow
  def test_a_config_runs_on_ciphertexts_as_on_what_is_ideal(
    self, scheme, attack
  ):
    short = dict(key_bits=512, insecure_for_tests=True)
    hyper = short if scheme == 'paillier' else dict(bound=1 / 31)
    rows, exact = (
      _means(_encrypted(aggregate, attack))
      for aggregate in (dict(name=scheme, **hyper), dict(name='ideal'))
    )
    self.assertLen(rows, 2)  # one of them is not attacked
    for row, other in zip(rows, exact):
      self.assertEqual(row.keys(), other.keys())
      for name, value in row.items():
        self.assertAlmostEqual(value, other[name], delta=0.02)

  def test_what_is_watched_costs_time_too(self):
    aggregate = dict(name='ckks', bound=1 / 31)
    costs, check = [], he.check_hours
    with mock.patch.object(he, 'check_hours', lambda *a, **k: costs.append(k)):
      experiments.prepare(_encrypted(aggregate, 'relabel'))
    self.assertEqual([cost['steps'] for cost in costs], [4, 3])
    config = _encrypted(aggregate, 'relabel', he__max_hours=1e-9)
    self.assertIs(he.check_hours, check)
    with self.assertRaisesRegex(InputError, 'more than he.max_hours=1e-09'):
      experiments.prepare(config)


class BackdoorTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_the_shift_of_norms_is_in_deviations_of_plain_rows(self, natural):
    """Of two attackers' embeddings, which are the features themselves."""
    x = np.random.default_rng(0).normal(2, 1, (9, 6)).astype(np.float32)
    source = Source(lambda i: x[i], np.arange(9) % 2, 2, (6,), 'features')
    trigger = triggers.feature(shape=(6,), at=1, value=7.0)
    if natural:
      trigger = triggers.natural(shape=(6,), at=1, above=2.0)
    bearers = triggers.bearers(source, trigger)
    self.assertEqual(bearers.all(), not natural)
    party = mock.Mock(apply=lambda v, x, train, key: (x, {}))
    predict = lambda state, xs: np.eye(2)[np.zeros(9, int)]
    joint = types.SimpleNamespace(
      tested=source,
      parties=(party,) * 3,
      protocol=types.SimpleNamespace(predict=predict),
      accuracy=lambda state: 0.5,
      score=lambda predict, state, source: np.asarray(
        predict(state, np.split(source.take(np.arange(9)), 3, axis=1))
      ),
    )
    world = types.SimpleNamespace(
      trigger=trigger, bearers=bearers, attackers=(0, 2)
    )
    state = types.SimpleNamespace(variables=(None,) * 3)
    trial = types.SimpleNamespace(target=0)
    found = backdoor._judge(world, joint, state, trial)
    norm = lambda x: (x[:, [0, 1, 4, 5]].astype(float) ** 2).sum(1) ** 0.5
    moved, plain = x.copy(), x[~bearers]
    if not natural:
      moved[:, 1], plain = 7.0, x
    shift = norm(moved[bearers]).mean() - norm(plain).mean()
    self.assertAlmostEqual(
      found['norm_shift'], shift / norm(plain).std(), places=4
    )
    self.assertEqual(found['backdoor_rate'], 1.0)

  def test_it_opens_and_the_main_task_stays(self):
    config = _config(attacks=(_backdoor(gamma=10.0),))
    row, clean = experiments.run(config)
    attacked, plain = (
      {k: v['mean'] for k, v in each['metrics'].items()}
      for each in (row, clean)
    )
    self.assertEqual(row['attack'], _backdoor(gamma=10.0))
    self.assertEqual(clean['attack'], dict(name='none'))
    self.assertGreater(plain['main_accuracy'], 0.8)
    self.assertLess(plain['backdoor_rate'], 0.1)
    self.assertGreater(attacked['backdoor_rate'], 0.3)
    self.assertGreater(attacked['main_accuracy'], plain['main_accuracy'] - 0.1)
    self.assertGreater(attacked['norm_shift'], plain['norm_shift'])
    self.assertEqual([each['target'] for each in row['per_trial']], [0, 1])
    rates = [each['backdoor_rate'] for each in row['per_trial']]
    self.assertAlmostEqual(
      np.mean(rates), attacked['backdoor_rate'], delta=1e-4
    )
    examples = row['examples']
    plain, marked = (np.array(examples[k]) for k in ('plain', 'triggered'))
    self.assertEqual(plain.shape, (4, 8, 8, 1))
    places = set(map(tuple, np.argwhere(plain != marked)[:, 1:3]))
    self.assertContainsSubset(places, set(config.trigger.at))
    self.assertNotIn('examples', clean)

  def test_clear_and_sealed_are_the_same_training(self):
    ends = [
      _means(_config(trials=1, train__steps=40, aggregate=dict(name=name)))
      for name in ('plaintext', 'ideal')
    ]
    for one, other in zip(*ends):
      for name, value in one.items():
        self.assertAlmostEqual(value, other[name], delta=0.02)

  def test_unpaired_rows_open_nothing(self):
    """A trigger on rows that keep their labels is no backdoor."""
    config = _config(trials=1)
    config.poison.form = 'alone'
    attacked, _ = _means(config)
    self.assertLess(attacked['backdoor_rate'], 0.1)

  def test_a_clean_training_is_that_of_the_training_experiment(self):
    config = _config(train__steps=40)
    rates = _means(config)[-1]
    config.experiment = 'vfl.training'
    (plain,) = _means(config)
    self.assertEqual(rates['main_accuracy'], plain['main_accuracy'])

  def test_four_parties_collude(self):
    config = _config(train__steps=20, trials=1)
    config.split = dict(name='splits.quarters')
    config.trigger.at = ((3, 3), (3, 7), (7, 3))
    config.poison.attackers = (0, 1, 2)
    rows = experiments.run(config)
    extra = rows[0]['setting']['extra']
    self.assertEqual(extra['split'], dict(name='splits.quarters'))
    self.assertEqual(extra['poison']['attackers'], [0, 1, 2])
    config.poison.attackers = (0, 2)
    with self.assertRaisesRegex(InputError, 'part of party 1, .*attackers='):
      experiments.run(config)

  def test_rows_of_a_table_that_bear_it_by_nature(self):
    config = _config(train__steps=20, trials=1)
    config.dataset = dict(name='breast_cancer', split='train', normalise=True)
    config.split = dict(name='splits.features')
    config.trigger = dict(name='triggers.natural', at=3, above=1.5)
    config.poison.count = None
    config.poison.target = 1
    config.model = dict(name='mlp.mlp2')
    rows = experiments.run(config)
    self.assertNotIn('examples', rows[0])
    self.assertEqual(rows[0]['setting']['num_classes'], 2)

  @parameterized.parameters(
    (dict(train__steps=0), 'train.steps=0 must be .* of at least 1'),
    (dict(poison__targets=10**4), 'poison.targets=10000 must be'),
    (dict(poison__form='pair'), "poison.form='pair' is unknown"),
    (
      dict(poison__target=10),
      r'poison.target=10 must be .* in 0\.\.9; it is a class',
    ),
    (
      dict(poison__attackers=(1,)),
      r'attacker=1 must be .* in 0\.\.0; it is a passive party',
    ),
    (dict(poison__attackers=()), 'changes no message'),
    (dict(trigger__at=((0, 0),)), 'part of party 1, which is none'),
    (dict(attacks=(dict(name='scores.direct'),)), 'changes no message'),
    (dict(attacks=(_backdoor(gamma=0.0),)), 'gamma=0.0 must be positive'),
  )
  def test_what_cannot_run_is_refused(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      experiments.run(_config(**fields))

  def test_padded_batches_fit_defenses_with_a_state_a_row(self):
    config = _config(train__steps=20, trials=1)
    config.defense = (dict(name='sparsify', drop=0.5),)
    rows = experiments.run(config)
    self.assertEqual(rows[0]['setting']['defense'], list(config.defense))


class RelabelTest(parameterized.TestCase):
  def _config(self, **fields):
    config = _config(**fields)
    config.poison.form = 'alone'
    config.attacks = (dict(name='backdoor.relabel', gamma=10.0),)
    return config

  def test_inferred_labels_open_it_and_guesses_do_not(self):
    found = {}
    for name in ('linear.full', 'scores.random'):
      config = self._config(trials=1)
      config.poison.inference = dict(name=name)
      found[name], clean = _means(config)
      self.assertEqual(clean['label_accuracy'], found[name]['label_accuracy'])
    self.assertGreater(found['linear.full']['label_accuracy'], 0.7)
    self.assertLess(found['scores.random']['label_accuracy'], 0.4)
    self.assertGreater(
      found['linear.full']['backdoor_rate'],
      found['scores.random']['backdoor_rate'],
    )

  def test_only_poisoned_rows_are_known(self):
    config = self._config()
    config.poison.inference = dict(name='scores.random')
    joint, rows = build(config), np.array([4, 9, 40])
    found = observation.infer_labels(
      joint, _observer(joint, config), rows, seed=0
    )
    np.testing.assert_array_equal(np.delete(found, rows), -1)
    self.assertEqual(found.shape, joint.source.y.shape)
    config.poison.inference = None
    self.assertIsNone(_observer(joint, config))

  def test_what_is_inferred_is_right_where_all_is_seen(self):
    """In the clear, direct inference names every row of the first epoch."""
    config = self._config()
    config.poison.inference = dict(name='scores.direct')
    config.aggregate = dict(name='plaintext')
    joint = build(config)
    rows = np.arange(len(joint.source.y))
    found = observation.infer_labels(
      joint, _observer(joint, config), rows, seed=0
    )
    seen = found >= 0
    self.assertEqual(seen.sum(), len(rows) // 128 * 128)
    np.testing.assert_array_equal(found[seen], joint.source.y[seen])

  @parameterized.parameters(
    (dict(batch_size=64), 'batch_size=64 must be that of the training'),
    (dict(poison__inference=dict(name='scores.dirct')), "has no 'scores.dirct"),
    (
      dict(poison__inference=dict(name='scores.direct')),
      'this link is sealed',
    ),
  )
  def test_what_cannot_infer_is_refused(self, fields, message):
    config = self._config()
    config.poison.inference = dict(name='linear.full')
    for path, value in fields.items():
      if path == 'poison__inference':
        config.poison.inference = value
      else:
        config[path] = value
    with self.assertRaisesRegex(InputError, message):
      experiments.run(config)


class ResumeTest(absltest.TestCase):
  @pytest.mark.slow
  def test_checkpoints_of_attacks_are_apart(self):
    config = _config(train__steps=20, trials=1)
    config.attacks = (_backdoor(gamma=1.0), _backdoor(gamma=100.0))
    plain = _means(config)
    config.train.workdir = self.create_tempdir().full_path
    self.assertEqual(_means(config), plain)
    self.assertEqual(_means(config), plain)  # from the checkpoints
    self.assertNotEqual(plain[0], plain[1])


if __name__ == '__main__':
  absltest.main()
