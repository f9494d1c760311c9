"""Described clients against PyTorch's optimizers, DataLoader and losses."""

import dataclasses
import math

from absl.testing import absltest, parameterized
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from labelleak import base, hfl, vfl
from labelleak.base import InputError
from labelleak.hfl import clients

K, H, F = 5, 8, 6
LR = 0.05
MOMENTUM = dict(name='sgd', momentum=0.9)
NESTEROV = dict(name='sgd', momentum=0.9, nesterov=True)


class Net(nn.Module):
  """Dense, batch norm (if wanted), ReLU, dropout, head."""

  norm: bool = False
  rate: float = 0.0

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(H, name='hidden')(x)
    if self.norm:
      norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name='norm')
      x = norm(x)
    x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(x))
    return nn.Dense(K, name='head')(x)


def _forward(net):
  return vfl.party(net, optax.identity()).apply


def _batch(num, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, K, num)
  x = (2 * rng.normal(size=(num, F)) + labels[:, None]).astype(np.float32)
  return base.Batch((jnp.asarray(x),), jnp.eye(K)[labels], None, jnp.ones(num))


def _run(client, batch, net=None, seed=0):
  net = net or Net()
  variables = net.init(jax.random.key(seed), batch.xs[0])
  update = jax.jit(hfl.local_training(client, _forward(net)))
  return variables, update(jax.random.key(1), variables, batch)


def _torch_net(torch, variables):
  """The same net in PyTorch."""
  norm = 'norm' in variables['params']
  layers = [torch.nn.Linear(F, H)]
  layers += [torch.nn.BatchNorm1d(H)] if norm else []
  net = torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(H, K))
  with torch.no_grad():
    for layer, name in ((net[0], 'hidden'), (net[-1], 'head')):
      leaves = variables['params'][name]
      layer.weight.copy_(torch.tensor(np.asarray(leaves['kernel']).T))
      layer.bias.copy_(torch.tensor(np.asarray(leaves['bias'])))
  return net.eval()


def _torch_optimizer(torch, client, params):
  options = dict(client.optimizer)
  name = options.pop('name')
  if 'b1' in options:
    options['betas'] = options.pop('b1'), options.pop('b2')
  kinds = dict(sgd='SGD', adam='Adam', adamw='AdamW')
  return getattr(torch.optim, kinds[name])(params, lr=client.lr, **options)


def _torch_loss(torch, client):
  weights = client.class_weights and torch.tensor(client.class_weights)
  if client.loss == 'sigmoid':
    return torch.nn.BCEWithLogitsLoss(
      weight=weights, reduction=client.reduction
    )
  return torch.nn.CrossEntropyLoss(
    weight=weights,
    reduction=client.reduction,
    label_smoothing=client.label_smoothing,
  )


def _torch_update(client, variables, batch):
  """(server - local) / lr of the head, from a client in PyTorch."""
  torch = pytest.importorskip('torch')
  net = _torch_net(torch, variables)
  net.train(client.training_mode)
  server = [p.detach().clone() for p in net.parameters()]
  optimizer = _torch_optimizer(torch, client, net.parameters())
  loss = _torch_loss(torch, client)
  x, y = (torch.tensor(np.asarray(a)) for a in (batch.xs[0], batch.y))
  target = y if client.loss == 'sigmoid' else y.argmax(1)
  data = torch.utils.data.TensorDataset(x, target)
  loader = torch.utils.data.DataLoader(
    data,
    batch_size=client.batch_size or len(x),
    drop_last=client.drop_last,
  )
  for _ in range(client.epochs):
    for rows, labels in loader:
      optimizer.zero_grad()
      if client.clip_per_example:
        _clip_each(torch, client, net, loss, rows, labels)
      else:
        loss(net(rows), labels).backward()
      for p, q in zip(net.parameters(), server):
        p.grad += client.proximal * (p.detach() - q)
      optimizer.step()
  weight, bias = list(net.parameters())[-2:]
  return dict(
    kernel=((server[-2] - weight) / client.lr).detach().numpy().T,
    bias=((server[-1] - bias) / client.lr).detach().numpy(),
  )


