"""The attacker's model of the softmax against NumPy and closed forms."""

import itertools
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import base, hfl
from labelleak.attacks import counts as counts_attacks
from labelleak.attacks.counts import expectation, head_input

KEY = jax.random.key(0)
K, H, M, S, LR = 5, 3, 12, 4, 0.3


def apply(variables, x):
  """A linear model: head only."""
  head = variables['params']['head']
  return x @ head['kernel'] + head['bias'][None]


def softmax(logits):
  e = np.exp(logits - logits.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def descend(kernel, bias, x, labels, steps, lr):
  """Gradient descent in NumPy; parameters at the end, softmax at each step."""
  path = []
  for _ in range(steps):
    p = softmax(x @ kernel + bias)
    path.append(p)
    kernel = kernel - lr * x.T @ (p - labels) / len(x)
    bias = bias - lr * (p - labels).mean(0)
  return kernel, bias, path


class ConfidentTest(parameterized.TestCase):
  @parameterized.parameters(0.5, 0.9)
  def test_each_label_has_as_much_and_the_others_share_the_rest(self, own):
    mean, var, num, shift = expectation.confident(5, own)
    np.testing.assert_allclose(np.diag(mean), own, rtol=1e-6)
    np.testing.assert_allclose(mean.sum(1), 1, rtol=1e-6)
    self.assertAlmostEqual(float(mean[0, 3]), (1 - own) / 4, places=6)
    self.assertEqual(shift, 0)
    # Half of what a share that is 0 or 1 varies by; rare shares as their mean.
    np.testing.assert_allclose(np.diag(var), own * (1 - own) / 2, rtol=1e-5)
    self.assertAlmostEqual(float(var[0, 3]), (1 - own) / 8, places=6)
    # What a class lacks is known to 30 %.
    error = np.sqrt(np.diag(var) / num)
    np.testing.assert_allclose(error, 0.3 * (1 - own), rtol=1e-5)


class ExpectationTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = self.rng = np.random.default_rng(0)
    self.kernel, self.bias = rng.normal(size=(H, K)), rng.normal(size=K)
    self.x = rng.normal(size=(M, H))
    self.counts = np.array([7, 0, 2, 1, 2])
    self.start = softmax(self.x @ self.kernel + self.bias)

  def tree(self, kernel, bias):
    return {'head': {'kernel': jnp.float32(kernel), 'bias': jnp.float32(bias)}}

  def view(self, kernel, bias):
    """Of a client that ended at these parameters."""
    grads = self.tree((self.kernel - kernel) / LR, (self.bias - bias) / LR)
    return hfl.View(grads, {'params': self.tree(self.kernel, self.bias)})

  def known(self, lr=LR, **grants):
    model = base.Model(apply, (H,))
    return hfl.Known(K, M, S, lr=lr, model=model, **grants)

  def test_uniform(self):
    model = expectation.uniform(K)
    np.testing.assert_allclose(model.mean, np.full((1, K), 1 / K))
    np.testing.assert_array_equal(model.var, np.zeros((1, K)))

  def planted(self, noise, louder=1.0, k=40):
    """A head's update where every input is h: h, p - y, bias, kernel."""
    h, sums = self.rng.normal(size=H), self.rng.normal(size=k)
    bias = sums + noise * self.rng.normal(size=(2000, k))
    kernel = np.outer(louder * h, sums)
    kernel = kernel + noise * self.rng.normal(size=(2000, H, k))
    return h, sums, jnp.float32(bias), jnp.float32(kernel)

  def test_bias_and_kernel_fused_have_the_mean_and_less_noise(self):
    h, sums, bias, kernel = self.planted(noise=0.3)
    fused = jax.vmap(head_input.fuse, (0, 0, None))
    found, quiet = fused(bias, kernel, jnp.float32(h))
    error = np.asarray(found) - sums
    expected = 0.3 / np.sqrt(1 + h @ h)
    np.testing.assert_allclose(0.3 * quiet, expected, rtol=1e-5)
    np.testing.assert_allclose(error.std(), expected, rtol=0.02)
    np.testing.assert_allclose(
      error.mean(0), 0.0, atol=5 * expected / 2000**0.5
    )

  @parameterized.parameters(3, 20)
  def test_noise_that_sums_of_rows_show_is_lessened_by_the_kernel(self, k):
    h, sums = 0.5 * self.rng.normal(size=40), self.rng.normal(size=k)
    sums -= sums.mean()
    deviation = 0.3 * np.linalg.norm(sums) / 20**0.5
    noise = deviation * self.rng.normal(size=(400, 41, k))
    both = np.float32(np.outer(np.append(h, 1.0), sums) + noise)
    found = jax.vmap(head_input.denoise)(both[:, -1], both[:, :-1])
    self.assertLess(found.quiet.max(), 1.0)
    error = np.asarray(found.beta) - sums
    expected = deviation * found.quiet.mean()
    np.testing.assert_allclose(error.std(), expected, rtol=0.1)
    # Across the update all of it is less by the length of (h, 1).
    across = error - np.outer(error @ sums, sums) / (sums @ sums)
    quiet = ((k - 2) / k / (1 + h @ h)) ** 0.5
    np.testing.assert_allclose(across.std(), deviation * quiet, rtol=0.15)

  def test_an_update_without_noise_stands_as_it_is(self):
    h, sums, _, _ = self.planted(noise=0.0)
    even = sums - sums.mean()
    for bias, kernel in (
      (even, np.outer(h, even)),
      (sums, np.outer(h, sums)),  # of another loss: sums follow the inputs
      (1e-3 * even, self.rng.normal(size=(40, len(even)))),  # drowned
      (even[:2], self.rng.normal(size=(40, 2))),  # two classes
    ):
      found = head_input.denoise(jnp.float32(bias), jnp.float32(kernel))
      np.testing.assert_array_equal(found.beta, np.float32(bias))
      self.assertEqual(found.quiet, 1.0)

  @parameterized.parameters(0.7, 1.0, 1.5)
  def test_length_of_the_head_input_is_read_from_the_update(self, louder):
    for noise in (0.0, 0.1):
      h, _, bias, kernel = self.planted(noise, louder)
      rescale = jax.vmap(head_input.rescale, (0, 0, None))
      found = rescale(bias[:100], kernel[:100], jnp.float32(h))
      np.testing.assert_allclose(
        found.mean(0), louder * h, rtol=0.1 * noise + 1e-4
      )

  def test_length_without_evidence_stays_within_a_factor_of_two(self):
    h, zero = jnp.float32(self.rng.normal(size=H)), jnp.zeros(K)
    for kernel in (jnp.zeros((H, K)), jnp.ones((H, K)), -jnp.ones((H, K))):
      for bias in (zero, zero + 1.0):
        found = head_input.rescale(bias, kernel, h)
        ratio = jnp.linalg.norm(found) / jnp.linalg.norm(h)
        self.assertBetween(float(ratio), 0.499, 2.001)

  def test_head_input_and_norm_ratio_of_a_linear_model(self):
    view = self.view(self.kernel, self.bias)
    x = jnp.float32(self.x)
    found = head_input.mean_input(view, self.known(), x)
    np.testing.assert_allclose(found, self.x.mean(0), rtol=1e-5)
    # The same input throughout: the kernel's gradient is h times the bias's.
    grads = self.tree(np.zeros((H, K)), np.linspace(-1, 1, K))
    view, same = view._replace(grads=grads), jnp.broadcast_to(x[:1], x.shape)
    for louder in (1.0, 0.5):
      ratio = head_input.norm_ratio(view, self.known(), same, louder)
      square = louder**2 * self.x[0] @ self.x[0]
      np.testing.assert_allclose(ratio, np.sqrt(1 + square), rtol=1e-4)

  def test_moments_of_all_examples(self):
    model = expectation.moments(jnp.float32(self.start), None)
    self.assertEqual(model.mean.shape, (1, K))
    np.testing.assert_allclose(model.mean[0], self.start.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
      model.var, self.start.var(0)[None], rtol=1e-3, atol=1e-7
    )
    np.testing.assert_array_equal(model.num, [M])

  def test_others_of_one_row_and_of_many(self):
    weight = self.rng.uniform(size=K)
    rows = self.rng.uniform(size=(K, K))
    others = 1 - np.eye(K)
    found = expectation.sum_others(jnp.float32(weight), jnp.float32(rows))
    np.testing.assert_allclose(found, weight @ (rows * others), rtol=1e-5)
    found = expectation.sum_others(jnp.float32(weight), jnp.float32(rows[:1]))
    expected = weight @ (rows[:1].repeat(K, 0) * others)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    own = expectation.own(jnp.float32(rows)), expectation.own(rows[:1])
    np.testing.assert_allclose(own[0], np.diag(rows), rtol=1e-6)
    np.testing.assert_allclose(own[1], rows[0], rtol=1e-6)

  def test_moments_by_class(self):
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 3, 3])  # no class 4
    model = expectation.moments(
      jnp.float32(self.start), jax.nn.one_hot(labels, K)
    )
    for j in range(4):
      own = self.start[labels == j]
      np.testing.assert_allclose(model.mean[j], own.mean(0), rtol=1e-5)
      trust = len(own) / (len(own) + 2)
      var = trust * own.var(0) + (1 - trust) * self.start.var(0)
      np.testing.assert_allclose(model.var[j], var, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(model.mean[4], self.start.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
      model.var[4], self.start.var(0), rtol=1e-3, atol=1e-7
    )
    np.testing.assert_array_equal(model.num, [5, 2, 1, 4, M])

  def test_measured_at_the_start_without_learning_rate(self):
    view = self.view(self.kernel + 1, self.bias - self.rng.normal(size=K))
    x = jnp.float32(self.x)
    model = expectation.measure(view, self.known(lr=None), x)
    want = self.start.mean(0)[None]
    np.testing.assert_allclose(model.mean, want, rtol=1e-5)

  def test_measured_between_start_and_end(self):
    """Step s = 0 ... S-1 sees the share s/S of the way."""
    kernel = self.kernel + 0.3 * self.rng.normal(size=(H, K))
    x = jnp.float32(self.x)
    model = expectation.measure(self.view(kernel, self.bias), self.known(), x)
    end = softmax(self.x @ kernel + self.bias)
    path = [self.start + s / S * (end - self.start) for s in range(S)]
    want = np.mean(path, axis=(0, 1))[None]
    np.testing.assert_allclose(model.mean, want, rtol=1e-4)

  def test_replay_of_the_batch_itself_is_exact(self):
    labels = np.broadcast_to(self.counts / self.counts.sum(), (M, K))
    args = self.kernel, self.bias, self.x, labels, S, LR
    kernel, bias, path = descend(*args)
    mean = expectation.replay(
      self.view(kernel, bias),
      self.known(),
      jnp.float32(self.x),
      jnp.asarray(self.counts),
    )
    np.testing.assert_allclose(mean, np.mean(path, axis=(0, 1)), rtol=1e-4)
    # No straight line: the ends alone would not have told it.
    end = softmax(self.x @ kernel + bias)
    pull = (S - 1) / (2 * S)
    line = ((1 - pull) * self.start + pull * end).mean(0)
    self.assertGreater(np.abs(line - mean).max(), 1e-3)

  def test_replay_is_pulled_to_where_the_client_ended(self):
    labels = np.broadcast_to(self.counts / self.counts.sum(), (M, K))
    args = self.kernel, self.bias, self.x, labels, S, LR
    kernel, bias, path = descend(*args)
    moved = bias + np.array([0.1, -0.1, 0.0, 0.2, 0.0])
    mean = expectation.replay(
      self.view(kernel, moved),
      self.known(),
      jnp.float32(self.x),
      jnp.asarray(self.counts),
    )
    miss = softmax(self.x @ kernel + moved) - softmax(self.x @ kernel + bias)
    want = np.mean(path, axis=(0, 1)) + (S - 1) / (2 * S) * miss.mean(0)
    np.testing.assert_allclose(mean, want, rtol=1e-4)

  @parameterized.parameters(
    (0.5, 0.6),  # softmax follows the labels: counts err on one side
    (-1.0, 0.35),  # it flees them: counts swing about the truth
  )
  def test_counts_and_path_come_to_agree(self, slope, left):
    """A softmax that is linear in the label shares."""
    counts = np.array([50, 25, 8, 5, 4, 3, 2, 2, 1, 0])
    num_classes, size, steps = 10, counts.sum(), 10

    def path(found):
      return slope * found / size + (1 - slope) / num_classes

    beta = steps * (path(counts) - counts / size)
    grads = {'head': {'bias': jnp.float32(beta)}}
    view = hfl.View(grads, {'params': grads})  # of a server that is mocked
    model = base.Model(apply, (H,))
    known = hfl.Known(
      num_classes, int(size), steps, lr=LR, model=model, defense=()
    )
    start = expectation.uniform(num_classes)._replace(shift=1.0)

    def error(replays):
      found = counts_attacks.calibrated(replays=replays).infer(KEY, view, known)
      return np.abs(found - counts).sum() / 2

    with (
      mock.patch.object(expectation, 'measure', lambda *a: start),
      mock.patch.object(expectation, 'replay', lambda v, k, x, c: path(c)),
    ):
      errors = [error(replays) for replays in (1, 2, 8)]
    self.assertGreater(errors[0], errors[1])
    self.assertGreater(left * errors[0], errors[2])

  @parameterized.parameters('examples', 'replay', 'replays')
  def test_nothing_to_replay_is_refused(self, name):
    with self.assertRaisesRegex(base.InputError, f'{name}=0.*at least 1'):
      counts_attacks.calibrated(**{name: 0})

  @parameterized.parameters(((32, 32, 3),), ((16, 16, 1),), ((64,),))
  def test_dummies_have_unit_variance(self, shape):
    x = expectation.draw_dummies(KEY, 24, shape)
    self.assertEqual(x.shape, (24, *shape))
    np.testing.assert_allclose(x.std(), 1.0, atol=0.05)
    self.assertGreater(np.abs(np.asarray(x[0] - x[1])).max(), 0.1)

  def test_dummy_images_have_a_falling_spectrum(self):
    x = np.asarray(expectation.draw_dummies(KEY, 16, (32, 32, 3)))
    power = (np.abs(np.fft.fft2(x, axes=(1, 2))) ** 2).mean((0, 3))
    f = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None])
    edges = (0.03, 0.06, 0.12, 0.25, 0.5)
    bands = [
      power[(f >= low) & (f < high)].mean()
      for low, high in itertools.pairwise(edges)
    ]
    for wide, fine in itertools.pairwise(bands):
      self.assertGreater(wide, 2 * fine)

  def test_dummy_images_are_white_noise_mixed_and_smoothed(self):
    """Its spectrum taken back, 0.95 of grey and 0.3 of each channel."""
    x = np.asarray(expectation.draw_dummies(KEY, 64, (16, 12, 3)))
    f = np.hypot(np.fft.fftfreq(16)[:, None], np.fft.fftfreq(12)[None])
    flat = np.fft.fft2(x, axes=(1, 2))
    flat *= np.maximum(f, 1 / 16)[None, :, :, None] ** 1.2
    cov = np.einsum('nhwc,nhwd->cd', flat, flat.conj()).real
    mix = 0.95 / 3**0.5 * np.ones((3, 3)) + 0.3 * np.eye(3)
    expected = mix @ mix.T
    np.testing.assert_allclose(
      cov / np.trace(cov), expected / np.trace(expected), atol=0.01
    )
    power = (np.abs(flat) ** 2).mean((0, 3))
    power /= power.mean()
    self.assertBetween(power[0, 0], 0.4, 1.6)
    for low, high in itertools.pairwise((0.01, 0.2, 0.4, 1.0)):
      band = power[(f >= low) & (f < high)]
      np.testing.assert_allclose(band.mean(), 1.0, atol=0.1)

  def test_dummy_images_are_mostly_grey(self):
    x = np.asarray(expectation.draw_dummies(KEY, 16, (32, 32, 3)))
    red, green = x[..., 0].ravel(), x[..., 1].ravel()
    self.assertGreater(np.corrcoef(red, green)[0, 1], 0.7)


if __name__ == '__main__':
  absltest.main()
