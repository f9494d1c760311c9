"""Federations over rounds, against a loop in NumPy."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import base, he, hfl
from labelleak.base import InputError

KEY = jax.random.key(0)
K, F, R = 4, 3, 5
LR, LOCAL = 0.1, 4  # of clients: learning rate and batch size
SIZES = 5, 12, 20
FEDAVG = dict(name='sgd', lr=1.0)
FEDAVGM = dict(name='sgd', lr=0.7, momentum=0.9)
FEDADAM = dict(name='fedadam', lr=0.05, b1=0.8, b2=0.95, tau=1e-2)
FEDYOGI = dict(FEDADAM, name='fedyogi')
SERVERS = dict(fedavg=FEDAVG, fedavgm=FEDAVGM, fedadam=FEDADAM, fedyogi=FEDYOGI)


def _forward(variables, x, *, train, key):
  del train, key
  head = variables['params']['head']
  return x @ head['kernel'] + head['bias'][None], variables


def _batches(sizes=SIZES, seed=0):
  """Clients of unequal size, padded to the largest: leaves [C, B, ...]."""
  rng = np.random.default_rng(seed)
  num = len(sizes), max(sizes)
  labels = rng.integers(0, K, num)
  x = rng.normal(size=(*num, F)) + labels[..., None]
  mask = np.arange(num[1]) < np.array(sizes)[:, None]
  return base.Batch(
    (jnp.array(x, jnp.float32),), jnp.eye(K)[labels], None, mask.astype('f')
  )


def _variables(seed=1):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.array(0.3 * rng.normal(size=shape), jnp.float32)
  return {'params': {'head': dict(kernel=draw(F, K), bias=draw(K))}}


def _train(batches=None, rounds=R, **options):
  """Returns the state after R rounds, and the rounds, stacked."""
  batches = _batches() if batches is None else batches
  client = hfl.Client(lr=LR, batch_size=LOCAL)
  local = hfl.local_training(client, _forward)
  protocol = hfl.protocol(local, lr=LR, **options)
  state = protocol.init(KEY, _variables())
  step = lambda state, _: protocol.step(state, batches)
  run = jax.jit(lambda state: jax.lax.scan(step, state, length=rounds))
  return run(state)


@functools.cache
def _run(name):
  """Trains with a server's optimizer, once for all tests."""
  return _train(server=SERVERS[name])


def _softmax(logits):
  e = np.exp(logits - logits.max(1, keepdims=True))
  return e / e.sum(1, keepdims=True)


def _local(params, x, y):
  """A client's model after an epoch of SGD, from a loop."""
  kernel, bias = params
  for start in range(0, len(x), LOCAL):
    rows, labels = x[start : start + LOCAL], y[start : start + LOCAL]
    error = (_softmax(rows @ kernel + bias) - labels) / len(rows)
    kernel, bias = kernel - LR * rows.T @ error, bias - LR * error.sum(0)
  return kernel, bias


def _loop(server):
  """Global models [R + 1] of (kernel, bias), from a loop in float64."""
  batches = jax.tree.map(np.float64, _batches())
  head = _variables()['params']['head']
  params = np.float64(head['kernel']), np.float64(head['bias'])
  hyper = dict(server)
  name, lr = hyper.pop('name'), hyper.pop('lr')
  first = [np.zeros_like(p) for p in params]
  second = [np.full_like(p, hyper.get('tau', 0.0) ** 2) for p in params]
  models = [params]
  for _ in range(R):
    locals_ = [
      _local(params, batches.xs[0][c, :n], batches.y[c, :n])
      for c, n in enumerate(SIZES)
    ]
    after = []
    for i, p in enumerate(params):
      mean = sum(n * m[i] for n, m in zip(SIZES, locals_)) / sum(SIZES)
      delta = mean - p
      if name == 'sgd':
        first[i] = hyper.get('momentum', 0.0) * first[i] + delta
        after.append(p + lr * first[i])
        continue
      b1, b2, square = hyper['b1'], hyper['b2'], delta**2
      first[i] = b1 * first[i] + (1 - b1) * delta
      if name == 'fedadam':
        second[i] = b2 * second[i] + (1 - b2) * square
      else:
        second[i] -= (1 - b2) * square * np.sign(second[i] - square)
      after.append(p + lr * first[i] / (np.sqrt(second[i]) + hyper['tau']))
    params = tuple(after)
    models.append(params)
  return models


