"""MixMatch: its parts against closed forms, a step against NumPy."""

from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

from labelleak.attacks.completion import mixmatch
from labelleak.base import InputError

_KEEP = lambda key, tree, alpha, per_pair: tree  # nothing is mixed


def _linear(own, rest, x, key):
  """Logits x W; the collections count the training passes."""
  count = {'passes': own['batch_stats']['passes'] + 1.0}
  drift = {'passes': rest['passes'] + 1.0}
  return x @ own['params'], {**own, 'batch_stats': count}, drift


def _own(params):
  return {
    'params': jnp.asarray(params, jnp.float32),
    'batch_stats': {'passes': jnp.zeros(())},
  }


_REST = {'passes': jnp.zeros(())}


def _batch(rng, size=6, features=4, num_classes=3):
  y = np.eye(num_classes)[rng.integers(num_classes, size=size)]
  x, u = rng.normal(size=(2, size, features))
  return mixmatch.Batch(*(np.float32(a) for a in (x, y, u)))


class PartsTest(parameterized.TestCase):
  def test_sharpen(self):
    p = jax.nn.softmax(jax.random.normal(jax.random.key(0), (5, 4)))
    np.testing.assert_allclose(mixmatch.sharpen(p, 1.0), p, rtol=1e-5)
    np.testing.assert_allclose(
      mixmatch.sharpen(p, 0.5), p**2 / (p**2).sum(1, keepdims=True), rtol=1e-5
    )
    hard = mixmatch.sharpen(p, 0.01)
    np.testing.assert_allclose(hard.argmax(1), p.argmax(1))
    self.assertGreater(float(hard.max(1).min()), 0.9)
    flat = jnp.full((1, 4), 0.25)
    np.testing.assert_allclose(mixmatch.sharpen(flat, 0.3), flat, rtol=1e-5)

  @parameterized.parameters(False, True)
  def test_mix_is_with_a_permutation(self, per_pair):
    num = 9
    tree = dict(a=jnp.eye(num), b=jnp.arange(1.0, num + 1))
    mixed = mixmatch.mix(jax.random.key(3), tree, 0.75, per_pair)
    a = np.asarray(mixed['a'], np.float64)
    np.testing.assert_allclose(a.sum(1), 1, rtol=1e-6)
    own = np.diag(a)
    self.assertTrue((own >= 0.5).all())
    self.assertTrue(((a > 0).sum(1) <= 2).all())
    partner = np.where(own < 1, (a - np.diag(own)).argmax(1), np.arange(num))
    self.assertLen(set(partner.tolist()), num)
    np.testing.assert_allclose(mixed['b'], a @ np.arange(1, num + 1), rtol=1e-5)
    shares = own[own < 1]
    self.assertEqual(len(set(shares.round(6))) > 1, per_pair)

  @parameterized.parameters(0.75, 16.0)
  def test_law_of_the_share(self, alpha):
    """E max(L, 1 - L) of L ~ Beta(alpha, alpha), within 4 standard errors."""
    keys = jax.random.split(jax.random.key(0), 2000)
    pair = jnp.eye(2)
    mixed = jax.vmap(lambda k: mixmatch.mix(k, pair, alpha))(keys)
    swapped = np.asarray(mixed[:, 0, 1] > 0)
    shares = np.asarray(mixed[:, 0, 0])[swapped]
    law = stats.beta(alpha, alpha)
    mean = law.expect(lambda v: np.maximum(v, 1 - v))
    error = shares.std() / np.sqrt(len(shares))
    self.assertLess(abs(shares.mean() - mean), 4 * error)
    self.assertBetween(swapped.mean(), 0.45, 0.55)

  @parameterized.parameters(6, 7, 1)
  def test_interleave_is_its_own_inverse(self, size):
    one, other = jnp.arange(size), 100 + jnp.arange(size)
    first, second = mixmatch.interleave(one, other)
    self.assertEqual(int((first >= 100).sum()), size - size // 2)
    np.testing.assert_array_equal(
      np.stack(mixmatch.interleave(first, second)), np.stack([one, other])
    )

  def test_losses_at_uniform_logits(self):
    """log K, and the variance of a one-hot label: (1 - 1/K) / K."""
    num = 5
    y = jnp.eye(num)
    labelled, unlabelled = mixmatch.losses(
      jnp.zeros((num, num)), y, jnp.zeros((num, num)), y
    )
    self.assertAlmostEqual(float(labelled), np.log(num), places=5)
    self.assertAlmostEqual(float(unlabelled), (1 - 1 / num) / num, places=6)

  def test_losses_of_soft_labels(self):
    rng = np.random.default_rng(0)
    logits, guesses = rng.normal(size=(2, 4, 3)).astype(np.float32)
    p, q = rng.dirichlet(np.ones(3), (2, 4)).astype(np.float32)
    soft = lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True)
    labelled, unlabelled = mixmatch.losses(logits, p, guesses, q)
    expected = -(p * np.log(soft(logits))).sum(1).mean()
    np.testing.assert_allclose(labelled, expected, rtol=1e-5)
    expected = ((soft(guesses) - q) ** 2).sum() / (4 * 3)
    np.testing.assert_allclose(unlabelled, expected, rtol=1e-5)


