"""What a step says of labels, and a classifier that is taught by it."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

from labelleak import vfl
from labelleak.attacks import history
from labelleak.attacks.history import surrogate, trace, words
from labelleak.base import InputError, Pool
from tests.attacks.linear import trained

KEY = jax.random.key(0)
N, B, K = 480, 60, 3


def _world(seed=0, apart=2.0):
  """Returns features [N, 2] of classes that overlap a little, labels [N]."""
  rng = np.random.default_rng(seed)
  y = rng.integers(0, K, N)
  x = apart * np.eye(K)[y][:, :2] + rng.normal(size=(N, 2)) * 0.5
  return np.float32(x), y


def _known(x):
  pool = Pool(lambda index: x[index], len(x))
  return vfl.Known(num_classes=K, batch_size=B, num_rows=len(x), pool=pool)


def _observe(x, y, noise, *, last=N, seed=1):
  """Returns known and memory after an epoch of the first `last` rows."""
  rng = np.random.default_rng(seed)
  attack, known = history.classifier(), _known(x)
  memory = attack.init(known)
  for rows in np.arange(last).reshape(-1, B):
    u = 1 / K - np.eye(K)[y[rows]] + noise * rng.normal(size=(B, K))
    view = vfl.View(None, None, None, KEY, None, np.float32(u / B), rows)
    memory = attack.observe(memory, view)
  return known, memory


def _accuracy(scores, y):
  return (np.asarray(scores).argmax(-1) == y).mean()


class OddsTest(parameterized.TestCase):
  @parameterized.product(u=(-1.5, -0.3, 0.0, 0.02, 0.7), sd=(0.05, 0.5, 5.0))
  def test_they_are_those_of_uniform_softmaxes_under_noise(self, u, sd):
    def seen(low):
      density = lambda v: stats.norm.pdf(u, v, sd)
      points = [min(max(u, low), low + 1)]
      return integrate.quad(density, low, low + 1, points=points)[0]

    expected = np.log(seen(-1)) - np.log(seen(0))
    found = float(words._odds(jnp.array(u), jnp.array(sd**2)))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)

  def test_they_are_finite_and_ordered_at_any_noise(self):
    u = jnp.linspace(-3, 3, 61)
    for noise in (1e-10, 1e-4, 1.0, 1e4):
      odds = np.asarray(words._odds(u, jnp.array(noise)))
      self.assertTrue(np.isfinite(odds).all())
      self.assertTrue((np.diff(odds) <= 1e-3).all())

  def test_noise_is_told_by_what_softmaxes_leave(self):
    x, y = _world()
    sure, unsure = (
      _observe(x, y, noise, last=B)[1].odds[:B].std(1).mean()
      for noise in (0.0, 3.0)
    )
    self.assertGreater(sure, 3.0)
    self.assertBetween(unsure, 0.05, 0.5)


class SurrogateTest(parameterized.TestCase):
  def test_it_learns_from_weak_words_and_does_not_see_its_own(self):
    x, y = _world()
    rng = np.random.default_rng(0)
    odds = np.float32(0.7 * np.eye(K)[y] + rng.normal(size=(N, K)) * 0.7)
    self.assertLess(_accuracy(odds, y), 0.7)
    seen = np.ones(N, bool)
    found = surrogate.name_rows(KEY, x, jnp.asarray(odds), seen)
    self.assertGreater(_accuracy(found, y), 0.85)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-5)
    # What a step says of a row alone turns it into another's, not its own.
    lie = odds.copy()
    lie[0] = 9.0 * np.eye(K)[(y[0] + 1) % K]
    again = surrogate.name_rows(KEY, x, jnp.asarray(lie), seen)
    self.assertEqual(found[0].argmax(), again[0].argmax())

  def test_rows_that_nothing_was_said_of_are_named_and_teach_nothing(self):
    x, y = _world()
    seen = np.arange(N) < 300
    odds = np.float32(np.where(seen[:, None], 5 * np.eye(K)[y], 0.0))
    found = surrogate.name_rows(KEY, x, jnp.asarray(odds), seen)
    self.assertGreater(_accuracy(found[300:], y[300:]), 0.9)
    wild = np.where(seen[:, None], odds, 99.0 * np.eye(K)[0])
    same = surrogate.name_rows(KEY, x, jnp.asarray(wild, jnp.float32), seen)
    np.testing.assert_allclose(found, same, atol=1e-5)


class ClassifierTest(parameterized.TestCase):
  def test_it_names_what_a_step_cannot_and_rows_of_no_step(self):
    x, y = _world()
    known, memory = _observe(x, y, 1.0, last=420)
    scores = history.classifier().infer(KEY, memory, known)
    self.assertEqual(memory.visits, 420)
    alone = _accuracy(memory.odds[:420], y[:420])
    self.assertLess(alone, 0.75)
    self.assertGreater(_accuracy(scores[:420], y[:420]), alone + 0.15)
    self.assertGreater(_accuracy(scores[420:], y[420:]), 0.85)

  def test_without_noise_every_label_is_read(self):
    x, y = _world(apart=0.0)
    known, memory = _observe(x, y, 0.0)
    scores = history.classifier().infer(KEY, memory, known)
    self.assertEqual(_accuracy(scores, y), 1.0)

  def test_features_that_tell_nothing_add_nothing(self):
    x, y = _world(apart=0.0)
    known, memory = _observe(x, y, 1.0)
    scores = history.classifier().infer(KEY, memory, known)
    alone = _accuracy(memory.odds, y)
    self.assertBetween(_accuracy(scores, y), alone - 0.06, alone + 0.06)

  def test_it_is_taught_after_four_batches_and_then_ever_more_seldom(self):
    x, y = _world()
    taught = [
      _observe(x, y, 1.0, last=last)[1].taught for last in (180, 240, 300, 360)
    ]
    self.assertEqual(taught, [0, 240, 240, 360])

  def test_refuses_to_answer_without_a_step(self):
    x, _ = _world()
    attack, known = history.classifier(), _known(x)
    with self.assertRaisesRegex(InputError, 'no step'):
      attack.infer(KEY, attack.init(known), known)


class SealedTest(parameterized.TestCase):
  """A step of a trained model, whose rows are a data set."""

  def _known(self, view, known):
    x = np.asarray(view.x)
    pool = Pool(lambda index: x[index], len(x))
    return known.replace(pool=pool, num_rows=len(x))

  def test_a_sealed_step_is_read_from_own_gradients(self):
    view, known, (_, labels) = trained.observe(14)
    known = self._known(view, known)
    view = view._replace(index=np.arange(trained.ROWS))
    attack = history.classifier()
    good = np.log(0.8 * np.eye(trained.CLASSES)[labels] + 0.04)
    memory = attack.init(known)._replace(log_prior=np.float32(good))
    memory = attack.observe(memory, view)
    both = memory.odds + memory.log_prior
    self.assertGreater(trained.accuracy(both, labels), 0.97)
    # Odds hold what the equations say, and not the prior.
    self.assertLess(trained.accuracy(memory.odds, labels), 0.97)

  def test_padding_is_no_row(self):
    view, known, (v, _) = trained.observe(40)
    known = self._known(view, known)
    index = np.where(np.arange(trained.ROWS) < 90, np.arange(trained.ROWS), -1)
    rows, part = words.select_rows('x', view._replace(index=index), known)
    np.testing.assert_array_equal(rows, np.arange(90))
    self.assertLen(part.x, 90)
    self.assertLen(part.h, 90)
    self.assertEqual(v.shape[0], trained.ROWS)

  def test_a_trace_keeps_what_least_squares_say(self):
    view, known, (v, _) = trained.observe(40)
    known = self._known(view, known)
    view = view._replace(index=np.arange(trained.ROWS))
    memory = trace.observe(trace.init(known), view)
    (step,) = memory.steps
    self.assertTrue(memory.sealed)
    self.assertGreater(
      np.corrcoef(step.evidence.ravel(), -v.ravel())[0, 1], 0.9
    )
    self.assertBetween(step.precision * v.var(), 0.5, 2.0)
    # Own softmaxes that are sure leave little doubt.
    self.assertBetween(step.doubt, 0.0, 0.6)
    unsure = view._replace(h=0 * view.h)
    (step,) = trace.observe(trace.init(known), unsure).steps
    np.testing.assert_allclose(step.doubt, 1.0, rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
