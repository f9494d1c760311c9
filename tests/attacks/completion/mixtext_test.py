"""MixText: its losses, what it mixes, and that it learns from few labels."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from labelleak import models
from labelleak.attacks.completion import mixmatch, mixtext
from labelleak.base import InputError

KEY = jax.random.key(0)
K = 3


def linear(own, rest, tokens, key, mix):
  """Logits of the sum of embeddings, whose only block is the identity."""
  del key
  table = own['params']['table']
  h = table[tokens].sum(1)
  if mix is not None:
    h = mix.share * h + (1 - mix.share) * table[mix.tokens].sum(1)
  return h, own, rest


def world(seed, num, length=8):
  """Texts [num, length] of classes that prefer tokens of their own, of 12."""
  rng = np.random.default_rng(seed)
  y = rng.integers(0, K, num)
  own = y[:, None] * 4 + rng.integers(0, 4, (num, length))
  noise = rng.integers(0, 12, (num, length))
  return np.where(rng.random((num, length)) < 0.5, own, noise), np.eye(K)[y]


def batch(seed, num=6, unlabelled=10):
  x, y = world(seed, num)
  u, _ = world(seed + 1000, unlabelled)
  return mixmatch.Batch(x, y.astype('f'), u)


class LossTest(parameterized.TestCase):
  def test_closed_forms(self):
    p = np.array([[1, 0], [0.25, 0.75], [0.5, 0.5]], 'f')
    logits = np.log(np.array([[0.8, 0.2], [0.5, 0.5], [0.5, 0.5]], 'f'))
    labelled, unlabelled = mixtext.losses(logits, p, 1)
    self.assertAlmostEqual(float(labelled), -np.log(0.8), places=6)
    kl = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    self.assertAlmostEqual(float(unlabelled), kl / 2, places=6)

  def test_zero_targets_are_no_hole(self):
    """0 log 0 is 0, in the gradient as well."""
    p = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    grads = jax.grad(lambda a: sum(mixtext.losses(a, p, 1)))(jnp.zeros((2, 2)))
    np.testing.assert_allclose(grads, [[-0.5, 0.5]] * 2, atol=1e-6)


class StepTest(parameterized.TestCase):
  def run_step(self, seed=0, tx=None, count=0, **options):
    own = {'params': {'table': 0.1 * jax.random.normal(KEY, (12, K))}}
    tx = tx or optax.sgd(0.0)
    learner = mixtext.mixtext(
      linear, tx, steps=10, **dict(mix_layers=(1,)) | options
    )
    state = learner.init(jax.random.key(seed), own, {})
    state = state._replace(count=jnp.array(count))
    return learner.step(state, batch(seed))

  def test_the_ramp_starts_without_unlabelled_texts(self):
    for options in (dict(weight=0.0), dict(weight=100.0, hinge=9.0)):
      _, found = self.run_step(count=0, **options)
      _, plain = self.run_step(count=0)
      self.assertAlmostEqual(float(found['loss']), float(plain['loss']), 5)
    loss = lambda w, count: float(
      self.run_step(count=count, weight=w)[1]['loss']
    )
    first, second, full = (loss(w, 5) for w in (0.0, 1.0, 2.0))
    self.assertAlmostEqual(full - first, 2 * (second - first), places=5)
    self.assertGreater(second, first)

  def test_guesses_are_of_the_unlabelled_texts_alone(self):
    seen = []

    def spy(own, rest, tokens, key, mix):
      if mix is None:
        seen.append(tokens)
      return linear(own, rest, tokens, key, mix)

    learner = mixtext.mixtext(spy, optax.sgd(0.0), steps=10, mix_layers=(1,))
    state = learner.init(KEY, {'params': {'table': jnp.zeros((12, K))}}, {})
    learner.step(state, batch(0))
    self.assertLen(seen, 1)
    np.testing.assert_array_equal(seen[0], batch(0).u)

  def test_hinge_is_the_entropy_above_the_margin(self):
    """Of an undecided model: log K - margin, times weight and ramp."""
    own = {'params': {'table': jnp.zeros((12, K))}}
    loss = {}
    for hinge in (0.0, 2.0):
      learner = mixtext.mixtext(
        linear, optax.sgd(0.0), steps=10, mix_layers=(1,), hinge=hinge
      )
      state = learner.init(KEY, own, {})._replace(count=jnp.array(5))
      _, found = learner.step(state, batch(0))
      loss[hinge] = float(found['loss'])
    wanted = 2.0 * 0.5 * (np.log(K) - 0.7)
    self.assertAlmostEqual(loss[2.0] - loss[0.0], wanted, places=5)

  def test_shares_are_the_larger_part_and_blocks_are_those_named(self):
    seen = []

    def spy(own, rest, tokens, key, mix):
      if mix is not None:
        jax.debug.callback(
          lambda *a: seen.append([np.array(v) for v in a]),
          mix.share,
          mix.layer,
          tokens,
          mix.tokens,
        )
      return linear(own, rest, tokens, key, mix)

    learner = mixtext.mixtext(spy, optax.sgd(0.0), steps=9, mix_layers=(2, 5))
    state = learner.init(KEY, {'params': {'table': jnp.zeros((12, K))}}, {})
    step = jax.jit(learner.step)
    for _ in range(30):
      state, _ = step(state, batch(0))
    jax.effects_barrier()
    shares, layers, texts, partners = zip(*seen)
    self.assertEqual(set(map(int, layers)), {2, 5})
    self.assertGreaterEqual(min(shares), 0.5)
    self.assertLess(max(shares), 0.9)  # Beta(16, 16)
    for a, b in zip(texts, partners):
      np.testing.assert_array_equal(*(np.sort(t.ravel()) for t in (a, b)))

  def test_the_loss_is_that_of_texts_and_targets_mixed_alike(self):
    seen = []

    def spy(own, rest, tokens, key, mix):
      if mix is not None:
        jax.debug.callback(lambda *a: seen.append(a), mix.share, mix.tokens)
      return linear(own, rest, tokens, key, mix)

    few = batch(0)
    table = np.random.default_rng(0).normal(size=(12, K))
    learner = mixtext.mixtext(
      spy, optax.sgd(0.0), steps=10, mix_layers=(1,), weight=3.0, alpha=0.7
    )
    own = {'params': {'table': jnp.asarray(table, jnp.float32)}}
    state = learner.init(KEY, own, {})._replace(count=jnp.array(4))
    found = float(jax.jit(learner.step)(state, few)[1]['loss'])
    jax.effects_barrier()
    share, partners = map(np.array, seen[0])
    self.assertBetween(share, 0.5, 0.99)
    softmax = lambda a: np.exp(a) / np.exp(a).sum(-1, keepdims=True)
    texts = np.concatenate([few.x, few.u])
    h = table[texts].sum(1)
    q = softmax(2 * h[len(few.x) :])  # to the power of 1 / .5
    targets = np.concatenate([few.y, q])
    order = [int(np.all(texts == row, 1).argmax()) for row in partners]
    self.assertNotEqual(order, sorted(order))
    mixed = lambda a: share * a + (1 - share) * a[order]
    p, log = mixed(targets), np.log(softmax(mixed(h)))
    cross, entropy = -(p * log).sum(1), special.entr(p).sum(1)
    num = len(few.x)
    divergence = (cross - entropy)[num:].mean()
    loss = cross[:num].mean() + 0.4 * 3.0 * divergence
    self.assertAlmostEqual(found / loss, 1, places=5)

  @pytest.mark.slow
  def test_few_labels_and_many_texts_beat_few_labels(self):
    """Test accuracy of the same model without and with unlabelled texts."""
    x, y = world(7, 2000)
    found = {}
    for weight in (0.0, 5.0):
      accuracies = []
      for seed in range(3):
        learner = mixtext.mixtext(
          linear,
          optax.adam(0.02),
          steps=150,
          mix_layers=(1,),
          weight=weight,
        )
        own = {'params': {'table': jnp.zeros((12, K))}}
        few, labels = world(seed, 6)

        def step(state, n, few=few, labels=labels, learner=learner):
          u = jnp.asarray(x)[
            jax.random.randint(jax.random.key(n), (40,), 0, 1000)
          ]
          return learner.step(state, mixmatch.Batch(few, labels, u))

        state = learner.init(jax.random.key(seed), own, {})
        state, _ = jax.jit(
          lambda s, f=step: jax.lax.scan(f, s, jnp.arange(150))
        )(state)
        chex.assert_trees_all_equal(state.average, state.trained)
        logits, _, _ = linear(
          state.average, {}, jnp.asarray(x[1000:]), KEY, None
        )
        hit = logits.argmax(-1) == y[1000:].argmax(-1)
        accuracies.append(float(hit.mean()))
      found[weight] = np.mean(accuracies)
    self.assertGreater(found[5.0], found[0.0] + 0.03)

  @parameterized.parameters(
    (dict(steps=0), 'steps=0'),
    (dict(mix_layers=()), r'mix_layers=\(\)'),
    (dict(alpha=0.0), 'alpha=0.0'),
    (dict(hinge=-1.0), 'hinge=-1.0'),
  )
  def test_bad_options_are_named(self, options, message):
    with self.assertRaisesRegex(InputError, message):
      mixtext.mixtext(linear, optax.sgd(0.1), **dict(steps=3) | options)


class BertTest(absltest.TestCase):
  @pytest.mark.slow
  def test_a_tiny_bert_trains_head_and_encoder_at_their_rates(self):
    model = models.load(
      'bert.bert', num_classes=K, width=8, heads=2, depth=2, vocab=12
    )
    variables = model.init(KEY, world(0, 2)[0])

    def apply(own, rest, tokens, key, mix):
      rngs = {'dropout': key}
      logits = model.apply(own, tokens, train=True, mix=mix, rngs=rngs)
      return logits, own, rest

    learner = mixtext.mixtext(
      apply, mixtext.optimizer(1e-5, 1e-3), steps=5, mix_layers=(1, 2)
    )
    state = learner.init(KEY, variables, {})
    state, found = jax.jit(learner.step)(state, batch(0))
    self.assertTrue(np.isfinite(float(found['loss'])))
    moved = jax.tree.map(
      lambda a, b: float(jnp.abs(a - b).max()),
      state.trained['params'],
      variables['params'],
    )
    # Adam's first step is its rate wherever there is a gradient.
    for name, branch in moved.items():
      rate = 1e-3 if name.startswith('head') else 1e-5
      self.assertBetween(max(jax.tree.leaves(branch)), 0.9 * rate, 1.1 * rate)


if __name__ == '__main__':
  absltest.main()
