"""Optimizers of vertical configs: rates by part, schedules by epoch."""

from absl.testing import absltest, parameterized
import chex
import jax
import numpy as np

from configs import common, completion
from labelleak import attacks, models
from labelleak.base import InputError
from labelleak.experiments.vfl.build import build

_BERT = dict(name='bert.bert', vocab=9, width=4, heads=2, depth=1)


class RatesTest(parameterized.TestCase):
  def _optimizer(self, make=None, **optimizer):
    config = common.completion('test')
    config.optimizer = dict(
      dict(name='sgd', lr=1e-3, momentum=0.9, weight_decay=0.1), **optimizer
    )
    joint = build(config, optimizer=make, attackers=(0,))
    return joint.parties[0].tx

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

  def test_a_rate_falls_with_the_root_of_the_epoch(self):
    tx = self._optimizer(decay='epoch', momentum=0.0, weight_decay=0.0)
    params = {'head': {'bias': np.zeros(1)}}
    ones, state = jax.tree.map(np.ones_like, params), tx.init(params)
    update, moves = jax.jit(tx.update), []
    for _ in range(34):  # 1347 rows by 128 are 11 steps
      step, state = update(ones, state, params)
      moves.append(float(step['head']['bias'][0]))
    rates = 22 * [1e-3] + 11 * [1e-3 / 2**0.5] + [1e-3 / 3**0.5]
    np.testing.assert_allclose(moves, np.negative(rates), rtol=1e-5)

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
    with self.assertRaisesRegex(InputError, 'rates.head=-1 must be positive'):
      self._optimizer(rates=dict(head=-1))

  def test_berts_config_has_the_published_rates(self):
    config = completion.get_config('data=yahoo,bert')
    rates = config.optimizer.lr, config.optimizer.rates.head
    self.assertEqual((*rates, config.top_optimizer['lr']), (5e-6, 5e-4, 1e-3))
    for optimizer in (config.optimizer, config.top_optimizer):
      self.assertEqual(optimizer['decay'], (15, 25))
      self.assertEqual(optimizer['momentum'], 0.9)


if __name__ == '__main__':
  absltest.main()
