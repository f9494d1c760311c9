import dataclasses
from typing import NamedTuple

from absl.testing import absltest, parameterized
import chex
from flax import nnx
from flax.core import freeze
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import base, he, hfl
from labelleak.defenses.clipping import clip
from labelleak.defenses.noise import gaussian
from labelleak.defenses.sparsity import compress

KEY = jax.random.key(0)


WIDE = np.arange(6.0, dtype=np.float32).reshape(2, 3)  # a kernel [H, K]
BIAS = np.arange(3.0, dtype=np.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
  """A layer as in Equinox: a dataclass with torch's layout."""

  weight: chex.Array
  bias: chex.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Torch:
  """A module as in Equinox."""

  body: tuple
  classifier: Linear


class Net(nnx.Module):
  def __init__(self):
    self.classifier = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    self.classifier.kernel[...] = WIDE
    self.classifier.bias[...] = BIAS


class Pair(NamedTuple):
  body: chex.Array
  classifier: dict


def _apply(variables, x):
  head = variables['params']['head']
  return x @ head['kernel'] + head['bias'][None]


LOSS = hfl.cross_entropy(_apply)


def _variables(num_features=5, num_classes=7, scale=0.5, seed=0):
  rng = np.random.default_rng(seed)
  leaf = lambda *shape: jnp.array(scale * rng.normal(size=shape), jnp.float32)
  head = {'kernel': leaf(num_features, num_classes), 'bias': leaf(num_classes)}
  return {'params': {'head': head}}


def _batch(size, num_features=5, num_classes=7, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, num_classes, size)
  return base.Batch(
    xs=(jnp.array(rng.normal(size=(size, num_features)), jnp.float32),),
    y=jnp.eye(num_classes)[labels],
    index=jnp.arange(size),
    mask=jnp.ones(size),
  )


def _pad(batch, size):
  """The batch with all rows after `size` as padding."""
  return batch._replace(mask=batch.mask * (jnp.arange(len(batch.y)) < size))


def _stack(*trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _observe(client, batches, variables=None, key=KEY, **options):
  options = dict(defense=optax.identity(), aggregate=he.plaintext()) | options
  variables = _variables() if variables is None else variables
  return hfl.observe(key, client, variables, batches, **options)


def _numpy_grad(kernel, bias, x, y):
  """Gradient of the mean cross entropy of a linear model, by hand."""
  logits = x @ kernel + bias
  p = np.exp(logits - logits.max(1, keepdims=True))
  delta = (p / p.sum(1, keepdims=True) - y) / len(x)
  return {'kernel': x.T @ delta, 'bias': delta.sum(0)}


def _numpy_steps(variables, batch, lr, slices):
  """The step gradients of local SGD over the given rows, one by one."""
  head = variables['params']['head']
  weights = {k: np.asarray(v, np.float64) for k, v in head.items()}
  start = {k: v.copy() for k, v in weights.items()}
  x, y = (np.asarray(a, np.float64) for a in (batch.xs[0], batch.y))
  grads = []
  for rows in slices:
    grads.append(
      _numpy_grad(weights['kernel'], weights['bias'], x[rows], y[rows])
    )
    weights = {k: weights[k] - lr * grads[-1][k] for k in weights}
  update = {k: (start[k] - weights[k]) / lr for k in weights}
  return update, grads


def _slices(batch_size, steps):
  """As published: ceil(B/S) consecutive rows a step; wraps where B < S."""
  width = -(-batch_size // steps)
  if batch_size < steps:
    return [[s % batch_size] for s in range(steps)]
  return [
    list(range(s * width, min((s + 1) * width, batch_size)))
    for s in range(steps)
  ]


class StepSizesTest(parameterized.TestCase):
  @parameterized.parameters(
    (64, (7,) * 9 + (1,)),
    (100, (10,) * 10),
    (128, (13,) * 9 + (11,)),
    (256, (26,) * 9 + (22,)),
    (512, (52,) * 9 + (44,)),
    (1024, (103,) * 9 + (97,)),
    (4, (1,) * 10),
  )
  def test_the_published_sizes(self, batch_size, sizes):
    self.assertEqual(hfl.step_sizes(batch_size, 10), sizes)

  @settings(max_examples=300, deadline=None)
  @given(st.integers(1, 3000), st.integers(1, 60))
  def test_sizes_are_full_slices_and_a_rest(self, batch_size, steps):
    try:
      sizes = hfl.step_sizes(batch_size, steps)
    except base.InputError as e:
      # Refused only where a slice is empty, and the remedy works.
      width = -(-batch_size // steps)
      self.assertLessEqual(batch_size, (steps - 1) * width)
      remedy = int(str(e).split('use local_steps=')[1].rstrip('.'))
      self.assertLess(remedy, steps)
      steps, sizes = remedy, hfl.step_sizes(batch_size, remedy)
    self.assertLen(sizes, steps)
    if batch_size < steps:
      self.assertEqual(sizes, (1,) * steps)
      return
    self.assertEqual(sum(sizes), batch_size)
    self.assertEqual(set(sizes[:-1]) | {max(sizes)}, {-(-batch_size // steps)})
    self.assertBetween(sizes[-1], 1, max(sizes))

  @parameterized.parameters(
    (0, 10, 'batch_size=0 must be a whole number of at least 1'),
    (4, 0, 'local_steps=0 must be a whole number of at least 1'),
    (12, 10, 'leaves 4 of local_steps=10 without examples; use local_steps=6'),
  )
  def test_impossible_sizes_are_refused(self, batch_size, steps, message):
    with self.assertRaisesRegex(base.InputError, message):
      hfl.step_sizes(batch_size, steps)


class ClientTest(parameterized.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_uniform_logits_give_the_counts_in_closed_form(self):
    # d CE / d b_k = p_k - y_k with p = 1/K: the mean is 1/K - counts / B.
    variables, batch = _variables(scale=0.0), _batch(12)
    grads = self.variant(hfl.fedsgd(LOSS))(KEY, variables, batch)
    counts = batch.y.sum(0)
    np.testing.assert_allclose(
      grads['head']['bias'], 1 / 7 - counts / 12, atol=1e-6
    )
    np.testing.assert_allclose(  # and d CE / d W = mean x (p - y)^T
      grads['head']['kernel'], batch.xs[0].T @ (1 / 7 - batch.y) / 12, atol=1e-6
    )

  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters(
    (128, 10, 1e-3), (128, 10, 0.5), (4, 10, 0.3), (64, 10, 0.1), (9, 1, 0.1)
  )
  def test_fedavg_equals_sgd_by_hand(self, batch_size, steps, lr):
    variables, batch = _variables(), _batch(batch_size)
    client = hfl.fedavg(LOSS, lr=lr, steps=steps)
    got = self.variant(client)(KEY, variables, batch)['head']
    slices = _slices(batch_size, steps)
    self.assertEqual(
      tuple(len(s) for s in slices), hfl.step_sizes(batch_size, steps)
    )
    update, grads = _numpy_steps(variables, batch, lr, slices)
    atol = (
      2e-5 + 1e-7 / lr
    )  # parameters round to 1e-7, the client divides by lr
    chex.assert_trees_all_close(dict(got), update, atol=atol, rtol=1e-4)
    # Divided by lr and not by S: the update is the sum of the step gradients.
    total = jax.tree.map(lambda *g: sum(g), *grads)
    chex.assert_trees_all_close(dict(got), total, atol=atol, rtol=1e-4)

  def test_a_ragged_last_step_weighs_its_examples_more(self):
    # At lr -> 0 and uniform logits: S / K - sum_s counts_s / b_s.
    variables, batch = _variables(scale=0.0), _batch(64)
    got = hfl.fedavg(LOSS, lr=1e-6, steps=10)(KEY, variables, batch)
    y = np.asarray(batch.y)
    want = 10 / 7 - sum(y[rows].mean(0) for rows in _slices(64, 10))
    np.testing.assert_allclose(got['head']['bias'], want, atol=1e-4)
    unweighted = 10 / 7 - 10 * y.mean(0)
    self.assertGreater(np.abs(want - unweighted).max(), 0.1)

  def test_one_step_of_fedavg_is_fedsgd(self):
    variables, batch = _variables(), _batch(9)
    chex.assert_trees_all_close(
      hfl.fedavg(LOSS, lr=0.7, steps=1)(KEY, variables, batch),
      hfl.fedsgd(LOSS)(KEY, variables, batch),
      atol=1e-6,
    )

  def test_padding_does_not_count(self):
    variables, batch = _variables(), _batch(9)
    short = jax.tree.map(lambda a: a[:6], batch)
    padded = batch._replace(mask=(jnp.arange(9) < 6).astype(float))
    chex.assert_trees_all_close(
      hfl.fedsgd(LOSS)(KEY, variables, padded),
      hfl.fedsgd(LOSS)(KEY, variables, short),
      atol=1e-6,
    )

  def test_only_the_parameters_are_updated(self):
    variables = {**_variables(), 'batch_stats': {'mean': jnp.ones(5)}}
    apply = lambda v, x: _apply(v, x - v['batch_stats']['mean'][None])
    client = hfl.fedavg(hfl.cross_entropy(apply), lr=0.1, steps=3)
    update = client(KEY, variables, _batch(9))
    chex.assert_trees_all_equal_shapes(update, variables['params'])

  def test_step_defense_acts_on_every_step(self):
    variables, batch = _variables(), _batch(128)
    tx = clip(max_norm=0.01).gradient
    client = hfl.fedavg(LOSS, lr=1e-3, steps=10, step_defense=tx)
    got = client(KEY, variables, batch)['head']
    _, grads = _numpy_steps(variables, batch, 1e-3, _slices(128, 10))
    want = jax.tree.map(np.zeros_like, grads[0])
    for g in grads:
      norm = np.sqrt(sum((v**2).sum() for v in g.values()))
      self.assertGreater(norm, 0.01)
      scale = 0.01 / (norm + 1e-6)
      want = {k: want[k] + scale * g[k] for k in want}
    chex.assert_trees_all_close(dict(got), want, rtol=1e-2, atol=1e-4)

  def test_step_noise_adds_up_over_the_steps(self):
    # The update carries sigma * sqrt(S), independent of lr and batch size.
    variables, batch = _variables(), _batch(20)
    client = lambda tx: hfl.fedavg(LOSS, lr=1e-3, steps=10, step_defense=tx)
    clean = client(None)(KEY, variables, batch)
    noisy = jax.jit(
      jax.vmap(client(gaussian(stddev=0.2).gradient), (0, None, None))
    )
    noise = jax.tree.map(
      lambda a, b: np.ravel(a - b[None]),
      noisy(jax.random.split(KEY, 400), variables, batch),
      clean,
    )
    std = np.concatenate(jax.tree.leaves(noise)).std()
    # 400 * 42 draws: a relative standard error of .55 %, times four.
    self.assertLess(abs(std / (0.2 * np.sqrt(10)) - 1), 0.025)

  def test_a_learning_rate_that_cannot_divide_is_refused(self):
    with self.assertRaisesRegex(base.InputError, 'lr=0.0 must be in'):
      hfl.fedavg(LOSS, lr=0.0, steps=10)


class ObserveTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.batches = [_batch(8, seed=seed) for seed in range(3)]
    self.clients = {
      'fedsgd': hfl.fedsgd(LOSS),
      'fedavg': hfl.fedavg(LOSS, lr=0.1, steps=4),
    }

  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.parameters('fedsgd', 'fedavg')
  def test_the_view_is_the_mean_over_clients(self, name):
    client = self.clients[name]
    see = self.variant(lambda key, batches: _observe(client, batches, key=key))
    view = see(KEY, _stack(*self.batches))
    updates = [client(KEY, _variables(), batch) for batch in self.batches]
    chex.assert_trees_all_close(
      view.grads,
      jax.tree.map(lambda *u: sum(u) / 3, *updates),
      atol=1e-6,
    )

  @parameterized.parameters('fedsgd', 'fedavg')
  def test_one_client_is_seen_as_it_sends(self, name):
    client = self.clients[name]
    view = _observe(client, _stack(self.batches[0]))
    chex.assert_trees_all_close(
      view.grads, client(KEY, _variables(), self.batches[0]), atol=1e-6
    )

  @parameterized.parameters('fedsgd', 'fedavg')
  def test_the_order_of_clients_does_not_matter(self, name):
    client = self.clients[name]
    chex.assert_trees_all_close(
      _observe(client, _stack(*self.batches)).grads,
      _observe(client, _stack(*self.batches[::-1])).grads,
      atol=1e-6,
    )

  def test_the_view_shows_what_the_server_sent_and_no_labels(self):
    variables = _variables()
    view = _observe(self.clients['fedsgd'], _stack(self.batches[0]), variables)
    chex.assert_trees_all_equal(view.variables, variables)
    self.assertEqual(view._fields, ('grads', 'variables'))

  @parameterized.parameters('fedsgd', 'fedavg')
  def test_unequal_clients_weigh_by_their_examples(self, name):
    client, sizes = self.clients[name], [2, 8, 5]
    padded = [_pad(b, n) for b, n in zip(self.batches, sizes)]
    updates = [client(KEY, _variables(), batch) for batch in padded]
    chex.assert_trees_all_close(
      _observe(client, _stack(*padded)).grads,
      jax.tree.map(lambda *u: np.average(u, 0, weights=sizes), *updates),
      atol=1e-6,
    )

  def test_unequal_clients_pool_their_examples(self):
    sizes = [2, 8, 5]
    padded = [_pad(b, n) for b, n in zip(self.batches, sizes)]
    rows = [(b.xs[0][:n], b.y[:n]) for b, n in zip(self.batches, sizes)]
    x, y = (np.concatenate(parts) for parts in zip(*rows))
    head = jax.tree.map(np.asarray, _variables()['params']['head'])
    found = _observe(self.clients['fedsgd'], _stack(*padded)).grads['head']
    pooled = _numpy_grad(head['kernel'], head['bias'], x, y)
    chex.assert_trees_all_close(found, pooled, atol=1e-6)

  def test_clients_pool_their_batches(self):
    # FedSGD: the mean of C means is the mean over C * B examples, so that an
    # aggregate shows what one client with all the batches would.
    batches = _stack(*self.batches)
    pooled = jax.tree.map(lambda a: a.reshape(1, -1, *a.shape[2:]), batches)
    chex.assert_trees_all_close(
      _observe(self.clients['fedsgd'], batches).grads,
      _observe(self.clients['fedsgd'], pooled).grads,
      atol=1e-6,
    )

  @parameterized.parameters(('fedsgd', 1), ('fedavg', 4))
  def test_an_aggregate_of_uniform_models_is_the_pooled_counts(self, name, s):
    # Every step: 1/K - counts / b, summed over S steps, averaged over C.
    client = hfl.fedavg(LOSS, lr=1e-6, steps=4) if s == 4 else hfl.fedsgd(LOSS)
    variables = _variables(scale=0.0)
    for aggregate in (he.plaintext(), he.ideal()):
      view = _observe(
        client, _stack(*self.batches), variables, aggregate=aggregate
      )
      counts = sum(batch.y.sum(0) for batch in self.batches)
      want = s / 7 - counts / (3 * 8 / s)
      np.testing.assert_allclose(view.grads['head']['bias'], want, atol=2e-4)

  @parameterized.parameters(1, 2)
  def test_state_of_a_defense_is_of_one_answer(self, queries):
    # Lets one update pass and nothing after it: kept from one client, query or
    # round to the next, its state would shrink the mean.
    once = optax.GradientTransformation(
      lambda params: jnp.ones(()),
      lambda updates, state, params=None: (
        jax.tree.map(lambda u: u * state, updates),
        jnp.zeros(()),
      ),
    )
    batches = _stack(*self.batches)
    for client in self.clients.values():
      for _ in range(2):
        view = _observe(client, batches, defense=once, queries=queries)
        free = _observe(client, batches, queries=queries)
        chex.assert_trees_all_close(view.grads, free.grads, atol=1e-6)
    # Within a client's local steps it goes on: only the first one moves.
    client = lambda steps: hfl.fedavg(
      LOSS, lr=0.1, steps=steps, step_defense=once
    )
    first = self.batches[0]
    half = jax.tree.map(lambda a: a[:4], first)
    chex.assert_trees_all_close(
      client(2)(KEY, _variables(), first),
      client(1)(KEY, _variables(), half),
      atol=1e-6,
    )

  @parameterized.parameters(1, 3)
  def test_sealing_hides_messages_and_changes_no_result(self, num_clients):
    batches = _stack(*self.batches[:num_clients])
    client = self.clients['fedavg']
    chex.assert_trees_all_equal(
      _observe(client, batches, aggregate=he.plaintext()),
      _observe(client, batches, aggregate=he.ideal()),
    )
    mean = lambda tree: jax.tree.map(lambda a: a.mean(0), tree)
    message = {'a': jnp.arange(6.0).reshape(3, 2)}
    self.assertIsNone(he.ideal().reveal(KEY, mean, message).message)
    chex.assert_trees_all_equal(
      he.plaintext().reveal(KEY, mean, message).message, message
    )

  @parameterized.parameters(
    # clients, queries -> the noise of a mean of clients * queries answers
    (1, 1),
    (3, 1),
    (1, 4),
    (3, 4),
  )
  def test_clients_and_queries_average_their_own_noise(self, clients, queries):
    batches = _stack(*self.batches[:clients])
    see = lambda key, tx: (
      _observe(
        self.clients['fedsgd'], batches, key=key, defense=tx, queries=queries
      ).grads
    )
    clean = see(KEY, optax.identity())
    noise = jax.jit(
      jax.vmap(
        lambda key: jax.tree.map(
          jnp.subtract, see(key, gaussian(stddev=1.0).gradient), clean
        )
      )
    )(jax.random.split(KEY, 500))
    flat = np.concatenate([np.ravel(n) for n in jax.tree.leaves(noise)])
    want = 1 / np.sqrt(clients * queries)
    error = want / np.sqrt(2 * flat.size)
    self.assertLess(abs(flat.std() - want), 4 * error)

  def test_defenses_act_on_each_client_before_the_mean(self):
    tx = compress(drop=0.5).gradient
    client = self.clients['fedsgd']
    view = _observe(client, _stack(*self.batches), defense=tx)
    sparse = [
      tx.update(client(KEY, _variables(), b), optax.EmptyState())[0]
      for b in self.batches
    ]
    chex.assert_trees_all_close(
      view.grads, jax.tree.map(lambda *u: sum(u) / 3, *sparse), atol=1e-6
    )

  def test_trials_vmap(self):
    trials = _stack(_stack(*self.batches[:2]), _stack(*self.batches[1:]))
    client = self.clients['fedavg']
    keys = jax.random.split(KEY, 2)
    tx = gaussian(stddev=0.1).gradient
    see = jax.jit(lambda key, b: _observe(client, b, key=key, defense=tx).grads)
    loop = [
      see(key, jax.tree.map(lambda a, i=i: a[i], trials))
      for i, key in enumerate(keys)
    ]
    chex.assert_trees_all_close(
      jax.vmap(see)(keys, trials), _stack(*loop), atol=1e-6
    )

  def test_one_client_needs_no_axis_mask_index_defense_or_aggregate(self):
    full = self.batches[0]
    for client in self.clients.values():
      batch = base.Batch(full.xs, full.y)
      bare = hfl.observe(KEY, client, _variables(), batch)
      chex.assert_trees_all_equal(bare, _observe(client, _stack(full)))

  @parameterized.parameters(
    (dict(y=jnp.zeros(8, int)), r'labels of shape \(8,\).*one-hot'),
    (dict(y=jnp.zeros((6, 7))), r'mask of shape \(8,\) .* must be \(6,\)'),
    (dict(xs=(jnp.zeros((6, 5)),)), r'xs\[0\] of shape .* must be \(8,\)'),
    (dict(y=jnp.zeros((8, 6))), r'logits of shape \(8, 7\) for labels'),
    (dict(y=jnp.zeros((8, 1))), r'logits of shape \(8, 7\) for labels'),
  )
  def test_shapes_that_do_not_fit_are_refused(self, fields, message):
    batch = self.batches[0]._replace(**fields)
    with self.assertRaisesRegex(base.InputError, message):
      hfl.observe(KEY, self.clients['fedsgd'], _variables(), batch)


class HeadTest(parameterized.TestCase):
  def test_finds_the_classifier_or_takes_bare_leaves(self):
    leaves = {'kernel': jnp.ones((2, 3)), 'bias': jnp.zeros(3)}
    for tree in ({'head': leaves, 'Dense_0': leaves}, leaves):
      kernel, bias = hfl.head(tree)
      self.assertIs(kernel, leaves['kernel'])
      self.assertIs(bias, leaves['bias'])

  def test_a_missing_part_is_none(self):
    kernel = jnp.ones((2, 3))
    self.assertIsNone(hfl.head({'head': {'kernel': kernel}})[1])
    self.assertIsNone(hfl.head({'bias': jnp.ones(3)})[0])

  def test_of_two_kernels_the_first_name_counts(self):
    tree = {'head': {'weight': WIDE.T, 'kernel': WIDE, 'bias': BIAS}}
    np.testing.assert_array_equal(hfl.head(tree)[0], WIDE)

  def test_a_tree_without_a_head_is_refused(self):
    with self.assertRaisesRegex(base.InputError, "no classifier among .'body'"):
      hfl.head({'body': {'kernel': jnp.ones((2, 3))}})

  @parameterized.named_parameters(
    ('dict', {'body': {}, 'classifier': {'kernel': WIDE, 'bias': BIAS}}),
    ('flax', freeze({'classifier': {'kernel': WIDE, 'bias': BIAS}})),
    ('equinox', Torch(body=(), classifier=Linear(WIDE.T, BIAS))),
    ('nnx', nnx.state(Net())),
    ('nnx_module', Net()),
    ('tuple', Pair(BIAS, dict(w=WIDE, b=BIAS))),
  )
  def test_finds_a_classifier_by_its_path(self, tree):
    kernel, bias = hfl.head(tree, path='classifier')
    np.testing.assert_array_equal(kernel, WIDE)
    np.testing.assert_array_equal(bias, BIAS)

  def test_finds_haiku_modules_and_items_of_lists(self):
    leaves = dict(w=WIDE, b=BIAS)
    haiku = {'mlp/~/linear_0': dict(w=WIDE.T), 'mlp/~/linear_1': leaves}
    for tree, path in (
      (haiku, 'mlp/~/linear_1'),
      ({'layers': [{}, {}, leaves]}, 'layers/2'),
    ):
      kernel, bias = hfl.head(tree, path)
      self.assertIs(kernel, WIDE)
      self.assertIs(bias, BIAS)

  def test_a_square_weight_is_transposed_by_its_name(self):
    square = np.arange(9.0).reshape(3, 3)
    kernel, bias = hfl.head({'fc': {'weight': square}}, path='fc')
    np.testing.assert_array_equal(kernel, square.T)
    self.assertIsNone(bias)
    self.assertIs(hfl.head({'fc': {'kernel': square}}, path='fc')[0], square)

  def test_reads_what_a_client_of_another_library_sent(self):
    params = Torch(body=(), classifier=Linear(jnp.zeros((3, 2)), jnp.zeros(3)))

    def apply(variables, x):
      layer = variables['params'].classifier
      return x @ layer.weight.T + layer.bias[None]

    y = jnp.eye(3)[np.array([0, 0, 0, 2])]
    client = hfl.fedsgd(hfl.cross_entropy(apply))
    batch = base.Batch((jnp.ones((4, 2)),), y)
    view = hfl.observe(KEY, client, dict(params=params), batch)
    _, bias = hfl.head(view.grads, path='classifier')
    np.testing.assert_allclose(bias, 1 / 3 - y.mean(0), atol=1e-6)

  @parameterized.parameters(
    ({'body': {'w': WIDE}}, 'head', "no classifier at path='head'.*'body'"),
    ({'fc': {'kernel': WIDE.T, 'bias': BIAS}}, 'fc', r'\(3, 2\) with a bias'),
    ({'head': {'kernel': WIDE.T, 'bias': BIAS}}, None, r'\[H, K\] with \[K\]'),
    ([WIDE], None, 'no classifier among'),
  )
  def test_what_is_no_classifier_is_refused(self, tree, path, message):
    with self.assertRaisesRegex(base.InputError, message):
      hfl.head(tree, path)


if __name__ == '__main__':
  absltest.main()
