"""The joint model of a config: batches, training, resume, costs, errors."""

import os
from unittest import mock

from absl.testing import absltest, parameterized
import chex
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import numpy as np

from configs import common, completion
from labelleak import attacks, experiments, he, models, registry, report, vfl
from labelleak.base import InputError
from labelleak.data import plans
from labelleak.experiments.vfl import fitting, joint
from labelleak.he import exchange


def _config(**fields):
  config = common.vfl('test')
  config.batch_size = 32
  config.trials = 2
  config.attacks = (dict(name='linear.last_layer'),)
  for path, value in fields.items():
    config.update_from_flattened_dict({path.replace('__', '.'): value})
  return config


def _built(config):
  source = joint.source(config)
  return source, joint.build(config, joint.attacked(config, source, 0)[0])


class BatchTest(parameterized.TestCase):
  def test_parties_hold_the_parts_of_the_same_rows(self):
    config = _config(classes=4)
    source, model = _built(config)
    batch = joint.batches(config, source, model.split, np.arange(3))
    self.assertEqual(batch.y.shape, (3, 32, 4))
    self.assertEqual([x.shape for x in batch.xs], [(3, 32, 4, 8, 1)] * 2)
    for trial in range(3):
      part, rows = joint.attacked(config, source, trial)
      self.assertLen(set(rows.tolist()), 32)  # without replacement
      x = np.concatenate([x[trial] for x in batch.xs], axis=1)
      np.testing.assert_array_equal(x, part.take(rows))
      np.testing.assert_array_equal(batch.y[trial].argmax(-1), part.y[rows])

  def test_classes_are_drawn_anew_or_the_first(self):
    source = joint.source(_config())
    sums = {
      trial: joint.attacked(_config(classes=3), source, trial)[0]
      .take(np.arange(3))
      .sum()
      for trial in range(6)
    }
    self.assertGreater(len(set(sums.values())), 1)
    first, rows = joint.attacked(_config(classes=3, draw='first'), source, 5)
    np.testing.assert_array_equal(rows, np.arange(32))
    kept = source.y[source.y < 3]
    np.testing.assert_array_equal(first.y, kept)


