"""Counts of clients as people run them, told how: see `hfl.Client`.

Updates are made by `hfl.local_training`, which is held to PyTorch's clients in
tests/hfl. No constant was chosen on these seeds: 100 to 107, of clients in
PyTorch, chose them.
"""

import dataclasses
import functools

from absl.testing import absltest, parameterized
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from labelleak import attacks, base, data, hfl, vfl
from labelleak.attacks.counts import head_update, path, posterior, responses
from labelleak.base import InputError
from labelleak.models.layers import Conv, Dense

K = 10
SEEDS = range(200, 206)
SGD = hfl.Client(lr=0.01, batch_size=32, shuffle=True)
MOMENTUM = dict(name='sgd', momentum=0.9)
ADAM = dict(name='adam')
FITS = dict(
  plain=SGD,
  momentum=dataclasses.replace(SGD, optimizer=MOMENTUM),
  nesterov=dataclasses.replace(SGD, optimizer=dict(MOMENTUM, nesterov=True)),
  epochs=dataclasses.replace(SGD, epochs=5, batch_size=10),
  smoothing=dataclasses.replace(SGD, label_smoothing=0.1),
  weights=dataclasses.replace(SGD, class_weights=(1.0,) * 8 + (5.0, 5.0)),
  sum=hfl.Client(lr=1e-4, batch_size=32, reduction='sum'),
  sigmoid=dataclasses.replace(SGD, loss='sigmoid'),
  prox=dataclasses.replace(SGD, epochs=5, proximal=1.0),
  clipped=hfl.Client(lr=0.01, clip_per_example=1.0),
  private=hfl.Client(lr=0.01, clip_per_example=1.0, noise_multiplier=1.1),
)
LEAST = dict(
  plain=0.94,
  momentum=0.93,
  nesterov=0.93,
  epochs=0.85,
  smoothing=0.94,
  weights=0.85,
  sum=0.93,
  sigmoid=0.9,
  prox=0.9,
  clipped=0.75,
  private=0.7,
)


class Net(nn.Module):
  """Two convolutions, batch norm if wanted, a head, initialised as in torch."""

  norm: bool = False

  @nn.compact
  def __call__(self, x, train=False):
    for width in (16, 32):
      x = Conv(width, 3, 1, 1)(x)
      x = nn.BatchNorm(not train)(x) if self.norm else x
      x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
    return Dense(K, name='head')(x.reshape(len(x), -1))


@functools.cache
def _digits():
  return data.load('digits', split='train')


@functools.cache
def train(client, num, norm):
  """(variables, [update]) of one round a seed, and the labels behind them."""
  net, source = Net(norm), _digits()
  variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  forward = vfl.party(net, optax.identity()).apply
  run = jax.jit(hfl.local_training(client, forward))
  updates, truth = [], []
  for seed in SEEDS:
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(K, 0.5))
    rows = np.array(
      [
        rng.choice(np.flatnonzero(source.y == c))
        for c in rng.choice(K, num, p=share)
      ]
    )
    batch = base.Batch(
      (jnp.asarray(source.take(rows)),), jnp.eye(K)[source.y[rows]]
    )
    batch = batch._replace(mask=jnp.ones(num))
    update = run(jax.random.key(seed), variables, batch)
    updates.append(update['head'])
    truth.append(np.bincount(source.y[rows], minlength=K))
  head = variables['params']['head']
  return head, jax.tree.map(lambda *a: jnp.stack(a), *updates), np.stack(truth)


def _accuracy(name, client, num, *, truly=None, norm=False, **known):
  """Mean count accuracy, told `client` of rounds that `truly` was behind."""
  head, updates, truth = train(truly or client, num, norm)
  infer = attacks.load(f'counts.{name}').infer
  known = hfl.Known(K, num, client=client, **known)

  def one(update):
    view = hfl.View({'head': update}, {'params': {'head': head}})
    return infer(jax.random.key(0), view, known)

  counts = np.asarray(jax.jit(lambda u: jax.lax.map(one, u))(updates))
  np.testing.assert_array_equal(counts.sum(1), num)
  return np.minimum(counts, truth).sum() / truth.sum()