class StepTest(parameterized.TestCase):
  def test_steps_are_those_of_numpy(self):
    """Guess, losses, ramp, Adam, average and decay; nothing is mixed."""
    rng = np.random.default_rng(0)
    batches = [_batch(rng) for _ in range(4)]
    start = rng.normal(size=(4, 3))
    lr, ema, decay, weight, temperature, steps = 0.05, 0.9, 0.01, 7.0, 0.8, 8
    core = mixmatch.mixmatch(
      _linear,
      optax.adam(lr),
      steps=steps,
      temperature=temperature,
      weight=weight,
      ema=ema,
      decay=decay,
    )
    state = core.init(jax.random.key(0), _own(start), _REST)
    with mock.patch.object(mixmatch, 'mix', _KEEP):
      for batch in batches:
        state, metrics = core.step(state, batch)
    expected = self._numpy(
      start, batches, lr, ema, decay, weight, temperature, steps
    )
    loss, own, average = expected
    np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-4)
    np.testing.assert_allclose(
      state.trained['params'], own, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
      state.average['params'], average, rtol=1e-4, atol=1e-6
    )

  def _numpy(self, w, batches, lr, ema, decay, weight, temperature, steps):
    average, m, v = w.copy(), 0.0, 0.0
    soft = lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True)
    for t, (x, y, u) in enumerate(batches):
      x, y, u = (np.asarray(a, np.float64) for a in (x, y, u))
      q = soft(u @ w) ** (1 / temperature)
      q /= q.sum(1, keepdims=True)
      size, num = y.shape
      s, ramp = soft(u @ w), weight * t / steps
      loss = -(y * np.log(soft(x @ w))).sum() / size
      loss += ramp * ((s - q) ** 2).mean()
      g = x.T @ (soft(x @ w) - y) / size
      d = 2 * (s - q) / (size * num)  # of the squared error in s
      g += ramp * u.T @ (s * (d - (d * s).sum(1, keepdims=True)))
      m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
      hat = m / (1 - 0.9 ** (t + 1)), v / (1 - 0.999 ** (t + 1))
      w = w - lr * hat[0] / (np.sqrt(hat[1]) + 1e-8)
      average = ema * average + (1 - ema) * w
      w = (1 - decay) * w
    return loss, w, average

  def test_the_average_starts_at_the_model_and_statistics_decay(self):
    """With steps of 0 the model shrinks and the average follows."""
    ema, decay, num = 0.8, 0.1, 5
    core = mixmatch.mixmatch(
      _linear, optax.set_to_zero(), steps=10, ema=ema, decay=decay
    )
    state = core.init(jax.random.key(0), _own(np.ones((4, 3))), _REST)
    average, own, passes, passed = 1.0, 1.0, 0.0, 0.0
    rng = np.random.default_rng(0)
    for _ in range(num):
      state, _ = jax.jit(core.step)(state, _batch(rng))
      average = ema * average + (1 - ema) * own
      passes += 3  # the guess and two groups
      passed = ema * passed + (1 - ema) * passes
      own, passes = own * (1 - decay), passes * (1 - decay)
    np.testing.assert_allclose(state.trained['params'], own, rtol=1e-5)
    np.testing.assert_allclose(state.average['params'], average, rtol=1e-5)
    stats = [s['batch_stats']['passes'] for s in (state.trained, state.average)]
    np.testing.assert_allclose(stats, [passes, passed], rtol=1e-5)
    self.assertEqual(float(state.frozen['passes']), 3 * num)  # never decayed

  def test_the_ramp_reaches_the_weight_at_the_end(self):
    rng = np.random.default_rng(0)
    batch = _batch(rng)
    losses = {}
    for weight in (0.0, 10.0):
      core = mixmatch.mixmatch(
        _linear, optax.set_to_zero(), steps=4, weight=weight, decay=0.0
      )
      own = _own(np.eye(4, 3))
      state = core.init(jax.random.key(0), own, _REST)
      with mock.patch.object(mixmatch, 'mix', _KEEP):
        found = []
        for _ in range(7):
          state, metrics = core.step(state, batch)
          found.append(float(metrics['loss']))
      losses[weight] = np.array(found)
    extra = losses[10.0] - losses[0.0]
    np.testing.assert_allclose(
      extra / extra[-1], [0, 0.25, 0.5, 0.75, 1, 1, 1], atol=1e-4
    )

  def test_no_gradient_through_the_guess(self):
    """With T = 1 and nothing mixed the guess is the prediction: no force."""
    core = mixmatch.mixmatch(
      _linear, optax.sgd(1.0), steps=1, temperature=1.0, decay=0.0, ema=0.0
    )
    start = np.random.default_rng(1).normal(size=(4, 3))
    state = core.init(jax.random.key(0), _own(start), _REST)
    state = state._replace(count=jnp.array(1))  # at full weight
    batch = _batch(np.random.default_rng(0))
    with mock.patch.object(mixmatch, 'mix', _KEEP):
      moved, _ = core.step(state, batch)
    only = jax.grad(
      lambda w: optax.softmax_cross_entropy(batch.x @ w, batch.y).mean()
    )(state.trained['params'])
    np.testing.assert_allclose(
      moved.trained['params'],
      state.trained['params'] - only,
      rtol=1e-4,
      atol=1e-6,
    )

  def test_scan_and_vmap(self):
    core = mixmatch.mixmatch(_linear, optax.adam(0.1), steps=3)
    rng = np.random.default_rng(0)
    batches = [_batch(rng) for _ in range(3)]
    stacked = jax.tree.map(lambda *a: np.stack(a), *batches)
    keys = jax.random.split(jax.random.key(0), 2)

    def train(key):
      state = core.init(key, _own(np.ones((4, 3))), _REST)
      return jax.lax.scan(core.step, state, stacked)[0].average['params']

    together = jax.vmap(train)(keys)
    self.assertGreater(float(jnp.abs(together[0] - together[1]).max()), 1e-4)
    for key, ours in zip(keys, together):
      np.testing.assert_allclose(train(key), ours, rtol=1e-5, atol=1e-6)

  @parameterized.parameters(
    (dict(steps=0), 'steps=0'),
    (dict(temperature=0.0), 'temperature=0.0'),
    (dict(alpha=-1.0), 'alpha=-1.0'),
    (dict(ema=1.5), 'ema=1.5'),
    (dict(decay=1.0), 'decay=1.0'),
    (dict(weight=-1.0), 'weight=-1.0'),
  )
  def test_bad_options(self, options, message):
    with self.assertRaisesRegex(InputError, message):
      mixmatch.mixmatch(
        _linear, optax.adam(0.1), **dict(dict(steps=1), **options)
      )

  def test_bad_batches(self):
    core = mixmatch.mixmatch(_linear, optax.adam(0.1), steps=1)
    state = core.init(jax.random.key(0), _own(np.ones((4, 3))), _REST)
    batch = _batch(np.random.default_rng(0))
    with self.assertRaisesRegex(InputError, 'must have one shape'):
      core.step(state, batch._replace(u=batch.u[:2]))
    tokens = batch.x.astype(np.int32)
    with self.assertRaisesRegex(InputError, 'int32 cannot be mixed'):
      core.step(state, batch._replace(x=tokens, u=tokens))


if __name__ == '__main__':
  absltest.main()