class EpochsTest(absltest.TestCase):
  @settings(max_examples=50, deadline=None)
  @given(st.integers(1, 60), st.integers(1, 25), st.integers(0, 5))
  def test_an_epoch_holds_every_row_once(self, size, batch_size, epoch):
    steps = -(-size // batch_size)
    numbers = epoch * steps + np.arange(steps) + 1
    index, mask = plans.epochs(size, batch_size, numbers, seed=3)
    np.testing.assert_array_equal(np.sort(index[mask > 0]), np.arange(size))
    again, _ = plans.epochs(size, batch_size, numbers[-1:], seed=3)
    np.testing.assert_array_equal(again[0], index[-1])  # one step alone
    # Padding is made of real rows, as different as the epoch has them.
    self.assertGreaterEqual(len(set(index[-1].tolist())), min(batch_size, size))

  def test_order(self):
    index, _ = plans.epochs(10, 5, np.arange(1, 5), seed=None)
    np.testing.assert_array_equal(index.reshape(-1), [*range(10)] * 2)
    index, _ = plans.epochs(10, 5, np.arange(1, 5), seed=0)
    self.assertFalse((index[:2] == index[2:]).all())  # drawn anew


class TrainingTest(parameterized.TestCase):
  def test_a_killed_training_resumes_to_the_same_bits(self):
    """Stopped in the middle of an epoch, at no multiple of a chunk."""
    workdir = self.create_tempdir().full_path
    options = dict(train__batch_size=100, train__steps=47)
    config = _config(**options, train__workdir=workdir)
    source, model = _built(config)
    self.assertEqual(-(-len(source.y) // 100), 14)  # steps of an epoch
    whole = fitting.fit(_config(**options), model, source, 3)
    fit = fitting.train.fit
    stopped = lambda *args, steps, **rest: fit(*args, steps=27, **rest)
    with mock.patch.object(fitting.train, 'fit', stopped):
      fitting.fit(config, model, source, 3)
    with mock.patch.object(plans, 'epochs', self._after(27)):
      resumed = fitting.fit(config, model, source, 3)
    chex.assert_trees_all_equal(
      jax.tree.map(_bits, resumed), jax.tree.map(_bits, whole)
    )

  def _after(self, done):
    """`epochs` that refuses steps which were done before."""
    rows = plans.epochs

    def later(size, batch_size, numbers, *, seed):
      self.assertGreater(numbers[0], done)
      return rows(size, batch_size, numbers, seed=seed)

    return later

  def test_it_learns(self):
    config = _config(train__steps=150, optimizer__lr=0.01)
    source, model = _built(config)
    state = fitting.fit(config, model, source, 0)
    tested = joint.source(config, 'test')
    self.assertGreater(joint.accuracy(model, state, tested), 0.8)

  def test_accuracy_counts_every_row_once(self):
    config = _config()
    source, model = _built(config)
    xs = model.split(source.take(np.arange(len(source.y))))
    state = model.protocol.init(jax.random.key(0), xs)
    p = model.protocol.predict(state, xs)
    expected = (np.asarray(p).argmax(-1) == source.y).mean()
    with mock.patch.object(joint, '_EVALUATED', 100):
      self.assertAlmostEqual(joint.accuracy(model, state, source), expected)


def _bits(a):
  return (
    jax.random.key_data(a)
    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
    else a
  )


_BERT = dict(name='bert.bert', vocab=9, width=4, heads=2, depth=1)


class RatesTest(parameterized.TestCase):
  def _optimizer(self, make=None, **optimizer):
    config = common.completion('test')
    config.optimizer = dict(
      dict(name='sgd', lr=1e-3, momentum=0.9, weight_decay=0.1), **optimizer
    )
    source = joint.source(config)
    model = joint.build(config, source, attackers=(0,), optimizer=make)
    return model.parties[0].tx

  def _params(self):
    model = models.load(num_classes=3, **_BERT)
    tokens = np.arange(6).reshape(2, 3)
    return model.init(jax.random.key(0), tokens)['params']

  @parameterized.parameters(
    (None, lambda d: 1.9 * d),  # momentum .9
    # v = 1.8 d of a last step d: r = 2.8
    ('completion.active', lambda d: 2.8 * 1.8 * d),
  )
  def test_each_group_moves_by_its_own_rate(self, attack, second):
    """All gradients are 1, and decay enters before everything else."""
    make = attacks.load(attack).optimizer if attack else None
    rates = dict(head=0.5, head_neck=0.25)
    tx, params = self._optimizer(make, rates=rates), self._params()
    ones = jax.tree.map(np.ones_like, params)
    state = tx.init(params)
    moves = []
    for _ in range(2):
      step, state = tx.update(ones, state, params)
      moves.append(step)
    for name, branch in params.items():
      rate = rates.get(name, 1e-3)
      d = jax.tree.map(lambda a: 1 + 0.1 * a, branch)
      for move, scale in zip(moves, (lambda d: d, second)):
        wanted = jax.tree.map(lambda a, s=scale, r=rate: -r * s(a), d)
        chex.assert_trees_all_close(move[name], wanted, rtol=1e-4)

  def test_all_drop_after_an_epoch(self):
    tx = self._optimizer(rates=dict(head=0.5), decay=(1,), momentum=0.0)
    params = {'head': {'bias': np.zeros(1)}, 'linear': {'bias': np.zeros(1)}}
    ones, state = jax.tree.map(np.ones_like, params), tx.init(params)
    update, moves = jax.jit(tx.update), []
    for _ in range(12):  # 1347 rows by 128 are 11 steps
      step, state = update(ones, state, params)
      moves.append([float(step[k]['bias'][0]) for k in params])
    np.testing.assert_allclose(moves[:11], [[-0.5, -1e-3]] * 11, rtol=1e-5)
    np.testing.assert_allclose(moves[11], [-0.05, -1e-4], rtol=1e-5)

  def test_modules_at_any_level(self):
    """As where a bottom and an inference head are trained together."""
    tx = self._optimizer(rates=dict(head=0.5), weight_decay=0.0)
    params = {
      'bottom': {'head': {'bias': np.ones(1)}, 'conv': {'bias': np.ones(1)}},
      'head': {'linear': {'bias': np.ones(1)}},
    }
    moved, _ = tx.update(params, tx.init(params), params)
    chex.assert_trees_all_close(
      jax.tree.map(lambda a: a[0], moved),
      {
        'bottom': {'head': {'bias': -0.5}, 'conv': {'bias': -1e-3}},
        'head': {'linear': {'bias': -0.5}},
      },
    )

  def test_bad_rates(self):
    tx = self._optimizer(rates=dict(haed=0.5))
    with self.assertRaisesRegex(InputError, 'rates.haed is of no module'):
      tx.init(self._params())
    with self.assertRaisesRegex(InputError, 'rates.head=-1 must be a positive'):
      self._optimizer(rates=dict(head=-1))

  def test_berts_config_has_the_published_rates(self):
    config = completion.get_config('data=yahoo,bert')
    rates = config.optimizer.lr, config.optimizer.rates.head
    self.assertEqual((*rates, config.top_optimizer['lr']), (5e-6, 5e-4, 1e-3))
    for optimizer in (config.optimizer, config.top_optimizer):
      self.assertEqual(optimizer['decay'], (15, 25))
      self.assertEqual(optimizer['momentum'], 0.9)


class CostTest(parameterized.TestCase):
  @parameterized.parameters('plaintext', 'ideal', 'ckks')
  def test_traffic(self, name):
    config = _config(aggregate=dict(name=name))
    source, model = _built(config)
    (traffic,) = joint.traffic(model, source, 32)
    self.assertEqual(traffic.embedding, 32 * 10 * 4)
    if name == 'plaintext':
      self.assertEqual(traffic[1:], (32 * 10 * 4, 0, 0))
    elif name == 'ideal':
      params = 32 * 33 + 10 * 33
      self.assertEqual(traffic[1:], (32 * 10 * 4, 4 * params, 4 * params))
    else:
      self.assertGreater(traffic.gradient, 100 * 32 * 10 * 4)

  def test_too_long_a_run_is_refused_before_it_starts(self):
    config = _config(
      aggregate=dict(name='ckks'), experiment='vfl.training', train__steps=10**6
    )
    config.he.max_hours = 1e-3
    with self.assertRaisesRegex(InputError, 'more than he.max_hours=0.001'):
      experiments.run(config)

  def test_traffic_is_what_the_roles_frame(self):
    aggregate = he.ckks()
    h = np.zeros((8, 2), np.float32)
    params = dict(w=np.zeros((3, 2), np.float32))
    matrix = np.ones((6, 16))
    sent = exchange.exchange(aggregate.scheme, matrix, np.zeros(16))
    traffic = vfl.traffic(aggregate, h, params)
    sizes = tuple(map(len, sent[:3]))
    self.assertEqual(traffic[1:], sizes)


class EncryptedTest(parameterized.TestCase):
  """Algorithm 1 with real keys, on real data."""

  def _cancer(self, aggregate):
    return _config(
      dataset=dict(name='breast_cancer', split='train'),
      split=dict(name='splits.features'),
      model=dict(name='mlp.linear'),
      aggregate=aggregate,
      optimizer__lr=0.05,
      train__steps=10,
      train__batch_size=32,
    )

  @parameterized.parameters('paillier', 'ckks')
  def test_training_ends_where_the_ideal_scheme_does(self, name):
    accuracies, states = [], []
    for aggregate in (dict(name='ideal'), dict(name=name)):
      config = self._cancer(aggregate)
      source, model = _built(config)
      state = fitting.fit(config, model, source, 0)
      tested = joint.source(config, 'test')
      accuracies.append(joint.accuracy(model, state, tested))
      states.append(state.variables)
    self.assertGreater(accuracies[0], 0.9)
    self.assertAlmostEqual(*accuracies, delta=0.005)
    chex.assert_trees_all_close(*states, atol=1e-3)

  @parameterized.parameters('paillier', 'ckks')
  def test_a_gradient_is_within_the_documented_bound(self, name):
    seen = []
    aggregate = registry.load('he', name)
    for each in (he.plaintext(), aggregate):
      config = self._cancer(dict(name='ideal'))
      source, model = _built(config)
      links = (vfl.link(aggregate=each), vfl.link())
      protocol = vfl.protocol(model.parties, None, links)
      batch = joint.batches(config, source, model.split, np.arange(1))
      batch = jax.tree.map(lambda a: a[0], batch)
      state = protocol.init(jax.random.key(0), batch.xs)
      seen.append(jax.jit(protocol.step)(state, batch)[1][0][0])
    clear, real = seen
    x = np.asarray(clear.x, np.float64)
    # d loss / d kernel[f, k] = sum_b x[b, f] cut[b, k]; the bias sums cut.
    maps = dict(bias=np.ones((1, 32)), kernel=x.T)
    for leaf, rows in maps.items():
      matrix = np.kron(rows, np.eye(2))
      message = np.asarray(clear.cut_grads, np.float64).reshape(-1)
      bound = aggregate.scheme.error_bound(matrix, message)
      found = np.asarray(real.param_grads['head'][leaf], np.float64)
      off = np.abs(found.reshape(-1) - matrix @ message)
      rounding = 1e-6 * np.abs(matrix) @ np.abs(message)  # float32
      self.assertTrue((off <= bound + rounding).all())
    self.assertIsNone(real.cut_grads)


class RunTest(parameterized.TestCase):
  @parameterized.parameters(0, 2)
  def test_rows(self, steps):
    config = _config(batch_size=8, train__steps=steps, classes=3)
    rows = experiments.run(config)
    self.assertEqual(
      [row['attack'] for row in rows], ['linear.last_layer', 'scores.random']
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
      self.assertEqual(row['setting']['accuracy'] is None, steps == 0)

  def test_every_label_is_read_in_the_clear(self):
    """Exactly all of them, though XLA may compute a score twice."""
    config = _config(
      batch_size=128,
      attacks=(dict(name='scores.direct'),),
      aggregate=dict(name='plaintext'),
    )
    row = experiments.run(config)[0]
    for metric in ('label_accuracy', 'permuted_label_accuracy'):
      self.assertEqual(row['metrics'][metric]['mean'], 1.0)

  @parameterized.parameters(
    (dict(attacker=1), 'attacker=1 must be a passive party'),
    (dict(batch_size=1), 'batch_size=1 must lie in 2'),
    (dict(batch_size=5000), 'batch_size=5000 must lie in 2'),
    (dict(classes=11), 'classes=11 must lie in 2'),
    (dict(draw='last'), "draw='last' is unknown"),
    (dict(optimizer__lr=-1.0), 'optimizer.lr=-1.0 must be a positive'),
    (dict(optimizer__name='addam'), "no optimizer 'addam'"),
    (dict(aggregate=dict(name='idael')), "no 'idael'.*'ideal'"),
    (dict(model=dict(name='mlp.mlp3')), "no 'mlp.mlp3'"),
    (dict(split=dict(name='splits.patches')), 'cuts examples of shape'),
    (dict(attacks=(dict(name='scores.direct'),)), 'link is sealed'),
    (dict(attacks=(dict(name='linear.full', known=('labelled', 'z')),)), "'z'"),
    (dict(cut_width=4), 'one logit a class'),
    (
      dict(cut_width=4, experiment='vfl.training', train__steps=1),
      'one logit a class',
    ),
    (dict(train__batch_size=0), 'train.batch_size=0 must be at least 1'),
    (dict(train__steps=1, train__tested='tset'), "no split 'tset'"),
    (
      dict(train__steps=1, train__batch_size=673),  # 1347 rows
      'train.batch_size=673 leaves a sealed batch of 1 of 1347 rows',
    ),
    (dict(aux__per_class=0), 'aux.per_class=0 must be at least 1'),
    (dict(experiment='vfl.training'), 'train.steps=0 trains nothing'),
  )
  def test_bad_input_is_named_before_anything_runs(self, fields, message):
    with self.assertRaisesRegex(InputError, message):
      experiments.run(_config(**fields))


class RefusedRunTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(aggregate=dict(name='ckks', bound=1e-4)), 'beyond bound=0.0001'),
    (dict(optimizer__lr=1e38), 'loss is .* at step'),
  )
  def test_what_only_a_run_finds_is_one_line(self, fields, message):
    fields |= dict(experiment='vfl.training', train__steps=30, classes=2)
    fields['model'] = dict(name='mlp.linear')
    with self.assertRaisesRegex(InputError, message) as caught:
      experiments.run(_config(**fields))
    self.assertLen(str(caught.exception).splitlines(), 1)

  def test_it_ends_its_point_alone(self):
    config = _config(experiment='vfl.training', train__steps=30, classes=2)
    config.model = dict(name='mlp.linear')
    config.sweep = (('optimizer.lr', (1e38, 0.01)),)
    workdir = self.create_tempdir().full_path
    with self.assertRaisesRegex(
      InputError,
      r'1 of 2 points stopped\. optimizer\.lr=1e\+38: loss is.* is in .*\.$',
    ):
      experiments.run(config, workdir)
    rows = report.read(workdir)
    self.assertEqual({row['point']['optimizer.lr'] for row in rows}, {0.01})
    self.assertTrue(os.path.exists(os.path.join(workdir, 'table.md')))
    with self.assertRaisesRegex(InputError, '1 of 2 points stopped'):
      experiments.run(config, workdir)
    self.assertEqual(report.read(workdir), rows)  # what was finished stays


if __name__ == '__main__':
  absltest.main()