class UntoldTest(parameterized.TestCase):
  """Told sizes and steps alone, it is not below LLBG and EBI."""

  @parameterized.parameters(('momentum', 100, 0.75), ('private', 64, 0.7))
  def test_it_weighs_usual_clients(self, name, num, least):
    self._check(name, num, least)

  @parameterized.parameters(
    ('plain', 100, 0.9), ('sigmoid', 60, 0.9), ('plain', 33, 0.7)
  )
  @pytest.mark.slow
  def test_it_weighs_more_of_them(self, name, num, least):
    self._check(name, num, least)

  def _check(self, name, num, least):
    client = FITS[name]
    steps = len(client.step_sizes(num))
    told = dict(truly=client, steps=steps, defense=None)
    accuracy = _accuracy('calibrated', None, num, **told)
    self.assertGreaterEqual(accuracy, least)
    for published in ('llbg', 'ebi'):
      self.assertGreater(accuracy, _accuracy(published, None, num, **told))

  @parameterized.parameters(1, 2)
  def test_the_size_of_an_update_is_found(self, steps):
    num = 33
    client = SGD if steps == 2 else hfl.Client(lr=0.01)
    head, updates, _ = train(client, num, False)
    sizes = range(20, 50)
    least = []
    for t in range(4):
      view = hfl.View(
        {'head': jax.tree.map(lambda a, t=t: a[t], updates)},
        {'params': {'head': head}},
      )
      known = hfl.Known(K, 1, client=client, defense=())
      probs = attacks.counts.infer_size(view, known, sizes)
      least.append(float(probs[sizes.index(num)]))
    self.assertGreater(np.mean(least), 0.7 if steps == 1 else 0.15)

  def test_a_size_needs_a_client_and_its_scale(self):
    view = hfl.View({'head': dict(bias=jnp.ones(K), kernel=jnp.ones((3, K)))})
    for client, word in (
      (None, 'lr'),
      (hfl.Client(), 'lr'),
      (hfl.Client(lr=0.1, optimizer=ADAM), 'adam'),
    ):
      known = hfl.Known(K, 1, client=client, defense=())
      with self.assertRaisesRegex(InputError, word):
        attacks.counts.infer_size(view, known, range(3, 9))

  @parameterized.parameters(
    (1.0, range(0), 'empty'),
    (1.0, (0, 3), 'sizes=0'),
    (np.nan, range(3, 9), 'grads'),
  )
  def test_a_size_of_nothing_is_refused(self, value, sizes, word):
    head = dict(bias=jnp.full(K, value), kernel=jnp.ones((3, K)))
    known = hfl.Known(K, 1, client=hfl.Client(lr=0.1), defense=())
    with self.assertRaisesRegex(InputError, word):
      attacks.counts.infer_size(hfl.View({'head': head}), known, sizes)