class OracleTest(parameterized.TestCase):
  @parameterized.parameters(*SERVERS)
  def test_models_are_those_of_a_loop(self, name):
    state, rounds = _run(name)
    models = _loop(SERVERS[name])
    sent = rounds.view.variables['params']['head']
    for r, (kernel, bias) in enumerate(models[:R]):
      np.testing.assert_allclose(sent['kernel'][r], kernel, atol=1e-5)
      np.testing.assert_allclose(sent['bias'][r], bias, atol=1e-5)
    head = state.variables['params']['head']
    np.testing.assert_allclose(head['kernel'], models[R][0], atol=1e-5)
    moved = np.abs(models[R][0] - models[0][0]).max()
    self.assertGreater(moved, 0.05)

  def test_a_first_round_is_an_observation(self):
    _, rounds = _run('fedavg')
    client = hfl.Client(lr=LR, batch_size=LOCAL)
    local = hfl.local_training(client, _forward)
    view = hfl.observe(KEY, local, _variables(), _batches())
    same = lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-5)
    jax.tree.map(same, rounds.view.grads, view.grads)

  def test_the_mean_is_that_of_the_updates(self):
    _, rounds = _run('fedavg')
    weights = np.array(SIZES) / sum(SIZES)
    mean = lambda a: np.tensordot(weights, np.asarray(a), (0, 1))
    same = lambda a, b: np.testing.assert_allclose(a, mean(b), atol=1e-5)
    jax.tree.map(same, rounds.view.grads, rounds.updates)
    np.testing.assert_array_equal(rounds.sizes, [SIZES] * R)

  def test_a_seal_leaves_the_mean_alone(self):
    state, rounds = _train(aggregate=he.ideal())
    plain, _ = _run('fedavg')
    self.assertIsNone(rounds.updates)
    jax.tree.map(
      np.testing.assert_array_equal, state.variables, plain.variables
    )


class ParticipationTest(parameterized.TestCase):
  def _draw(self, rounds=400, sizes=(1, 2, 3, 4, 5, 6), **options):
    """Rounds in which client c sends c."""
    batches = _batches(sizes)
    batches = batches._replace(
      index=jnp.arange(len(sizes))[:, None] * jnp.ones((1, 6))
    )
    number = lambda key, variables, batch: {'head': batch.index[:1]}
    protocol = hfl.protocol(number, lr=1.0, **options)
    state = protocol.init(KEY, {'params': {'head': jnp.zeros(1)}})
    step = lambda state, _: protocol.step(state, batches)
    return jax.jit(lambda s: jax.lax.scan(step, s, length=rounds))(state)[1]

  def test_so_many_are_drawn_and_all_alike(self):
    rounds = self._draw(per_round=2)
    self.assertEqual(rounds.clients.shape, (400, 2))
    self.assertTrue((np.diff(rounds.clients) > 0).all())  # no client twice
    share = np.bincount(np.ravel(rounds.clients), minlength=6) / 400
    np.testing.assert_allclose(share, 1 / 3, atol=4 * (2 / 9 / 400) ** 0.5)
    np.testing.assert_array_equal(rounds.sizes, rounds.clients + 1)
    np.testing.assert_array_equal(
      rounds.updates['head'][..., 0], rounds.clients
    )

  def test_each_takes_part_at_its_rate(self):
    rounds = self._draw(rate=0.3)
    present = np.asarray(rounds.sizes) > 0
    deviation = (0.3 * 0.7 / 400) ** 0.5
    np.testing.assert_allclose(present.mean(0), 0.3, atol=4 * deviation)
    number = present.sum(1)  # independent of each other
    self.assertAlmostEqual(number.var(), 6 * 0.21, delta=0.4)
    np.testing.assert_array_equal(
      rounds.updates['head'][..., 0], present * np.arange(6)
    )

  @parameterized.parameters(dict(per_round=2), dict(rate=0.3))
  def test_the_mean_is_over_who_took_part(self, **options):
    rounds = jax.tree.map(np.asarray, self._draw(50, **options))
    total = rounds.sizes.sum(1)
    expected = (rounds.sizes * rounds.clients).sum(1) / np.maximum(total, 1)
    np.testing.assert_allclose(
      rounds.view.grads['head'][:, 0], expected, rtol=1e-5
    )

  def test_all_of_them_are_all(self):
    drawn, plain = _train(per_round=3), _run('fedavg')
    jax.tree.map(np.testing.assert_array_equal, drawn[1], plain[1])
    always, _ = _train(rate=1.0)
    jax.tree.map(
      np.testing.assert_array_equal, always.variables, plain[0].variables
    )

  def test_no_one_moves_nothing(self):
    state, rounds = _train(rate=1e-6)
    np.testing.assert_array_equal(rounds.sizes, 0)
    jax.tree.map(np.testing.assert_array_equal, state.variables, _variables())

  @parameterized.parameters(
    (dict(per_round=4), 'per_round=4 of 3 clients'),
    (dict(per_round=0), 'per_round=0 must be'),
    (dict(rate=0.0), 'rate=0.0 must be'),
    (dict(rate=1.5), 'rate=1.5 must be'),
    (dict(per_round=2, rate=0.5), 'in two ways; give one'),
    (dict(server=dict(name='sgd')), 'lacks its rate; add lr'),
    (dict(server=dict(name='sgd', lr=0.0)), 'server: lr=0.0 must be'),
    (dict(server=dict(name='fedadm', lr=1.0)), "no optimizer 'fedadm'"),
    (dict(server=dict(name='fedadam', lr=1.0, eps=1.0)), "takes no 'eps'"),
    (dict(server='fedavg'), "server='fedavg' must be a dict"),
  )
  def test_what_no_server_does_is_refused(self, options, message):
    with self.assertRaisesRegex(InputError, message) as caught:
      _train(**options)
    self.assertLen(str(caught.exception).splitlines(), 1)


