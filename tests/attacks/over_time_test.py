"""Attacks over time: means by row, and what lasts of an instant."""

import dataclasses

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import attacks, base, hfl, vfl
from labelleak.attacks import over_time

KEY = jax.random.key(0)
N, B, K = 7, 3, 4


def _view(seed, index):
  rng = np.random.default_rng(seed)
  cut = jnp.float32(rng.normal(size=(B, K)))
  x = jnp.zeros((B, 2))
  key = jax.random.key(seed)
  return vfl.View(x, cut, {}, key, {}, cut, jnp.asarray(index))


def _known(**fields):
  return vfl.Known(num_classes=K, batch_size=B, **fields)


def _run(attack, views, known):
  memory = attack.init(known)
  for view in views:
    memory = attack.observe(memory, view)
  return attack.infer(KEY, memory, known)


class AverageTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.direct = attacks.load('scores.direct')
    self.average = over_time.average(self.direct)

  def test_of_one_view_it_is_the_attack_itself(self):
    view, known = _view(1, [4, 0, 6]), _known(num_rows=N)
    scores = _run(self.average, [view], known)
    expected = self.direct.infer(KEY, view, known)
    np.testing.assert_array_equal(scores[view.index], expected)
    self.assertEqual(scores.shape, (N, K))
    np.testing.assert_array_equal(scores[jnp.array([1, 2, 3, 5])], 0.0)

  def test_it_is_the_mean_of_what_was_said_of_each_row(self):
    views = [_view(s, i) for s, i in ((1, [0, 1, 2]), (2, [2, 0, 5]))]
    known = _known(num_rows=N)
    first, second = (-np.asarray(view.cut_grads) for view in views)
    scores = np.asarray(_run(self.average, views, known))
    np.testing.assert_allclose(scores[0], (first[0] + second[1]) / 2, rtol=1e-6)
    np.testing.assert_allclose(scores[2], (first[2] + second[0]) / 2, rtol=1e-6)
    np.testing.assert_allclose(scores[1], first[1], rtol=1e-6)
    np.testing.assert_allclose(scores[5], second[2], rtol=1e-6)

  def test_padding_is_of_no_row(self):
    view, known = _view(1, [5, 6, -1]), _known(num_rows=N)
    scores = _run(self.average, [view, view], known)
    rows = jnp.array([5, 6])
    np.testing.assert_allclose(scores[rows], -view.cut_grads[:2], rtol=1e-6)
    np.testing.assert_array_equal(scores[:5], 0.0)

  def test_it_is_a_scan(self):
    views = [_view(s, i) for s, i in ((1, [0, 1, 2]), (2, [2, 0, 5]))]
    known = _known(num_rows=N)
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *views)
    observe = lambda memory, view: (self.average.observe(memory, view), None)
    memory, _ = jax.lax.scan(observe, self.average.init(known), stacked)
    scanned = self.average.infer(KEY, memory, known)
    np.testing.assert_allclose(
      scanned, _run(self.average, views, known), rtol=1e-6
    )

  def test_the_attack_may_be_named(self):
    spec = dict(name='scores.direct', rule='complement')
    view, known = _view(1, [4, 0, 6]), _known(num_rows=N)
    for attack in (
      over_time.average(spec),
      attacks.load('over_time.average', attack=spec),
    ):
      scores = _run(attack, [view], known)
      np.testing.assert_array_equal(scores[view.index], view.cut_grads)
    for wrong, message in (
      ('scores.dirct', "'scores.dirct'"),
      (dict(rule='argmin'), 'lacks a name'),
      ('backdoor.backdoor', 'infers nothing'),
      (self.average, 'remembers by itself'),
    ):
      with self.assertRaisesRegex(base.InputError, message):
        over_time.average(wrong)

  def test_a_guess_is_drawn_anew_at_every_view(self):
    guess = over_time.average(attacks.load('scores.random'))
    views = [_view(seed, [0, 1, 2]) for seed in range(400)]
    scores = _run(guess, views, _known(num_rows=N))
    np.testing.assert_allclose(scores[:3], 0.5, atol=0.1)

  def test_it_needs_the_number_of_rows_and_what_the_attack_needs(self):
    with self.assertRaisesRegex(base.InputError, 'num_rows'):
      self.average.init(_known())
    cosine = attacks.load('scores.cosine')
    self.assertEqual(over_time.average(cosine).needs, cosine.needs)

  def test_what_remembers(self):
    self.assertFalse(over_time.remembers(self.direct))
    self.assertTrue(over_time.remembers(self.average))


class MeanUpdateTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.llbg = attacks.load('counts.llbg')
    self.attack = over_time.mean_update('counts.llbg')
    self.known = hfl.Known(num_classes=K, batch_size=8)

  def _view(self, bias):
    kernel = jnp.zeros((2, K))
    return hfl.View({'head': dict(kernel=kernel, bias=jnp.float32(bias))})

  def test_of_one_round_it_is_the_attack_itself(self):
    view = self._view([-0.4, 0.2, -0.1, 0.3])
    np.testing.assert_array_equal(
      _run(self.attack, [view], self.known),
      self.llbg.infer(KEY, view, self.known),
    )

  def test_it_reads_the_mean_of_all_rounds(self):
    views = [
      self._view(b) for b in ([-0.9, 0.7, 0, 0.2], [0.1, -0.3, -0.2, 0.4])
    ]
    mean = self._view([-0.4, 0.2, -0.1, 0.3])
    last = self.llbg.infer(KEY, views[-1], self.known)
    counts = _run(self.attack, views, self.known)
    np.testing.assert_array_equal(
      counts, self.llbg.infer(KEY, mean, self.known)
    )
    self.assertFalse(np.array_equal(counts, last))

  def test_the_same_examples_are_told_the_noise_of_the_mean(self):
    client = hfl.Client(clip_per_example=1.0, noise_multiplier=0.8)
    known = self._tell(
      rounds=16, defense=(('clip', 2.0), ('gaussian', 0.4)), client=client
    )
    self.assertEqual(known.defense, (('clip', 2.0), ('gaussian', 0.1)))
    self.assertEqual(known.client.noise_multiplier, 0.2)
    self.assertEqual(
      (known.clients, known.rounds, known.num_examples), (3, 1, 24)
    )

  def test_other_examples_are_told_to_be_of_more_clients(self):
    known = self._tell(rounds=4, shifting=True, defense=(('gaussian', 0.4),))
    self.assertEqual(known.defense, (('gaussian', 0.4),))
    self.assertEqual((known.clients, known.num_examples), (12, 96))
    self.assertFalse(known.shifting)

  def _tell(self, **fields):
    """Returns what an attack on the mean of all rounds is told."""
    told = []

    def infer(key, view, known):
      told.append(known)
      return jnp.zeros(K, int)

    attack = over_time.mean_update(
      base.attack(infer, name='listen', kind='horizontal')
    )
    known = hfl.Known(num_classes=K, batch_size=8, clients=3, **fields)
    view = self._view([-0.4, 0.2, -0.1, 0.3])
    _run(attack, [view] * known.rounds, known)
    return told[0]

  def test_it_is_told_the_mean_of_what_was_sent(self):
    sent = [
      {'params': {'head': dict(kernel=jnp.ones((2, K)), bias=b * jnp.ones(K))}}
      for b in (1.0, 3.0)
    ]
    view = self._view([-0.4, 0.2, -0.1, 0.3])
    views = [view._replace(variables=variables) for variables in sent]
    bias = lambda view: view.variables['params']['head']['bias'][0].astype(int)
    infer = lambda key, view, known: jnp.full(K, bias(view))
    attack = base.attack(infer, name='listen', kind='horizontal')
    counts = _run(over_time.mean_update(attack), views, self.known)
    np.testing.assert_array_equal(counts, 2)
    with self.assertRaisesRegex(base.InputError, 'view.variables has'):
      _run(over_time.mean_update(attack), [views[0], view], self.known)

  def test_rounds_that_were_not_observed(self):
    view = self._view([-0.4, 0.2, -0.1, 0.3])
    for shifting in (False, True):
      known = dataclasses.replace(self.known, rounds=3, shifting=shifting)
      with self.assertRaisesRegex(base.InputError, 'contradicts the 2 that'):
        _run(self.attack, [view, view], known)
    with self.assertRaisesRegex(base.InputError, 'use over_time.mean_update'):
      self.llbg.infer(KEY, view, known)

  def test_a_round_is_checked_when_it_is_seen(self):
    view = self._view([-0.4, 0.2, -0.1, 0.3])
    half = jax.tree.map(lambda a: a.astype(jnp.float16), view.grads)
    memory = self.attack.observe(self.attack.init(self.known), view)
    for grads, message in (
      (
        {'head': dict(kernel=jnp.zeros((2, K)), bias=jnp.ones(()))},
        'bias of sh',
      ),
      ({'head': dict(bias=view.grads['head']['bias'])}, 'lack it'),
      (jax.tree.map(lambda a: a + jnp.nan, view.grads), 'not finite'),
    ):
      with self.assertRaisesRegex(base.InputError, message):
        self.attack.observe(memory, hfl.View(grads))
    after = self.attack.observe(memory, hfl.View(half))
    self.assertEqual(after.total.grads['head']['bias'].dtype, jnp.float32)

  def test_without_a_round_there_is_no_answer(self):
    for memory in (self.attack.init(self.known), self._view([0.1] * K)):
      with self.assertRaisesRegex(base.InputError, 'observed no round'):
        self.attack.infer(KEY, memory, self.known)

  def test_each_is_for_its_kind_of_fl(self):
    with self.assertRaisesRegex(base.InputError, 'for vertical FL'):
      over_time.mean_update('scores.direct')
    with self.assertRaisesRegex(base.InputError, 'for horizontal FL'):
      over_time.average('counts.llbg')

  def test_it_needs_what_the_attack_needs(self):
    attack = over_time.mean_update(dict(name='counts.llbg', confidence='aux'))
    self.assertEqual(attack.needs, ('model', 'labelled'))

  def test_what_remembers_is_refused(self):
    with self.assertRaisesRegex(base.InputError, 'remembers by itself'):
      over_time.mean_update(self.attack)