class DescribedTest(parameterized.TestCase):
  @parameterized.parameters(*FITS)
  def test_a_client_that_is_told(self, name):
    accuracy = _accuracy('calibrated', FITS[name], 128, defense=())
    self.assertGreaterEqual(accuracy, LEAST[name])

  def test_a_rest_of_one_example(self):
    """33 examples in a DataLoader of 32: the last one weighs as all others."""
    self.assertGreaterEqual(_accuracy('calibrated', SGD, 33, defense=()), 0.93)
    slices = dataclasses.replace(SGD, batch_size=17)  # as papers cut them
    told = _accuracy('calibrated', slices, 33, truly=SGD, defense=())
    self.assertLess(told, 0.8)

  def test_batch_norm_in_training_mode(self):
    client = hfl.Client(lr=0.01, batch_size=16, training_mode=True)
    accuracy = _accuracy('calibrated', client, 64, norm=True, defense=())
    self.assertGreaterEqual(accuracy, 0.92)

  @parameterized.parameters((1, 0.0), (4, 0.05))
  def test_adam_hides_sizes_and_not_labels(self, steps, ahead):
    client = hfl.Client(lr=1e-3, batch_size=64 // steps, optimizer=ADAM)
    ours = _accuracy('calibrated', client, 64, defense=())
    plain = hfl.Client(lr=1e-3, batch_size=64 // steps)
    theirs = np.mean(
      [_accuracy(n, plain, 64, truly=client) for n in ('llbg', 'ebi', 'llg')]
    )
    self.assertGreater(ours, theirs + ahead)

  @parameterized.parameters(
    (FITS['momentum'], False), (SGD, True), (FITS['momentum'], True)
  )
  def test_a_model_that_is_granted_beside(self, client, labelled):
    """Costs nothing, with examples or without."""
    net, source = Net(), _digits()
    rows = np.concatenate(
      [np.flatnonzero(source.y == c)[-10:] for c in range(K)]
    )
    x, y = source.take(rows), np.eye(K, dtype=np.float32)[source.y[rows]]
    init = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    _, updates, truth = train(client, 128, False)
    known = hfl.Known(
      K,
      128,
      client=client,
      defense=(),
      model=base.Model(lambda v, x: net.apply(v, x), (8, 8, 1)),
      labelled=base.Labelled(x, y) if labelled else None,
    )
    infer = attacks.load('counts.calibrated').infer

    def one(update):
      view = hfl.View({'head': update}, init)
      return infer(jax.random.key(0), view, known)

    counts = np.asarray(jax.jit(lambda u: jax.lax.map(one, u))(updates))
    accuracy = np.minimum(counts, truth).sum() / truth.sum()
    alone = _accuracy('calibrated', client, 128, defense=())
    self.assertGreaterEqual(accuracy, alone - 0.03)

  def test_labelled_examples_say_nothing_under_a_sigmoid(self):
    x, y = jnp.zeros((K, 2)), jnp.eye(K)
    known = hfl.Known(
      K,
      20,
      client=hfl.Client(loss='sigmoid'),
      model=base.Model(lambda v, x: x @ jnp.zeros((2, K)), (2,)),
      labelled=base.Labelled(x, y),
    )
    bias = {'bias': jnp.linspace(-1, 1, K)}
    view = hfl.View({'head': bias}, {'params': {'head': bias}})
    with self.assertRaisesRegex(InputError, 'drop known.labelled'):
      attacks.load('counts.calibrated').infer(jax.random.key(0), view, known)

  def test_a_wrong_description_costs(self):
    momentum = FITS['momentum']
    ours = _accuracy('calibrated', momentum, 100, defense=())
    told = _accuracy('calibrated', SGD, 100, truly=momentum, defense=())
    self.assertLess(told, ours - 0.1)


def _batches_of(size):
  return hfl.Client(lr=0.1, batch_size=size, optimizer=MOMENTUM)


class ResponseTest(parameterized.TestCase):
  def test_gains_of_momentum_in_closed_form(self):
    client = hfl.Client(optimizer=MOMENTUM)
    steps = 6
    expected = [(1 - 0.9 ** (steps - s)) / (1 - 0.9) for s in range(steps)]
    np.testing.assert_allclose(
      responses.linear_gains(client, steps), expected, rtol=1e-5
    )

  def test_gains_of_fedprox_in_closed_form(self):
    """Each step forgets lr * mu of what came before."""
    client = hfl.Client(lr=0.1, proximal=2.0)
    expected = [0.8 ** (3 - s) for s in range(4)]
    np.testing.assert_allclose(
      responses.linear_gains(client, 4), expected, rtol=1e-5
    )

  @parameterized.parameters(0.0, 2.0)
  def test_fedprox_pulls_to_where_an_entry_starts(self, start):
    client = hfl.Client(lr=0.1, proximal=2.0)
    gradients = jnp.array([[1.0, 0.0], [-3.0, 0.0]])
    found = responses.respond(client, gradients, start)
    np.testing.assert_allclose(found, [0.8 * 1 - 3, 0.0], rtol=1e-5)

  def test_usual_clients_take_as_many_steps_as_is_known(self):
    slices, *loaders = responses.guess(hfl.Known(K, 200, 7))
    np.testing.assert_array_equal(slices.sizes, [29] * 6 + [26])
    last = [sorted({*map(int, r.sizes)}) for r in loaders]
    self.assertEqual(last, [[8, 32], [20, 30]])  # the rounder one first
    self.assertLen(responses.guess(hfl.Known(K, 200)), 1)

  def test_what_pads_a_stack_is_impossible(self):
    small, large = (
      responses.tabulate(hfl.Known(K, num, client=SGD)) for num in (20, 70)
    )
    both = responses.stack([small, large])
    self.assertEqual(both.sizes.shape, (2, 3))
    np.testing.assert_array_equal(both.gains[0], [*small.gains, 0, 0])
    likely = np.exp(both.table.log_prob[0])
    np.testing.assert_array_equal(likely[21:], 0.0)
    height, width = small.table.total.shape
    np.testing.assert_array_equal(likely[:, width:], 0.0)
    np.testing.assert_allclose(
      both.table.total[0, :height, :width], small.table.total, rtol=1e-6
    )
    for name in ('table', 'gains'):
      pair = jax.tree.map(lambda a: a[1], getattr(both, name))
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        pair,
        getattr(large, name),
      )

  def test_adam_is_not_linear(self):
    self.assertIsNone(responses.linear_gains(hfl.Client(optimizer=ADAM), 3))

  def test_plain_slices_are_the_exact_table(self):
    for num, size in ((64, 7), (60, 6), (33, 32)):
      client = hfl.Client(batch_size=size)
      steps = len(client.step_sizes(num))
      own = responses.tabulate(hfl.Known(K, num, client=client))
      if steps == -(-num // -(-num // steps)):  # as papers would cut it
        paper = responses.tabulate(hfl.Known(K, num, steps))
        if max(hfl.step_sizes(num, steps)) == size:
          np.testing.assert_allclose(own.table.total, paper.table.total)
      self.assertAlmostEqual(own.mass, steps, places=4)
      whole = np.exp(own.table.log_prob[num]) @ own.table.total[num]
      self.assertAlmostEqual(whole, steps, places=4)

  @parameterized.parameters(
    dict(batch_size=8, epochs=3, shuffle=True),
    dict(batch_size=8, epochs=3, optimizer=MOMENTUM),
    dict(batch_size=8, optimizer=MOMENTUM),
    dict(batch_size=8, reduction='sum'),
  )
  def test_the_table_has_the_moments_of_drawn_updates(self, **fields):
    """Against clients that are run on labels alone."""
    num, k, draws = 30, 7, 4000
    client = hfl.Client(**fields)
    told = responses.tabulate(hfl.Known(2, num, client=client))
    sizes = client.step_sizes(num)
    gains = responses.linear_gains(client, len(sizes))
    rng = np.random.default_rng(5)
    per_epoch = len(sizes) // client.epochs
    totals = np.zeros(draws)
    for t in range(draws):
      order = rng.permutation(num)
      for epoch in range(client.epochs):
        if epoch and client.shuffle:
          order = rng.permutation(num)
        labels = order < k  # any k of them
        start = 0
        for s in range(per_epoch):
          at = epoch * per_epoch + s
          own = labels[start : start + sizes[at]].sum()
          start += sizes[at]
          per = 1.0 if client.reduction == 'sum' else 1 / sizes[at]
          totals[t] += gains[at] * per * own
    probs = np.exp(told.table.log_prob[k])
    mean = probs @ told.table.total[k]
    std = np.sqrt(probs @ (told.table.total[k] - mean) ** 2)
    np.testing.assert_allclose(mean, totals.mean(), rtol=0.02)
    np.testing.assert_allclose(std, totals.std(), rtol=0.15, atol=1e-6)

  @parameterized.parameters(
    (dict(optimizer=dict(name='lars')), {}, 'lars does not'),
    (dict(optimizer=dict(name='sm3')), {}, 'sm3 on one entry'),
    (dict(optimizer=ADAM), dict(clients=2), 'adam with clients=2'),
    (
      dict(optimizer=ADAM, clip_per_example=1.0, noise_multiplier=1.0),
      {},
      'adam with noise',
    ),
  )
  def test_what_is_not_modelled_is_refused(self, fields, known, message):
    known = hfl.Known(K, 20, client=hfl.Client(batch_size=8, **fields), **known)
    view = hfl.View({'head': {'bias': jnp.linspace(-1, 1, K)}})
    with self.assertRaisesRegex(InputError, message) as caught:
      attacks.load('counts.calibrated').infer(jax.random.key(0), view, known)
    self.assertLen(str(caught.exception).splitlines(), 1)

  def test_granted_noise_is_amplified_by_momentum(self):
    told = responses.tabulate(hfl.Known(K, 40, client=_batches_of(10)))
    gains = [(1 - 0.9 ** (4 - s)) / 0.1 for s in range(4)]
    self.assertAlmostEqual(
      told.loudness, np.sqrt(np.mean(np.square(gains))), places=4
    )

  def test_noise_is_that_of_the_update(self):
    client = hfl.Client(
      lr=0.1, batch_size=10, clip_per_example=2.0, noise_multiplier=0.5
    )
    told = responses.tabulate(hfl.Known(K, 40, client=client))
    self.assertAlmostEqual(told.noise, 2.0 * 0.5 / 10 * 4**0.5, places=5)


class ErrorsTest(parameterized.TestCase):
  @parameterized.product(
    fields=(
      dict(),
      dict(label_smoothing=0.3),
      dict(class_weights=(1.0, 2.0, 0.5)),
      dict(class_weights=(1.0, 2.0, 0.5), label_smoothing=0.3),
      dict(loss='sigmoid'),
      dict(loss='sigmoid', class_weights=(1.0, 2.0, 0.5)),
    ),
    reduction=('mean', 'sum'),
  )
  def test_errors_of_typical_logits_are_the_gradient(self, fields, reduction):
    """Of the loss of 10 examples that have them; a sum's is that of one."""
    client = hfl.Client(lr=1.0, reduction=reduction, **fields)
    y = np.eye(3, dtype=np.float32)[[0] * 5 + [1] * 3 + [2] * 2]
    logits = jnp.array([0.3, -1.0, 0.8])

    def forward(variables, x, *, train, key):
      return jnp.broadcast_to(variables['params']['bias'], y.shape), variables

    batch = base.Batch((jnp.zeros((10, 1)),), jnp.asarray(y), mask=jnp.ones(10))
    train = jax.jit(hfl.local_training(client, forward))
    expected = train(jax.random.key(0), {'params': {'bias': logits}}, batch)
    probs, found = path.errors(client, 3)(logits, y.mean(0))
    examples = 10 if reduction == 'sum' else 1
    np.testing.assert_allclose(
      examples * found, expected['bias'], rtol=1e-4, atol=1e-5
    )
    squash = jax.nn.sigmoid if 'loss' in fields else jax.nn.softmax
    np.testing.assert_allclose(probs, squash(logits), rtol=1e-5)


class CapturedTest(absltest.TestCase):
  def test_the_posterior_is_of_counts_that_sum_to_the_batch(self):
    head, updates, _ = train(SGD, 100, False)
    view = hfl.View(
      {'head': jax.tree.map(lambda a: a[0], updates)},
      {'params': {'head': head}},
    )
    known = hfl.Known(K, 100, client=SGD, defense=())
    beliefs = head_update.infer_counts(view, known)
    np.testing.assert_allclose(beliefs.probs.sum(1), 1, atol=1e-4)
    expected = (beliefs.probs @ jnp.arange(101.0)).sum()
    np.testing.assert_allclose(expected, 100, atol=0.5)
    counts = attacks.load('counts.calibrated').infer(
      jax.random.key(0), view, known
    )
    np.testing.assert_array_equal(counts, posterior.allocate(beliefs.probs))

  def test_decay_is_no_label(self):
    """Weight decay adds to the update what the server's bias says."""
    client = dataclasses.replace(SGD, optimizer=dict(name='sgd'))
    decayed = dataclasses.replace(
      SGD, optimizer=dict(name='sgd', weight_decay=0.5)
    )
    head, updates, _ = train(client, 100, False)
    head = dict(head, bias=jnp.linspace(-0.2, 0.2, K))
    known = hfl.Known(K, 100, client=decayed, defense=())
    still = jnp.zeros((known.steps, K))
    shift = responses.respond(decayed, still, head['bias'])
    rate = 0.01 * 0.5
    factor = (1 - (1 - rate) ** known.steps) / 0.01
    np.testing.assert_allclose(shift, factor * head['bias'], rtol=1e-3)
    update = jax.tree.map(lambda a: a[0], updates)
    moved = dict(update, bias=update['bias'] + shift)
    infer = attacks.load('counts.calibrated').infer
    plain = infer(
      jax.random.key(0),
      hfl.View({'head': update}, {'params': {'head': head}}),
      hfl.Known(K, 100, client=client, defense=()),
    )
    told = infer(
      jax.random.key(0),
      hfl.View({'head': moved}, {'params': {'head': head}}),
      known,
    )
    self.assertLessEqual(np.abs(np.asarray(plain - told)).sum(), 4)


if __name__ == '__main__':
  absltest.main()
