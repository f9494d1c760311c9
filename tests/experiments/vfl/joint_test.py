"""The joint model of a config: batches, training, resume, costs."""

from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import numpy as np
import pytest

from labelleak import experiments, he, registry, train, vfl
from labelleak.base import InputError
from labelleak.data import plans
from labelleak.experiments.vfl.build import build
from labelleak.he import exchange
from labelleak.vfl import fitting
from tests.experiments import samples


def _built(**fields):
  return build(samples.vertical(**fields))


class BatchTest(parameterized.TestCase):
  def test_parties_hold_the_parts_of_the_same_rows(self):
    joint = _built(classes=4)
    batch = joint.draw(np.arange(3))
    self.assertEqual(batch.y.shape, (3, 32, 4))
    self.assertEqual([x.shape for x in batch.xs], [(3, 32, 4, 8, 1)] * 2)
    for trial in range(3):
      part, rows = joint.draws.rows(joint.source, trial)
      self.assertLen(set(rows.tolist()), 32)  # without replacement
      x = np.concatenate([x[trial] for x in batch.xs], axis=1)
      np.testing.assert_array_equal(x, part.take(rows))
      np.testing.assert_array_equal(batch.y[trial].argmax(-1), part.y[rows])

  def test_classes_are_drawn_anew_or_the_first(self):
    joint = _built(classes=3)
    parts = [joint.draws.rows(joint.source, trial)[0] for trial in range(6)]
    sums = {part.take(np.arange(3)).sum() for part in parts}
    self.assertGreater(len(sums), 1)
    joint = _built(classes=3, draw='first')
    first, rows = joint.draws.rows(joint.source, 5)
    np.testing.assert_array_equal(rows, np.arange(32))
    kept = joint.source.y[joint.source.y < 3]
    np.testing.assert_array_equal(first.y, kept)


class TrainingTest(parameterized.TestCase):
  def test_a_killed_training_resumes_to_the_same_bits(self):
    """Stopped in the middle of an epoch, at no multiple of a chunk."""
    workdir = self.create_tempdir().full_path
    options = dict(train__batch_size=100, train__steps=47)
    joint = _built(**options, train__workdir=workdir)
    self.assertEqual(-(-len(joint.source.y) // 100), 14)  # steps of an epoch
    whole = _built(**options).fit(3)
    fit = train.fit
    stopped = lambda *args, steps, **rest: fit(*args, steps=27, **rest)
    with mock.patch.object(train, 'fit', stopped):
      joint.fit(3)
    with mock.patch.object(plans, 'epochs', self._after(27)):
      resumed = joint.fit(3)
    chex.assert_trees_all_equal(
      jax.tree.map(_bits, resumed), jax.tree.map(_bits, whole)
    )

  def _after(self, done):
    """`epochs` that refuses steps which were done before.

    What a training starts from has the shapes of its first batch, unshuffled.
    """
    rows = plans.epochs

    def later(size, batch_size, numbers, *, seed):
      if seed is not None:
        self.assertGreater(numbers[0], done)
      return rows(size, batch_size, numbers, seed=seed)

    return later

  def test_it_learns(self):
    joint = _built(train__steps=150, optimizer__lr=0.01)
    state = joint.fit(0)
    self.assertEqual(len(joint.tested.y), 450)  # of another split
    self.assertGreater(joint.accuracy(state), 0.8)

  def test_accuracy_counts_every_row_once(self):
    joint = _built()
    source = joint.source
    xs = joint.split(source.take(np.arange(len(source.y))))
    state = joint.protocol.init(jax.random.key(0), xs)
    p = joint.protocol.predict(state, xs)
    expected = (np.asarray(p).argmax(-1) == source.y).mean()
    with mock.patch.object(fitting, '_EVALUATED', 100):
      self.assertAlmostEqual(joint.accuracy(state, source), expected)


def _bits(a):
  return (
    jax.random.key_data(a)
    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
    else a
  )


class CostTest(parameterized.TestCase):
  @parameterized.parameters('plaintext', 'ideal', 'ckks')
  def test_traffic(self, name):
    (traffic,) = _built(aggregate=dict(name=name)).traffic(32)
    self.assertEqual(traffic.embedding, 32 * 10 * 4)
    if name == 'plaintext':
      self.assertEqual(traffic[1:], (32 * 10 * 4, 0, 0))
    elif name == 'ideal':
      params = 32 * 33 + 10 * 33
      self.assertEqual(traffic[1:], (32 * 10 * 4, 4 * params, 4 * params))
    else:
      self.assertGreater(traffic.gradient, 100 * 32 * 10 * 4)

  def test_too_long_a_run_is_refused_before_it_starts(self):
    config = samples.vertical(
      aggregate=dict(name='ckks'), experiment='vfl.training', train__steps=10**6
    )
    config.he.max_hours = 1e-3
    with self.assertRaisesRegex(InputError, 'more than he.max_hours=0.001'):
      experiments.run(config)

  def test_more_results_than_a_key_may_open_are_refused(self):
    config = samples.vertical(
      aggregate=dict(name='ckks', mask_bits=34),  # 2^14 results
      experiment='vfl.training',
      model=dict(name='mlp.linear'),  # 330 of them a step
      train__steps=50,  # in each of two trials
    )
    with self.assertRaisesRegex(InputError, '33000 results .* than the 16384'):
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
    return _built(
      dataset=dict(name='breast_cancer', split='train'),
      split=dict(name='splits.features'),
      model=dict(name='mlp.linear'),
      aggregate=aggregate,
      optimizer__lr=0.05,
      train__steps=10,
      train__batch_size=32,
    )

  @parameterized.parameters('paillier', 'ckks')
  @pytest.mark.slow
  def test_training_ends_where_the_ideal_scheme_does(self, name):
    accuracies, states = [], []
    for aggregate in (dict(name='ideal'), dict(name=name)):
      joint = self._cancer(aggregate)
      state = joint.fit(0)
      accuracies.append(joint.accuracy(state))
      states.append(state.variables)
    self.assertGreater(accuracies[0], 0.9)
    self.assertAlmostEqual(*accuracies, delta=0.005)
    chex.assert_trees_all_close(*states, atol=1e-3)

  @parameterized.parameters('paillier', 'ckks')
  def test_a_gradient_is_within_the_documented_bound(self, name):
    seen = []
    aggregate = registry.load('he', name)
    for each in (he.plaintext(), aggregate):
      joint = self._cancer(dict(name='ideal'))
      links = (vfl.link(aggregate=each), vfl.link())
      protocol = vfl.protocol(joint.parties, None, links)
      batch = jax.tree.map(lambda a: a[0], joint.draw(np.arange(1)))
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


if __name__ == '__main__':
  absltest.main()
