"""Labels under known laws of noise, against integrals and simulations."""

from absl.testing import absltest, parameterized
import jax
import numpy as np
from scipy import integrate

from labelleak import defenses, vfl
from labelleak.attacks import history
from labelleak.attacks.history import laws, trace
from labelleak.base import InputError, Pool

B, K = 64, 5


def _known(*defense):
  return vfl.Known(num_classes=K, batch_size=B, defense=defense)


def _draw(defense, seed=0, num=B):
  """Returns cut gradients times their number of even softmaxes, and labels."""
  rng = np.random.default_rng(seed)
  y = rng.integers(0, K, num)
  relabel = lambda y: (1 / K - y) / num
  kwargs = dict(name=defense[0], **defense[1])
  tx = defenses.build((kwargs,)).gradient
  one_hot = np.float32(np.eye(K)[y])
  cut = relabel(one_hot)
  sent, _ = tx.update(
    cut,
    tx.init(cut),
    key=jax.random.key(seed),
    labels=one_hot,
    relabel=relabel,
    mask=np.ones(num),
  )
  return num * np.asarray(sent), y


def _log_integral(ends, rate):
  """Returns log of the integral over x of exp(-rate sum_j |x - ends_j|)."""
  density = lambda x: np.exp(-rate * np.abs(x - ends).sum())
  points = np.unique(ends)
  whole, _ = integrate.quad(density, -50, 50, limit=400, points=points)
  return np.log(whole)


class LawsTest(parameterized.TestCase):
  @parameterized.parameters(0.3, 2.0)
  def test_odds_under_laplace_noise_are_those_of_its_density(self, scale):
    u = np.random.default_rng(0).normal(size=(B, K))
    log_density = lambda noise: -np.abs(noise).sum(-1) / scale
    want = [log_density(u - (1 / K - label)) for label in np.eye(K)]
    want = np.stack(want, 1)
    got = laws.make_read(_known(('laplace', scale / B)))(u)
    want -= want.mean(1, keepdims=True)
    ratio = (got * want).sum() / np.square(want).sum()
    np.testing.assert_allclose(got, ratio * want, atol=1e-5)
    self.assertGreater(ratio, 0)

  @parameterized.parameters(0.5, 3.0)
  def test_perturbed_odds_are_those_of_all_weights_that_send_it(self, epsilon):
    """U = S - Y + sum_c w_c (S - e_c): one is free, U says the others."""
    u = np.random.default_rng(1).normal(size=(4, K))
    u -= u.mean(1, keepdims=True)
    # w = x - U - Y: of each x one w, whose sum agrees.
    want = [
      [_log_integral(row + label, epsilon / 2) for label in np.eye(K)]
      for row in u
    ]
    want = np.array(want)
    want -= want.mean(1, keepdims=True)
    got = laws.make_read(_known(('grad_perturb', epsilon)))(u)
    ratio = (got * want).sum() / np.square(want).sum()
    np.testing.assert_allclose(got, ratio * want, atol=1e-4)
    self.assertGreater(ratio, 0)

  @parameterized.parameters(
    (('laplace', dict(scale=0.02)),), (('grad_perturb', dict(epsilon=1.0)),)
  )
  def test_what_is_read_is_the_label_in_the_mean_and_tells_more(self, defense):
    u, y = _draw(defense, num=8000)
    (strength,) = defense[1].values()
    # The scale of Laplace noise is that of B rows.
    if defense[0] == 'laplace':
      u = (u - (1 / K - np.eye(K)[y])) * B / 8000 + (1 / K - np.eye(K)[y])
    law = laws.make_read(_known((defense[0], strength)))
    evidence = np.concatenate([law(part) for part in u.reshape(-1, B, K)])
    truth = np.eye(K)[y] - 1 / K
    slope = (evidence * truth).sum() / np.square(truth).sum()
    self.assertAlmostEqual(slope, 1.0, delta=0.1)
    left = lambda e: np.square(e - truth).mean()
    raw = -u + u.mean(1, keepdims=True)
    self.assertLess(left(evidence), 0.85 * left(raw))
    hits = (evidence.argmax(1) == y).mean(), (raw.argmax(1) == y).mean()
    self.assertGreater(hits[0], hits[1] - 0.01)

  @parameterized.parameters(0.5, 3.0, 40.0)
  def test_the_slope_of_laplace_odds_is_that_of_draws(self, scale):
    u = np.random.default_rng(3).laplace(scale=scale, size=(100_000, 3)) + 1 / 3
    odds = laws._weigh_laplace(u - np.eye(3)[0], scale)
    odds -= laws._weigh_laplace(u, scale)
    want = (odds[:, 0] - odds[:, 1:].mean(1)).mean()
    np.testing.assert_allclose(laws._laplace_slope(scale, 3), want, rtol=0.1)

  @parameterized.product(classes=(2, 10, 60), epsilon=(0.01, 1.0, 10.0))
  def test_the_slope_of_perturbed_odds_is_never_lost(self, classes, epsilon):
    slope = laws._perturbed_slope(epsilon, classes)
    # Of Gaussian noise of that variance it is the inverse of the variance.
    self.assertBetween(slope * 8 / epsilon**2, 0.4 * min(1, 4 / epsilon), 4.0)

  @parameterized.parameters(
    ((),),
    ((('gaussian', 0.1),),),
    ((('laplace', 0.0),),),
    ((('laplace', 0.1), ('sparsify', 0.9)),),
  )
  def test_other_defenses_are_read_as_they_stand(self, defense):
    u = np.random.default_rng(2).normal(size=(B, K))
    expected = -u + u.mean(1, keepdims=True)
    np.testing.assert_allclose(laws.make_read(_known(*defense))(u), expected)
    free = vfl.Known(num_classes=K, batch_size=B)
    np.testing.assert_allclose(laws.make_read(free)(u), expected)

  def test_ends_that_meet_are_integrated(self):
    ends = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 2.0]])
    want = [_log_integral(row, 0.5) for row in ends]
    np.testing.assert_allclose(laws._integrate(ends, 0.5), want, atol=1e-6)

  def test_a_trace_reads_by_the_law_that_was_granted(self):
    u, _ = _draw(('laplace', dict(scale=0.02)))
    x = np.zeros((B, 2), np.float32)
    pool = Pool(lambda index: x[index], B)
    view = vfl.View(
      None, None, None, jax.random.key(0), None, np.float32(u / B), np.arange(B)
    )
    for defense in ((), (('laplace', 0.02),)):
      known = _known(*defense).replace(pool=pool, num_rows=B)
      attack = history.gaussian_process()
      memory = attack.observe(attack.init(known), view)
      (step,) = trace.read(memory).steps
      expected = laws.make_read(known)(u)
      np.testing.assert_allclose(step.evidence, expected, atol=1e-4)
    self.assertIsInstance(attack.init(known), trace.Trace)

  @parameterized.parameters(
    ((('laplce', 0.1),), 'laplce'),
    ((('laplace', -1.0),), 'laplace'),
    (dict(laplace=0.1), 'pairs'),
  )
  def test_known_refuses_what_is_no_defense(self, defense, says):
    with self.assertRaisesRegex(InputError, says):
      vfl.Known(num_classes=K, batch_size=B, defense=defense)


if __name__ == '__main__':
  absltest.main()