class KnownTest(absltest.TestCase):
  def test_shifting_is_true_or_false(self):
    with self.assertRaisesRegex(base.InputError, "shifting='no' is unknown"):
      hfl.Known(num_classes=K, batch_size=8, shifting='no')

  def test_a_guess_is_of_all_examples_of_horizontal_rounds_alone(self):
    guess = attacks.load('counts.random')
    known = hfl.Known(num_classes=K, batch_size=8, rounds=3, shifting=True)
    view = hfl.View({'head': dict(bias=jnp.zeros(K))})
    self.assertEqual(guess.infer(KEY, view, known).sum(), 24)
    with self.assertRaisesRegex(base.InputError, 'horizontal'):
      guess.infer(KEY, _view(1, [0, 1, 2]), _known())


class SumCountsTest(absltest.TestCase):
  def test_each_round_draws_by_itself(self):
    infer = lambda key, view, known: jax.random.randint(key, (K,), 0, 10**6)
    attack = base.Attack(infer, kind='horizontal')
    view = hfl.View({'head': dict(bias=jnp.zeros(K))})
    known = hfl.Known(num_classes=K, batch_size=8, shifting=True)
    summed = over_time.sum_counts(attack)
    first = summed.observe(summed.init(known), view)
    both = summed.observe(first, view)
    self.assertFalse(np.array_equal(both.total - first.total, first.total))

  def test_it_is_the_sum_of_what_each_round_says(self):
    updates = [-0.9, 0.7, 0, 0.2], [0.1, -0.3, -0.2, 0.4]
    views = [hfl.View({'head': dict(bias=jnp.float32(u))}) for u in updates]
    one = hfl.Known(num_classes=K, batch_size=8)
    llbg = attacks.load('counts.llbg')
    expected = sum(llbg.infer(KEY, view, one) for view in views)
    known = dataclasses.replace(one, rounds=2, shifting=True)
    counts = _run(over_time.sum_counts('counts.llbg'), views, known)
    np.testing.assert_array_equal(counts, expected)
    self.assertEqual(counts.sum(), known.num_examples)
    with self.assertRaisesRegex(base.InputError, 'contradicts the 1 that'):
      _run(over_time.sum_counts('counts.llbg'), views[:1], known)

  def test_the_same_examples_are_not_counted_twice(self):
    known = hfl.Known(num_classes=K, batch_size=8, rounds=2)
    with self.assertRaisesRegex(base.InputError, 'shifting=True'):
      over_time.sum_counts('counts.llbg').init(known)


if __name__ == '__main__':
  absltest.main()