def _clip_each(torch, client, net, loss, rows, labels):
  """Sets Opacus's gradient: clipped by example, over the expected size."""
  params = list(net.parameters())
  total = [torch.zeros_like(p) for p in params]
  for row, label in zip(rows, labels):
    grads = torch.autograd.grad(loss(net(row[None]), label[None]), params)
    norm = sum((g**2).sum() for g in grads).sqrt()
    factor = min(1.0, client.clip_per_example / (norm.item() + 1e-6))
    total = [t + factor * g for t, g in zip(total, grads)]
  size = client.batch_size if client.reduction == 'mean' else 1
  for p, t in zip(params, total):
    p.grad = t / size


CLIENTS = {
  'fedsgd': {},
  'ragged': dict(batch_size=8),
  'drop_last': dict(batch_size=8, drop_last=True),
  'epochs': dict(batch_size=8, epochs=3),
  'momentum': dict(batch_size=8, epochs=2, optimizer=MOMENTUM),
  'nesterov': dict(batch_size=8, epochs=2, optimizer=NESTEROV),
  'decay': dict(batch_size=8, optimizer=dict(MOMENTUM, weight_decay=0.1)),
  'adam': dict(batch_size=8, epochs=2, optimizer=dict(name='adam')),
  'betas': dict(batch_size=8, optimizer=dict(name='adam', b1=0.5, b2=0.8)),
  'adamw': dict(
    batch_size=8, epochs=2, optimizer=dict(name='adamw', weight_decay=0.2)
  ),
  'prox': dict(batch_size=8, epochs=3, proximal=0.7),
  'smoothing': dict(batch_size=8, label_smoothing=0.2),
  'weights': dict(batch_size=8, class_weights=(1.0, 5.0, 0.3, 1.0, 2.0)),
  'both': dict(class_weights=(1.0, 5.0, 0.3, 1.0, 2.0), label_smoothing=0.1),
  'sum': dict(batch_size=8, reduction='sum', lr=1e-3),
  'sigmoid': dict(batch_size=8, loss='sigmoid'),
  'sigmoid_sum': dict(
    batch_size=8,
    loss='sigmoid',
    reduction='sum',
    class_weights=(1.0, 5.0, 0.3, 1.0, 2.0),
  ),
  'norm': dict(batch_size=9, epochs=2, training_mode=True),
  'clipped': dict(batch_size=8, clip_per_example=1.0),
  'clipped_sum': dict(batch_size=8, clip_per_example=0.5, reduction='sum'),
  'clipped_sigmoid': dict(batch_size=8, clip_per_example=1.0, loss='sigmoid'),
}


@pytest.mark.torch
class TorchTest(parameterized.TestCase):
  @parameterized.named_parameters(*((k, v) for k, v in CLIENTS.items()))
  def test_updates_are_those_of_pytorch(self, fields):
    client = hfl.Client(**dict(dict(lr=LR), **fields))
    batch = _batch(27)
    net = Net(norm=client.training_mode)
    variables, update = _run(client, batch, net)
    expected = _torch_update(client, variables, batch)
    for leaf, value in expected.items():
      # The difference of two float32 models, over lr.
      np.testing.assert_allclose(
        update['head'][leaf], value, rtol=2e-4, atol=1e-4
      )
    self.assertGreater(np.abs(expected['bias']).max(), 0.01)


