"""PPDL against the released loop and the published accuracies it gives."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from labelleak.attacks.scores import readout
from labelleak.base import InputError
from labelleak.defenses import ppdl

B, K, BATCHES = 32, 10, 300


@functools.cache
def _batches(batches=BATCHES):
  """Gradients of a mean cross entropy at random logits, and the labels."""
  rng = np.random.default_rng(0)
  y = rng.integers(K, size=(batches, B))
  g = jax.nn.softmax(rng.normal(size=(batches, B, K)).astype(np.float32))
  return (g - np.eye(K, dtype=np.float32)[y]) / B, y


def _sent(tx, cuts, seed=0):
  """What is sent of independent batches [T, B, K]."""
  keys = jax.random.split(jax.random.key(seed), len(cuts))
  one = lambda cut, key: tx.update(cut, tx.init(cut), key=key)[0]
  return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(cuts), keys))


def _hits(sent, y):
  """Rows [T] whose first negative entry is the label's; none is a miss."""
  scores = np.asarray(readout.first_negative(jnp.asarray(sent)))
  found = np.isfinite(scores).all(-1)
  return ((np.argmax(scores, -1) == y) & found).mean(-1)


def _released(rng, g, theta, epsilon, limit=1e-3, tau=1e-4):
  """The released loop, entry by entry; returns what it sends, in float64."""
  flat = g.ravel().astype(np.float64)
  count = int(theta * flat.size)
  e1, e2 = 8 / 9 * epsilon, 2 / 9 * epsilon
  out, accepted = flat.copy(), np.zeros(flat.size, bool)
  threshold_noise = rng.laplace(scale=2 * count / e1)
  for i in rng.permutation(flat.size):
    noise = rng.laplace(scale=2 * 2 * count / e1)
    if abs(np.clip(flat[i], -limit, limit)) + noise >= tau + threshold_noise:
      released = flat[i] + rng.laplace(scale=2 * count / e2)
      out[i], accepted[i] = np.clip(released, -limit, limit), True
      threshold_noise = rng.laplace(scale=2 * count / e1)
      if accepted.sum() == count:
        out[~accepted] = 0
        break
  return out.reshape(g.shape)


def _share_of_ones(epsilon):
  """P(released entry is a 1 | one is released): 20 ones, 20 zeros, c = 1.

  Given the threshold's noise, entries pass independently, and the first to
  pass in a random order is any of those that pass.
  """
  b = 2 / (8 / 9 * epsilon)
  n = np.arange(21)
  levels = (np.arange(2000) + 0.5) / 2000
  released, ones = 0.0, 0.0
  for t in stats.laplace(scale=b).ppf(levels):
    p0, p1 = stats.laplace(scale=2 * b).sf([t, t - 1])
    joint = np.outer(stats.binom.pmf(n, 20, p1), stats.binom.pmf(n, 20, p0))
    total = np.maximum(n[:, None] + n[None], 1)
    released += 1 - joint[0, 0]
    ones += (joint * n[:, None] / total).sum()
  return ones / released


def _agree(a, b):
  """Whether the means of two samples are within 4 standard errors."""
  error = np.sqrt(np.var(a) / len(a) + np.var(b) / len(b))
  return abs(np.mean(a) - np.mean(b)) < 4 * max(error, 1e-9)


class PpdlTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.75, 0.3904), (0.50, 0.3891), (0.25, 0.0972), (0.10, 0.0430)
  )
  def test_the_early_exit_is_what_was_published(self, theta, published):
    """Table 6 of Fu et al.; the strict form tells what its coins tell."""
    cuts, y = _batches()
    early = ppdl.ppdl(theta=theta, early_exit=True).gradient
    hits = _hits(_sent(early, cuts), y)
    error = hits.std() / np.sqrt(BATCHES)
    self.assertLess(abs(hits.mean() - published), 4 * error)
    self.assertLess(error, 0.01)
    sent = _sent(ppdl.ppdl(theta=theta).gradient, cuts)
    coin = (sent != 0).mean((1, 2)) / 2  # an entry is sent, and negative
    guess = (1 - (1 - coin) ** K) / K
    hits = _hits(sent, y)
    self.assertLess(abs((hits - guess).mean()), 4 * hits.std() / BATCHES**0.5)
    self.assertLess(hits.mean(), 0.1)

  @parameterized.parameters(0.75, 0.25, 0.1)
  def test_is_the_released_loop(self, theta):
    cuts, y = _batches()
    rng = np.random.default_rng(1)
    oracle = np.stack([_released(rng, np.asarray(g), theta, 1.8) for g in cuts])
    out = _sent(ppdl.ppdl(theta=theta, early_exit=True).gradient, cuts)
    raw = lambda sent: np.isclose(sent, cuts, atol=1e-9).mean((1, 2))
    self.assertTrue(_agree(_hits(out, y), _hits(oracle, y)))
    self.assertTrue(_agree(raw(out), raw(oracle)))
    zeros = lambda sent: (sent == 0).mean((1, 2))
    self.assertTrue(_agree(zeros(out), zeros(oracle)))

  @parameterized.parameters((1, True), (2 / 3, False), (3 / 2, False))
  def test_queries_and_threshold_have_the_stated_scale(self, factor, agree):
    """One release of 40 entries, half 1 and half 0: how often it is a 1."""
    trials, epsilon = 20000, 6.0
    cuts = np.zeros((trials, 4, 10), np.float32)
    cuts[:, ::2] = 1.0
    tx = ppdl.ppdl(
      theta=1 / 40, epsilon=epsilon, max_value=1.0, tau=0.0
    ).gradient
    sent = _sent(tx, cuts) != 0
    share = sent[:, ::2].sum() / sent.sum()
    error = np.sqrt(0.25 / trials)
    exact = _share_of_ones(epsilon * factor)
    self.assertEqual(abs(share - exact) < 4 * error, agree, (share, exact))

  @parameterized.parameters((1, True), (2 / 3, False), (3 / 2, False))
  def test_the_release_noise_has_the_stated_scale(self, factor, agree):
    tx = ppdl.ppdl(theta=0.1, max_value=1e9).gradient
    sent = _sent(tx, np.zeros((BATCHES, B, K), np.float32))
    scale = 5 * 32 * factor  # 2 c / e2, c = 32 and e2 = .4
    each = np.abs(sent).sum((1, 2)) / np.maximum((sent != 0).sum((1, 2)), 1)
    each = each[(sent != 0).any((1, 2))]
    error = each.std() / np.sqrt(len(each))
    self.assertEqual(abs(each.mean() - scale) < 4 * error, agree)

  def test_the_strict_form_sends_no_entry_as_it_came(self):
    cuts, _ = _batches()
    for theta, most in ((0.75, 240), (0.1, 32)):
      sent = _sent(ppdl.ppdl(theta=theta).gradient, cuts)
      count = (sent != 0).sum((1, 2))
      self.assertLessEqual(count.max(), most)
      self.assertFalse(np.any((sent != 0) & (sent == cuts)))
      self.assertLessEqual(np.abs(sent).max(), np.float32(1e-3))
    self.assertGreater(np.mean(count == 32), 0.98)
    # The sign is a coin's: noise of 160 on what is at most .03.
    signs = np.sign(sent) * np.sign(cuts)
    self.assertLess(abs(signs[sent != 0].mean()), 4 / np.sqrt(count.sum()))

  def test_padding_is_no_entry(self):
    cuts, _ = _batches()
    mask = jnp.arange(B) < 20
    tx = ppdl.ppdl(theta=0.1).gradient
    one = lambda cut, key: tx.update(
      cut * mask[:, None], (), key=key, mask=mask
    )[0]
    sent = jax.vmap(one)(cuts[:50], jax.random.split(jax.random.key(0), 50))
    count = (sent != 0).sum((1, 2))
    self.assertEqual(count.max(), 20)  # int(.1 * 200)
    self.assertGreater(np.mean(count == 20), 0.9)


class DescribedTest(parameterized.TestCase):
  @parameterized.parameters((1, True), (2 / 3, False), (3 / 2, False))
  def test_its_noise_has_the_stated_scale(self, factor, agree):
    tx = ppdl.ppdl_described(theta=1.0, tau=0.0, scale=0.2).gradient
    noise = np.abs(_sent(tx, np.zeros((50, B, K)))).mean((1, 2))
    error = noise.std() / np.sqrt(len(noise))
    self.assertEqual(abs(noise.mean() - 0.2 * factor) < 4 * error, agree)

  def test_sends_a_random_share_of_what_exceeds_the_threshold(self):
    cuts, _ = _batches()
    g = np.asarray(cuts[0])
    tau = np.quantile(np.abs(g), 0.6)
    above = np.abs(g) > tau  # 128 of 320
    tx = ppdl.ppdl_described(theta=0.2, tau=float(tau), scale=0.0).gradient
    sent = _sent(tx, np.broadcast_to(g, (BATCHES, B, K)))
    np.testing.assert_array_equal((sent != 0).sum((1, 2)), 64)
    np.testing.assert_array_equal(sent[sent != 0], (sent * 0 + g)[sent != 0])
    often = (sent != 0).mean(0)
    self.assertFalse(np.any(often[~above]))
    error = np.sqrt(0.5 * 0.5 / BATCHES)
    self.assertLess(np.abs(often[above] - 0.5).max(), 5 * error)

  def test_sends_what_there_is_where_too_little_passes(self):
    cuts, _ = _batches()
    g = np.asarray(cuts[:1])
    tau = float(np.quantile(np.abs(g), 0.9))
    tx = ppdl.ppdl_described(theta=0.5, tau=tau, scale=0.0).gradient
    np.testing.assert_array_equal(
      _sent(tx, g), np.where(np.abs(g) > np.float32(tau), g, 0)
    )


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('ppdl', dict(theta=0.0), r'theta=0\.0 must be in \(0, 1\]'),
    ('ppdl', dict(theta=0.5, epsilon=-1), 'epsilon=-1 must be positive'),
    ('ppdl', dict(theta=0.5, max_value=0), 'max_value=0 must be positive'),
    ('ppdl', dict(theta=0.5, tau=-1), 'tau=-1 must be .* at least 0'),
    (
      'ppdl_described',
      dict(theta=2, tau=0, scale=0),
      r'ppdl_described: theta=2 must be in \(0, 1\]',
    ),
    (
      'ppdl_described',
      dict(theta=1, tau=0, scale=float('inf')),
      'scale=inf must be a finite number',
    ),
  )
  def test_bad_input_is_refused(self, name, hyper, message):
    with self.assertRaisesRegex(InputError, message):
      getattr(ppdl, name)(**hyper)


if __name__ == '__main__':
  absltest.main()
