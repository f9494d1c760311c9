"""What a step says of labels, and a classifier that is taught by it."""

from unittest import mock

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
    def integrate_from(low):
      density = lambda v: stats.norm.pdf(u, v, sd)
      points = [min(max(u, low), low + 1)]
      return integrate.quad(density, low, low + 1, points=points)[0]

    expected = np.log(integrate_from(-1)) - np.log(integrate_from(0))
    found = float(words._odds(jnp.array(u), jnp.array(sd**2)))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)

  def test_they_are_finite_and_ordered_at_any_noise(self):
    u = jnp.linspace(-3, 3, 61)
    for noise in (1e-10, 1e-4, 1.0, 1e4):
      odds = np.asarray(words._odds(u, jnp.array(noise)))
      self.assertTrue(np.isfinite(odds).all())
      self.assertTrue((np.diff(odds) <= 1e-3).all())

  def test_what_all_entries_of_a_row_share_says_nothing(self):
    """Rows of S - Y sum to zero: what all entries share is noise, and goes."""
    rng = np.random.default_rng(0)
    cut = jnp.asarray(rng.normal(size=(6, 4)) / 6, jnp.float32)
    shared = jnp.asarray(rng.normal(size=(6, 1)), jnp.float32)
    view = vfl.View(*(None,) * 5, cut)
    np.testing.assert_allclose(
      words._weigh_cuts(view._replace(cut_grads=cut + shared)),
      words._weigh_cuts(view),
      atol=1e-3,
    )

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

  def test_what_says_nothing_teaches_nothing(self):
    x, _ = _world()
    odds = np.zeros((N, K), np.float32)
    found = surrogate.name_rows(KEY, x, jnp.asarray(odds), np.ones(N, bool))
    np.testing.assert_allclose(np.exp(found), 1 / K, rtol=1e-5)
    # One row alone is named by a network that has seen no other.
    odds[7] = 9 * np.eye(K)[0]
    only = np.arange(N) == 7
    found = surrogate.name_rows(KEY, x, jnp.asarray(odds), only)
    np.testing.assert_allclose(np.exp(found[7]), 1 / K, rtol=1e-5)


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

  def test_a_row_that_is_in_a_batch_twice_is_heard_twice(self):
    x, _ = _world()
    attack, known = history.classifier(), _known(x)
    u = np.where(np.eye(K)[[0, 1, 0]] == 1, -0.6, 0.3)
    u = np.concatenate([u, np.zeros((B - 3, K))])
    index = np.array([5, 5, 7, *range(100, 97 + B)])
    view = vfl.View(None, None, None, KEY, None, np.float32(u / B), index)
    odds = attack.observe(attack.init(known), view).odds
    np.testing.assert_allclose(odds[5, 0], odds[5, 1], atol=1e-3)
    np.testing.assert_allclose(
      odds[5, 0], odds[7, 0] + odds[7, 1], rtol=1e-3, atol=1e-3
    )

  def test_a_batch_of_padding_says_nothing(self):
    x, y = _world()
    attack, (known, memory) = history.classifier(), _observe(x, y, 1.0)
    cut = np.ones((B, K), np.float32)
    view = vfl.View(None, None, None, KEY, None, cut, np.full(B, -1))
    self.assertIs(attack.observe(memory, view), memory)
    process = history.gaussian_process()
    self.assertEmpty(process.observe(process.init(known), view).steps)

  @parameterized.parameters('gaussian_process', 'classifier')
  def test_refuses_a_pool_that_is_none(self, name):
    x, _ = _world()
    init = getattr(history, name)().init
    bad = x.copy()
    bad[3] = np.nan
    with self.assertRaisesRegex(InputError, 'row 3 of the pool, and 0 others'):
      init(_known(bad))
    for few in (x[:1], x[:, :0]):
      with self.assertRaisesRegex(InputError, 'tells nothing'):
        init(_known(few))
    with self.assertRaisesRegex(InputError, "add 'pool'"):
      init(_known(x).replace(pool=None))

  def test_steps_beyond_float32_are_refused_and_do_not_stay(self):
    x, _ = _world()
    attack, known = history.classifier(), _known(x)
    memory = attack.init(known)
    cut = np.full((B, K), 3e38, np.float32) * np.eye(K)[np.arange(B) % K]
    view = vfl.View(None, None, None, KEY, None, np.float32(cut), np.arange(B))
    with self.assertRaisesRegex(InputError, 'not finite'):
      attack.observe(memory, view)

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

  def test_a_trace_keeps_directions_of_what_was_sent(self):
    view, known, (v, _) = trained.observe(40)
    known = self._known(view, known)
    view = view._replace(index=np.arange(trained.ROWS))
    memory = trace.observe(trace.init(known), view)
    (step,) = memory.steps
    self.assertTrue(memory.sealed)
    seen = np.einsum('nkr,nk->r', step.vectors, -v)
    np.testing.assert_allclose(step.observed, seen, atol=2e-3)
    # Softmaxes that say nothing would send so much more.
    unsure = view._replace(h=0 * view.h)
    (step,) = trace.observe(trace.init(known), unsure).steps
    classes = trained.CLASSES
    all_of_it = 1 / classes  # of each of K - 1 contrasts
    gain = (step.variance / all_of_it) ** 0.5
    np.testing.assert_allclose(step.gain, gain, rtol=1e-4)

  def test_directions_beyond_memory_are_mapped_from_files(self):
    view, known, _ = trained.observe(40)
    known = self._known(view, known)
    view = view._replace(index=np.arange(trained.ROWS))
    memory = trace.observe(trace.init(known), view)
    (step,) = memory.steps
    with mock.patch.object(trace, 'HELD', 2 * step.vectors.nbytes):
      for _ in range(3):
        memory = trace.observe(memory, view)
    kinds = [isinstance(s.vectors, np.memmap) for s in memory.steps]
    self.assertEqual(kinds, [False, False, True, True])
    for other in memory.steps[1:]:
      np.testing.assert_array_equal(other.vectors, step.vectors)

  def test_steps_that_are_nothing_are_not_kept(self):
    view, known, _ = trained.observe(40)
    known = self._known(view, known)
    view = view._replace(index=np.arange(trained.ROWS))
    nothing = jax.tree.map(jnp.zeros_like, view.param_grads)
    memory = trace.observe(
      trace.init(known), view._replace(param_grads=nothing)
    )
    self.assertEmpty(memory.steps)
    # A millionth of a gradient says as much as it, and no more.
    memory = trace.observe(memory, view)
    small = jax.tree.map(lambda g: 1e-6 * g, view.param_grads)
    memory = trace.observe(memory, view._replace(param_grads=small))
    whole, little = (s.gain**2 / s.variance for s in memory.steps)
    np.testing.assert_allclose(little, whole, rtol=0.05)

  def test_refuses_views_of_other_links_and_without_parts(self):
    view, known, _ = trained.observe(40)
    known = self._known(view, known)
    view = view._replace(index=np.arange(trained.ROWS))
    memory = trace.observe(trace.init(known), view)
    clear = view._replace(cut_grads=view.h)
    with self.assertRaisesRegex(InputError, 'keep a memory of each'):
      trace.observe(memory, clear)
    for field in ('x', 'h', 'variables'):
      with self.assertRaisesRegex(InputError, f'reads {field}|lacks'):
        words.select_rows('x', view._replace(**{field: None}), known)


if __name__ == '__main__':
  absltest.main()