class LocalTrainingTest(parameterized.TestCase):
  def test_a_plain_client_is_fedavg(self):
    batch, net = _batch(20), Net()
    variables, update = _run(hfl.Client(lr=LR, batch_size=5), batch, net)
    loss = hfl.cross_entropy(lambda v, x: net.apply(v, x))
    client = hfl.fedavg(loss, lr=LR, steps=4)
    expected = jax.jit(client)(jax.random.key(1), variables, batch)
    jax.tree.map(np.testing.assert_array_equal, update, expected)

  @parameterized.parameters(
    dict(batch_size=8, epochs=2, optimizer=MOMENTUM),
    dict(batch_size=8, drop_last=True, optimizer=dict(name='adam')),
    dict(batch_size=8, training_mode=True),
  )
  def test_padding_takes_no_step(self, **fields):
    client = hfl.Client(lr=LR, **fields)
    net = Net(norm=client.training_mode)
    few, many = _batch(19), _batch(40)
    mask = (jnp.arange(40) < 19).astype(jnp.float32)
    y = many.y.at[:19].set(few.y)
    x = many.xs[0].at[:19].set(few.xs[0])
    padded = base.Batch((x,), y, None, mask)
    if client.training_mode:  # its rest would be mixed with padding
      padded = padded._replace(mask=(jnp.arange(40) < 16).astype(jnp.float32))
      few = jax.tree.map(lambda a: a[:16], few)
    _, update = _run(client, few, net)
    _, other = _run(client, padded, net)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(same, update, other)

  def test_every_epoch_takes_every_example_once_in_another_order(self):
    client = hfl.Client(batch_size=8, epochs=3, shuffle=True)
    mask = (jnp.arange(30) < 27).astype(jnp.float32)
    rows, real = hfl.clients.draw_steps(jax.random.key(0), client, mask)
    self.assertEqual(rows.shape, (3 * 4, 8))
    orders = []
    for epoch in range(3):
      own = slice(4 * epoch, 4 * epoch + 4)
      order = np.asarray(rows[own])[np.asarray(real[own]) == 1]
      self.assertEqual(sorted(order), list(range(27)))
      orders.append(tuple(order))
    self.assertLen(set(orders), 3)

  def test_poisson_draws_each_example_at_its_rate(self):
    client = hfl.Client(batch_size=8, epochs=100, poisson=True)
    mask = (jnp.arange(40) < 32).astype(jnp.float32)
    rows, real = hfl.clients.draw_steps(jax.random.key(0), client, mask)
    by_step = np.asarray(real).reshape(100, 5, 40)
    np.testing.assert_array_equal(by_step[:, 4], 0)  # four steps an epoch
    rate = by_step[:, :4].mean((0, 1))
    np.testing.assert_array_equal(rows[0], np.arange(40))
    np.testing.assert_allclose(rate[:32], 0.25, atol=0.09)  # 4 sd
    np.testing.assert_array_equal(rate[32:], 0)

  def test_noise_is_that_of_its_shape_whatever_order_it_is_drawn_in(self):
    key = jax.random.key(5)
    for shape in ((), (7,), (33, 10), (3, 5, 7)):
      np.testing.assert_array_equal(
        clients._normal(key, shape, jnp.float32), jax.random.normal(key, shape)
      )

  def test_noise_is_of_the_clipped_sum(self):
    fields = dict(lr=1.0, clip_per_example=2.0)
    quiet = hfl.Client(**fields)
    noisy = dataclasses.replace(quiet, noise_multiplier=3.0)
    batch = _batch(12)
    _, expected = _run(quiet, batch)
    _, update = _run(noisy, batch)
    noise = jax.tree.map(lambda a, b: np.ravel(a - b), update, expected)
    noise = np.concatenate(jax.tree.leaves(noise))
    std = 3.0 * 2.0 / 12
    self.assertAlmostEqual(noise.std() / std, 1, delta=4 / math.sqrt(2 * 101))
    self.assertLess(abs(noise.mean()), 4 * std / math.sqrt(101))

  def test_dropout_drops_in_training_mode_alone(self):
    batch, net = _batch(12), Net(rate=0.5)
    updates = [
      _run(hfl.Client(lr=LR, training_mode=mode), batch, net)[1]['head']
      for mode in (False, True)
    ]
    gap = np.abs(updates[0]['kernel'] - updates[1]['kernel']).max()
    self.assertGreater(gap, 0.05)
    _, plain = _run(hfl.Client(lr=LR), batch)
    np.testing.assert_array_equal(updates[0]['kernel'], plain['head']['kernel'])

  def test_a_client_without_a_rate_is_not_trained(self):
    with self.assertRaisesRegex(InputError, 'lr=None cannot be trained'):
      hfl.local_training(hfl.Client(), _forward(Net()))


class DescriptionTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(batch_size=32), 33, (32, 1)),
    (dict(batch_size=64), 40, (40,)),
    (dict(batch_size=10, epochs=2), 25, (10, 10, 5, 10, 10, 5)),
    (dict(batch_size=10, drop_last=True), 25, (10, 10)),
    (dict(), 7, (7,)),
    (dict(batch_size=10, poisson=True), 25, (10, 10, 10)),
  )
  def test_steps_are_those_of_a_data_loader(self, fields, num, sizes):
    self.assertEqual(hfl.Client(**fields).step_sizes(num), sizes)

  @parameterized.parameters(
    (dict(lr=0), 'lr=0 must be in'),
    (dict(lr=math.nan), 'lr=nan must be'),
    (dict(batch_size=0), 'batch_size=0 must be a whole'),
    (dict(epochs=1.5), 'epochs=1.5 must be'),
    (dict(optimizer=dict(name='sdg')), "optax has no optimizer 'sdg'"),
    (dict(optimizer=dict(momentum=0.9)), 'lacks a name'),
    (dict(optimizer=dict(name='sgd', beta=0.9)), "'beta'"),
    (dict(optimizer=dict(name='lbfgs')), 'cannot step by a gradient alone'),
    (dict(optimizer='sgd'), "optimizer='sgd' must be"),
    (dict(loss='hinge'), "loss='hinge' is unknown"),
    (dict(reduction='none'), "reduction='none' is unknown"),
    (dict(label_smoothing=1.0), 'label_smoothing=1.0 must be in'),
    (dict(class_weights=(1.0, -1.0)), 'class_weights=-1.0 must be'),
    (dict(proximal=-1), 'proximal=-1 must be'),
    (dict(clip_per_example=0), 'clip_per_example=0 must be'),
    (dict(noise_multiplier=1.0), 'clip_per_example, which is missing'),
    (dict(poisson=True), 'add batch_size'),
    (dict(clip_per_example=1.0, training_mode=True), 'exclude each other'),
    (dict(loss='sigmoid', label_smoothing=0.1), 'of the softmax loss'),
  )
  def test_what_no_client_does_is_refused(self, fields, message):
    with self.assertRaisesRegex(InputError, message) as caught:
      hfl.Client(**fields)
    self.assertLen(str(caught.exception).splitlines(), 1)

  def test_no_example_left(self):
    client = hfl.Client(batch_size=8, drop_last=True)
    with self.assertRaisesRegex(InputError, 'leaves none of 5 examples'):
      client.step_sizes(5)

  def test_weights_are_one_a_class(self):
    client = hfl.Client(lr=LR, class_weights=(1.0, 2.0))
    with self.assertRaisesRegex(InputError, '2 class_weights for 5 classes'):
      _run(client, _batch(6))

  def test_equal_descriptions_are_equal_data(self):
    make = lambda: hfl.Client(lr=0.1, optimizer=dict(MOMENTUM))
    self.assertEqual(make(), make())
    self.assertEqual(hash(make()), hash(make()))
    self.assertEqual(
      repr(make()), 'Client(lr=0.1, optimizer=sgd(momentum=0.9))'
    )

  def test_an_attack_is_told_steps_and_rate_by_it(self):
    client = hfl.Client(lr=0.1, batch_size=32, epochs=2)
    known = hfl.Known(num_classes=10, batch_size=33, client=client)
    self.assertEqual((known.steps, known.lr), (4, 0.1))
    same = hfl.Known(10, 33, steps=4, lr=0.1, client=client)
    self.assertEqual(same, known)
    for fields, message in (
      (dict(steps=2), 'steps=2 contradicts its client, who takes 4'),
      (dict(lr=0.2), 'lr=0.2 contradicts its client, whose lr is 0.1'),
    ):
      with self.assertRaisesRegex(InputError, message):
        hfl.Known(10, 33, client=client, **fields)
    with self.assertRaisesRegex(InputError, 'must be an hfl.Client'):
      hfl.Known(10, 33, client=dict(lr=0.1))


if __name__ == '__main__':
  absltest.main()
