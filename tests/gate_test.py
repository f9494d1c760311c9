"""The gate against closed forms, simulated clients and its two examples."""

import contextlib
import importlib.util
import itertools
import pathlib
import sys
import types
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from labelleak import base, gate, hfl
from labelleak.base import InputError
from labelleak.gate import Policy

ROOT = pathlib.Path(__file__).resolve().parents[1]
K, H = 10, 64
COUNTS = np.array([9, 0, 0, 14, 3, 0, 0, 1, 0, 5])
N = COUNTS.sum()
LR = 0.1
CLIENT = hfl.Client(lr=LR)


def _update(scale=1.0, noise=0.0):
  """Makes one step's update of a uniform softmax, inputs all the same."""
  rng = np.random.default_rng(0)
  bias = scale * LR * (1 / K - COUNTS / N)
  kernel = np.outer(np.abs(rng.normal(size=H)), bias)
  add = lambda value: value + noise * rng.normal(size=value.shape)
  return dict(kernel=add(kernel), bias=add(bias))


class GateTest(parameterized.TestCase):
  def test_an_update_in_the_clear_is_stopped(self):
    verdict = gate.gate(_update(), Policy(CLIENT, N))
    self.assertFalse(verdict.allowed)
    self.assertGreater(verdict.leaked, 0.9)
    self.assertLess(verdict.guessing, 0.6)
    self.assertEqual(verdict.classes, (COUNTS > 0).sum())
    self.assertLess(verdict.noise, 1e-9)

  def test_noise_hides_labels_and_is_measured(self):
    verdict = gate.gate(_update(noise=LR), Policy(CLIENT, N, noise=LR))
    self.assertTrue(verdict.allowed, verdict.reasons)
    self.assertBetween(verdict.noise / LR, 0.8, 1.2)
    self.assertLess(verdict.leaked - verdict.guessing, 0.2)

  @parameterized.parameters(0.0, 0.5)
  def test_noise_that_is_due_must_be_there(self, share):
    policy = Policy(CLIENT, N, max_advantage=1.0, noise=LR)
    verdict = gate.gate(_update(noise=share * LR), policy)
    self.assertFalse(verdict.allowed)
    self.assertRegex(verdict.reasons[0], 'deviation .* is due')
    bare = dict(bias=_update()['bias'])
    self.assertRegex(gate.gate(bare, policy).reasons[0], 'Without a kernel')

  def test_each_limit_is_its_own_reason(self):
    policy = Policy(CLIENT, N, max_advantage=1.0, max_classes=5)
    self.assertTrue(gate.gate(_update(), policy).allowed)
    policy = Policy(CLIENT, N, max_advantage=1.0, max_classes=4)
    (reason,) = gate.gate(_update(), policy).reasons
    self.assertIn('5 classes', reason)

  def test_of_a_sum_the_number_of_clients_counts(self):
    policy = Policy(CLIENT, N, min_clients=10)
    self.assertTrue(gate.gate(_update(), policy, clients=10).allowed)
    (reason,) = gate.gate(_update(), policy, clients=9).reasons
    self.assertIn('9 clients', reason)

  def test_another_client_than_described_is_stopped(self):
    policy = Policy(CLIENT, N, max_advantage=1.0)
    (reason,) = gate.gate(_update(scale=2.0), policy).reasons
    self.assertIn('times larger', reason)

  @parameterized.parameters(
    dict(),
    dict(batch_size=3),
    dict(batch_size=3, epochs=2),
    dict(batch_size=3, drop_last=True),
    dict(batch_size=3, reduction='sum'),
    dict(batch_size=3, optimizer=dict(name='sgd', momentum=0.9)),
    dict(
      batch_size=3,
      epochs=2,
      optimizer=dict(name='sgd', momentum=0.9, nesterov=True),
    ),
  )
  def test_weighs_examples_as_clients_do(self, **fields):
    client = hfl.Client(lr=1e-3, **fields)
    num = 8

    def forward(variables, x, *, train, key):
      logits = x @ variables['params']['kernel'] * 1e-3  # which hardly moves
      return logits + 1e-3 * variables['params']['bias'][None], variables

    y = jnp.eye(num)
    batch = base.Batch((jnp.zeros((num, 1)),), y, mask=jnp.ones(num))
    head = dict(kernel=jnp.zeros((1, num)), bias=jnp.zeros(num))
    local = hfl.local_training(client, forward)
    update = local(jax.random.key(0), {'params': head}, batch)
    weights = gate._weigh_examples(client, num).sum(0)
    np.testing.assert_allclose(
      update['bias'] / 1e-3, weights.sum() / num - weights, rtol=2e-3, atol=1e-5
    )

  @parameterized.parameters(
    dict(batch_size=3),
    dict(batch_size=3, epochs=2, shuffle=True),
    dict(batch_size=3, drop_last=True),
  )
  def test_counts_follow_by_bayes_rule(self, **fields):
    """Normal about W / K - w k, under a geometric prior; against SciPy."""
    client = hfl.Client(lr=0.5, **fields)
    num, bias, noise = 8, np.array([0.4, -0.9, 0.1, -0.2]), 0.05
    probs, scale = gate._infer(bias, Policy(client, num, noise=noise))
    of_epoch = [1 / 3] * 6 + [0.0 if client.drop_last else 1 / 2] * 2
    each = np.array(of_epoch) * client.epochs
    variance = np.var(each)
    if client.shuffle:  # each epoch draws anew
      variance = client.epochs * np.var(of_epoch)
    total, weight = each.sum(), each.mean()
    mean = num / 4
    for i in range(4):
      joint = [
        stats.geom.pmf(k + 1, 1 / (1 + mean))
        * stats.norm.pdf(
          bias[i] / 0.5,
          total / 4 - weight * k,
          np.sqrt(
            (noise / 0.5) ** 2
            + variance * k
            + (weight / 4) ** 2
            + (0.1 * total / 4) ** 2
          ),
        )
        for k in range(num + 1)
      ]
      np.testing.assert_allclose(probs[i], joint / np.sum(joint), rtol=1e-6)
    self.assertAlmostEqual(scale, (1.1 - 4 * noise) / 0.5 / total)

  def test_the_best_counts_are_those_of_brute_force(self):
    rng = np.random.default_rng(0)
    num = 4
    probs = rng.dirichlet(np.full(num + 1, 0.4), size=3)
    total = probs @ np.arange(num + 1)
    value = lambda counts: sum(
      probs[i] @ np.minimum(np.arange(num + 1), m) for i, m in enumerate(counts)
    )
    best = max(
      value(counts)
      for counts in itertools.product(range(num + 1), repeat=3)
      if sum(counts) == num
    )
    leaked, guessing = gate._score(probs)
    self.assertLess(value([num / 3] * 3), best)
    self.assertLess(best, total.sum())
    self.assertAlmostEqual(leaked, best / total.sum())
    self.assertAlmostEqual(guessing, value([num / 3] * 3) / total.sum())

  def test_the_best_of_many_are_the_largest_tails(self):
    probs = np.random.default_rng(0).dirichlet(np.full(61, 0.1), size=40)
    tails = 1 - np.cumsum(probs, 1)[:, :-1]  # P(count > 0), P(count > 1), ...
    best = np.sort(tails.ravel())[-60:].sum()
    total = (probs @ np.arange(61)).sum()
    self.assertAlmostEqual(gate._score(probs)[0], best / total)

  def test_an_update_far_off_the_lattice_is_weighed_all_the_same(self):
    probs, _ = gate._infer(np.array([30.0, -40.0, 10.0]), Policy(CLIENT, 9))
    np.testing.assert_allclose(probs.sum(1), 1.0)
    np.testing.assert_array_equal(probs.argmax(1), [0, 9, 0])

  def test_noise_is_read_of_sums_over_classes(self):
    kernel = np.array([[1.0, 2.0, 3.0, -2.0], [-1.0, 1.0, 0.0, 2.0]])
    found = gate._measure_noise(kernel)
    self.assertAlmostEqual(found, np.sqrt((4**2 + 2**2) / 2 / 4))
    # Of 8 rows a deviation has an error of 1 / 4, of 800 rows 1 / 40.
    self.assertAlmostEqual(gate._least(np.ones((8, 3))), 0.5)
    self.assertAlmostEqual(gate._least(np.ones((800, 3))), 0.8)

  def test_an_advantage_is_of_what_guessing_leaves(self):
    for limit, num in ((0.61, 0), (0.59, 1)):
      policy = Policy(CLIENT, N, max_advantage=limit)
      self.assertLen(gate._weigh(0.8, 0.5, 3, policy), num)

  @parameterized.parameters(
    (dict(), "'bias'"),
    (dict(bias=np.ones(1)), "'bias'"),
    (dict(bias=np.ones(3), kernel=np.ones((3, 5))), 'transpose'),
    (dict(bias=np.array([1.0, np.nan])), 'finite'),
  )
  def test_what_is_no_update_is_refused(self, update, part):
    with self.assertRaisesRegex(InputError, part):
      gate.gate(update, Policy(CLIENT, N))

  @parameterized.parameters(
    (dict(client=hfl.Client()), 'tell its lr'),
    (dict(client=hfl.Client(lr=1.0, optimizer=dict(name='adam'))), 'SGD'),
    (dict(max_advantage=2), 'max_advantage=2'),
    (dict(examples=0), 'examples=0'),
  )
  def test_a_policy_that_cannot_be_judged_is_refused(self, fields, part):
    with self.assertRaisesRegex(InputError, part):
      Policy(**(dict(client=CLIENT, examples=N) | fields))


