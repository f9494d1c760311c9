"""Classifiers: they learn, resume exactly, and defenses act on each step."""

from unittest import mock

from absl.testing import absltest, parameterized
import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import base, data, defenses, models, train
from labelleak.defenses.clipping import clip
from labelleak.defenses.noise import gaussian
from labelleak.train import checkpoints, classifiers


class Interrupted(Exception):
  pass


class Net(nn.Module):
  """Batch norm and dropout, so that every collection is exercised."""

  num_classes: int

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(64)(x.reshape(x.shape[0], -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
    x = nn.Dropout(0.2, deterministic=not train)(x)
    return nn.Dense(self.num_classes, name='head')(x)


class ClassifierTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.train = data.load('digits', split='train')
    self.test = data.load('digits', split='test')

  def _fit(self, **hyper):
    arguments = dict(steps=150, batch_size=64, lr=3e-3, seed=0) | hyper
    model = Net(self.train.num_classes)
    return model, train.classifier(model, self.train, **arguments)

  @parameterized.parameters(
    dict(),
    dict(optimizer='sgd', lr=0.05, momentum=0.9),
    dict(optimizer='adamw', weight_decay=1e-3),
  )
  def test_learns_the_digits(self, **hyper):
    model, variables = self._fit(**hyper)
    self.assertGreater(train.accuracy(model, variables, self.test), 0.9)

  def test_a_small_vision_transformer_learns_the_digits(self):
    model = models.load(
      'vit.vit', num_classes=10, width=32, heads=4, depth=2, patch=2
    )
    variables = train.classifier(
      model, self.train, steps=300, batch_size=64, lr=3e-3, seed=0
    )
    # Slower to learn than Net; chance is .1.
    self.assertGreater(train.accuracy(model, variables, self.test), 0.8)

  def test_an_untrained_model_is_at_chance(self):
    model, variables = self._fit(steps=0)
    # Independent of the labels: ten classes, hence .1; initialisation adds
    # spread, far below what learning reaches.
    self.assertLess(train.accuracy(model, variables, self.test), 0.4)

  def test_batch_statistics_and_parameters_move(self):
    _, before = self._fit(steps=0)
    _, after = self._fit(steps=1)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, after)
    self.assertTrue(all(jax.tree.leaves(moved['batch_stats'])))
    self.assertTrue(moved['params']['head']['kernel'])

  def test_dropout_and_order_depend_on_the_seed(self):
    _, start = self._fit(steps=0)
    runs = [
      self._fit(steps=3, seed=seed, variables=start)[1] for seed in (1, 1, 2)
    ]
    chex.assert_trees_all_equal(runs[0], runs[1])
    kernel = lambda run: run['params']['head']['kernel']
    self.assertGreater(np.abs(kernel(runs[0]) - kernel(runs[2])).max(), 1e-5)

  def test_weight_decay_shrinks_as_the_formula_says(self):
    # One SGD step differs by lr * decay * w between decayed and plain.
    _, start = self._fit(steps=0)
    step = lambda decay: self._fit(
      steps=1, optimizer='sgd', lr=0.1, weight_decay=decay, variables=start
    )[1]['params']
    chex.assert_trees_all_close(
      jax.tree.map(jnp.subtract, step(0.0), step(0.5)),
      jax.tree.map(lambda w: 0.1 * 0.5 * w, start['params']),
      atol=1e-6,
    )

  def _moves(self, defense, **hyper):
    """What one step of SGD at lr = 1 takes off every parameter."""
    _, start = self._fit(steps=0)
    hyper = dict(steps=1, optimizer='sgd', lr=1.0, variables=start) | hyper
    _, after = self._fit(defense=defense, **hyper)
    return start, jax.tree.map(jnp.subtract, start['params'], after['params'])

  @parameterized.parameters(
    dict(name='gaussian', stddev=0.0),
    dict(name='clip', max_norm=float('inf')),
    dict(name='compress', drop=0.0),
  )
  def test_a_defense_without_strength_trains_as_none(self, **spec):
    sgd = dict(steps=5, optimizer='sgd', lr=0.1)
    runs = [
      self._fit(defense=defense, **sgd)[1]
      for defense in (None, defenses.build((spec,)).gradient)
    ]
    chex.assert_trees_all_close(*runs, atol=1e-5)

  def test_a_clipped_step_is_as_long_as_the_clip(self):
    _, free = self._moves(None)
    _, clipped = self._moves(clip(max_norm=0.01).gradient)
    self.assertGreater(optax.tree.norm(free), 0.1)
    self.assertAlmostEqual(optax.tree.norm(clipped), 0.01, delta=1e-4)
    scale = 0.01 / optax.tree.norm(free)
    chex.assert_trees_all_close(
      clipped, jax.tree.map(lambda g: scale * g, free), atol=1e-6
    )

  def test_weight_decay_is_no_data_and_is_not_clipped(self):
    start, moved = self._moves(clip(max_norm=1e-6).gradient, weight_decay=0.5)
    decay = jax.tree.map(lambda w: 0.5 * w, start['params'])
    chex.assert_trees_all_close(moved, decay, atol=2e-6)

  def test_every_step_draws_noise_of_its_own(self):
    # n steps of SGD at lr = 1e-3 add N(0, n (lr sigma)^2) to a parameter.
    sigma, lr, steps = 100.0, 1e-3, 9
    _, start = self._fit(steps=0)
    fit = lambda tx: self._fit(
      steps=steps, optimizer='sgd', lr=lr, variables=start, defense=tx
    )[1]['params']['Dense_0']['kernel']
    # Large noise: what it does to the later gradients is small beside it.
    noise = np.ravel(fit(gaussian(stddev=sigma).gradient) - fit(None))
    found = noise.std() / (sigma * lr)
    error = steps**0.5 / np.sqrt(2 * noise.size)
    for factor, agrees in ((1, True), (2 / 3, False), (1.5, False)):
      near = abs(found - factor * steps**0.5) < 4 * error
      self.assertEqual(near, agrees, f'{found / steps**0.5} at {factor}')

  def test_a_step_is_counted_and_has_its_own_key(self):
    tx = optax.sgd(0.1)
    net, key = Net(3), jax.random.key(5)
    x, y = jnp.ones((4, 2)), jnp.zeros(4, int)
    variables = jax.jit(net.init)(jax.random.key(0), x)
    step = jax.jit(lambda *args: classifiers._step(net, tx, *args)[0])
    state = classifiers.State(
      variables, tx.init(variables['params']), key, jnp.zeros((), int)
    )
    for count in range(3):
      self.assertEqual(state.count, count)
      state = step(state, (x, y))

  def test_a_defense_starts_anew_with_every_training(self):
    # Lets the first step pass and nothing after it: were its state kept, the
    # second training would not move at all.
    once = optax.GradientTransformation(
      lambda params: jnp.ones(()),
      lambda updates, state, params=None: (
        jax.tree.map(lambda u: u * state, updates),
        jnp.zeros(()),
      ),
    )
    _, start = self._fit(steps=0)
    fit = lambda steps: self._fit(
      steps=steps, optimizer='sgd', lr=0.1, variables=start, defense=once
    )[1]['params']
    one, five, again = fit(1), fit(5), fit(5)
    chex.assert_trees_all_equal(one, five)
    chex.assert_trees_all_equal(five, again)
    self.assertGreater(
      optax.tree.norm(jax.tree.map(jnp.subtract, one, start['params'])), 0.0
    )

  def test_an_interrupted_classifier_resumes_exactly(self):
    _, whole = self._fit(steps=50)
    workdir = self.create_tempdir().full_path

    def interrupt(done, metrics):
      self.assertSetEqual(set(metrics), {'loss', 'accuracy'})
      if done >= 20:
        raise Interrupted

    with self.assertRaises(Interrupted):
      self._fit(steps=50, workdir=workdir, callback=interrupt)
    _, resumed = self._fit(steps=50, workdir=workdir)
    chex.assert_trees_all_equal(resumed, whole)

  def test_a_checkpoint_is_of_one_training(self):
    """Another lr, seed, defense or data looks for another state."""
    model = models.load('mlp.linear', num_classes=10)
    start = {'params': {'head': {'kernel': np.zeros((64, 10), np.float32)}}}
    start['params']['head']['bias'] = np.zeros(10, np.float32)
    names, identify = [], checkpoints.identify

    def stop(*arguments):
      names.append(identify(*arguments))
      raise Interrupted

    def look(source=self.train, **hyper):
      options = dict(steps=2, batch_size=16, lr=1e-3, seed=0, variables=start)
      options |= dict(workdir='none', key=jax.random.key(0))
      with (
        mock.patch.object(checkpoints, 'identify', stop),
        self.assertRaises(Interrupted),
      ):
        train.classifier(model, source, **options | hyper)

    labels = self.train._replace(y=self.train.y.copy())
    labels.y[-1] = (labels.y[-1] + 1) % 10
    others = (
      dict(),
      dict(lr=1e-2),
      dict(seed=1),
      dict(key=jax.random.key(1)),
      dict(batch_size=32),
      dict(optimizer='sgd'),
      dict(weight_decay=0.1),
      dict(defense=clip(max_norm=0.1).gradient),
      dict(defense=clip(max_norm=0.2).gradient),
      dict(defense=gaussian(stddev=0.1).gradient),
      dict(source=self.test),
      dict(source=labels),
    )
    for other in others:
      look(**other)
    self.assertLen(set(names), len(others))
    look(steps=3)  # a longer training goes on from a shorter one
    self.assertEqual(names[-1], names[0])

  def test_an_epoch_visits_every_example_once(self):
    size = 10
    source = data.Source(
      take=lambda index: index[:, None].astype(np.float32),
      y=np.arange(size),
      num_classes=size,
      shape=(1,),
      name='numbers',
    )
    seen = []
    for first in (1, 3):  # chunks of two steps; the epoch ends inside one
      x, y = classifiers._batches(source, 5, 0, np.array([first, first + 1]))
      np.testing.assert_array_equal(x[..., 0], y)
      seen.append(np.ravel(y))
    for epoch in seen:
      np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
    self.assertFalse(np.all(seen[0] == seen[1]))
    _, y = classifiers._batches(source, 4, 0, np.array([2, 3, 4]))
    np.testing.assert_array_equal(np.ravel(y), np.concatenate(seen)[4:16])

  def test_accuracy_counts_every_example_once(self):
    class Echo(nn.Module):
      @nn.compact
      def __call__(self, x, train=False):
        return x

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(23, 4)).astype(np.float32)
    y = rng.integers(0, 4, 23)
    source = data.Source(
      take=lambda i: logits[i], y=y, num_classes=4, shape=(4,), name='logits'
    )
    want = (logits.argmax(1) == y).mean()
    for batch_size in (1, 5, 23, 64):
      got = train.accuracy(Echo(), {}, source, batch_size=batch_size)
      self.assertAlmostEqual(got, want)

  @parameterized.parameters(
    (dict(optimizer='addam'), r"no optimizer 'addam'; known: .*adam"),
    (dict(momentum=0.9), r"adam takes no 'momentum'"),
    (dict(batch_size=0), r'batch_size=0 must be .* at least 1'),
    (dict(lr=-1.0), r'lr=-1\.0 must be positive'),
    (dict(steps=-1), r'steps=-1'),
  )
  def test_bad_input_is_refused(self, hyper, message):
    with self.assertRaisesRegex(base.InputError, message):
      self._fit(**hyper)

  def test_divergence_names_the_step(self):
    with self.assertRaisesRegex(FloatingPointError, r'loss is .* at step \d+'):
      self._fit(optimizer='sgd', lr=1e38)


if __name__ == '__main__':
  absltest.main()