class RecoverMeanTest(parameterized.TestCase):
  def _models(self, name):
    state, rounds = _run(name)
    models = [
      jax.tree.map(lambda a, r=r: a[r], rounds.view.variables) for r in range(R)
    ]
    grads = [
      jax.tree.map(lambda a, r=r: a[r], rounds.view.grads) for r in range(R)
    ]
    return [*models, state.variables], grads

  def test_two_models_show_the_mean(self):
    models, grads = self._models('fedavg')
    plain = dict(FEDAVG, momentum=0.0)
    view = hfl.recover_mean(models[2:4], lr=LR, server=plain)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4)
    jax.tree.map(close, view.grads, grads[2])
    jax.tree.map(np.testing.assert_array_equal, view.variables, models[2])

  @parameterized.parameters(0, 1, 4)
  def test_three_do_under_momentum(self, r):
    models, grads = self._models('fedavgm')
    views = [models[max(r - 1, 0)], models[r], models[r + 1]]
    view = hfl.recover_mean(views, lr=LR, server=FEDAVGM)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4)
    jax.tree.map(close, view.grads, grads[r])
    if r:
      other = hfl.recover_mean(views, lr=LR, server=dict(FEDAVGM, momentum=0.5))
      gap = jnp.abs(other.grads['head']['bias'] - grads[r]['head']['bias'])
      self.assertGreater(gap.max(), 0.05)

  @parameterized.parameters(
    (FEDADAM, 2, 'is not undone; name sgd'),
    (dict(FEDAVGM, nesterov=True), 3, 'is not undone'),
    (dict(FEDAVG, weight_decay=0.1), 2, 'is not undone'),
    (FEDAVG, 3, '3 models: undoing momentum=0.0 takes 2'),
    (FEDAVGM, 2, '2 models: undoing momentum=0.9 takes 3'),
  )
  def test_what_is_not_undone_is_refused(self, server, num, message):
    with self.assertRaisesRegex(InputError, message) as caught:
      hfl.recover_mean([_variables()] * num, lr=LR, server=server)
    self.assertLen(str(caught.exception).splitlines(), 1)


if __name__ == '__main__':
  absltest.main()