def _load(name, modules):
  """Loads an example beside stand-ins of the modules that it imports."""
  file = ROOT / 'examples' / 'gate' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, file)
  module = importlib.util.module_from_spec(spec)
  stand_ins = {
    name: types.SimpleNamespace(**fields) for name, fields in modules.items()
  }
  with contextlib.ExitStack() as stack:
    stack.enter_context(mock.patch.dict(sys.modules, stand_ins))
    spec.loader.exec_module(module)
  return module


class _Array(np.ndarray):
  """Has the method of Flower's arrays."""

  def numpy(self):
    return np.asarray(self)


def _message(state=None, error=None, **_):
  """Makes a stand-in of Flower's message."""
  arrays = {name: value.view(_Array) for name, value in (state or {}).items()}
  records = dict(array_records=dict(arrays=arrays))
  return types.SimpleNamespace(
    content=types.SimpleNamespace(**records),
    error=error,
    has_error=lambda: error is not None,
  )


class ExamplesTest(absltest.TestCase):
  def test_the_flower_mod_answers_with_an_error(self):
    message = lambda error, reply_to: _message(error=error)
    mod = _load(
      'flower_mod',
      {
        'flwr': {},
        'flwr.app': dict(
          Context=None, Error=types.SimpleNamespace, Message=message
        ),
        'flwr.clientapp': {},
        'flwr.clientapp.typing': dict(ClientAppCallable=None),
      },
    )
    update = _update()
    before = {'fc.weight': np.zeros((K, H)), 'fc.bias': np.zeros(K)}
    after = {'fc.weight': -update['kernel'].T, 'fc.bias': -update['bias']}
    mod.POLICY = Policy(CLIENT, N)
    send = lambda state: mod.label_gate(
      _message(before), None, lambda message, context: _message(state)
    )
    self.assertTrue(send(after).has_error())
    self.assertIn('32 labels', send(after).error.reason)
    mod.POLICY = Policy(CLIENT, N, max_advantage=1.0)
    self.assertFalse(send(after).has_error())

  def test_the_nvflare_filter_raises(self):
    class DXOFilter:
      def __init__(self, supported_data_kinds, data_kinds_to_filter):
        self.data_kinds = data_kinds_to_filter

    module = _load(
      'nvflare_filter',
      {
        'nvflare': {},
        'nvflare.apis': {},
        'nvflare.apis.dxo': dict(
          DataKind=types.SimpleNamespace(WEIGHT_DIFF='WEIGHT_DIFF')
        ),
        'nvflare.apis.dxo_filter': dict(DXOFilter=DXOFilter),
      },
    )
    update = _update()
    data = {'fc.weight': -update['kernel'].T, 'fc.bias': -update['bias']}
    dxo = types.SimpleNamespace(data=data)
    make = lambda **limit: module.LabelGate('fc', LR, int(N), int(N), **limit)
    self.assertEqual(make().data_kinds, ['WEIGHT_DIFF'])
    with self.assertRaisesRegex(RuntimeError, '32 labels'):
      make().process_dxo(dxo, None, None)
    self.assertIsNone(make(max_advantage=1.0).process_dxo(dxo, None, None))


if __name__ == '__main__':
  absltest.main()
