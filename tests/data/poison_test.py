"""Triggers mark what they say, and poisoned batches pair what they say."""

from absl.testing import absltest, parameterized
import hypothesis
from hypothesis import strategies as st
import numpy as np

from labelleak import base, data, registry
from labelleak.data import plans, poison, triggers

IMAGE = (8, 6, 3)
N, SIZE = 100, 16
Y = np.arange(N) % 5


def _trigger(name, shape, **hyper):
  return registry.load('data', f'triggers.{name}', shape=shape, **hyper)


def _choose(form='paired', target=2, **hyper):
  options = dict(count=20, targets=4, seed=0) | hyper
  return poison.choose(Y, target, form=form, **options)


def _plan(chosen, numbers, seed=3):
  numbers = np.asarray(numbers)
  extra = poison.num_appended(chosen, SIZE, int(numbers.max()), seed=seed)
  return poison.batches(chosen, SIZE, numbers, extra, seed=seed)


class TriggerTest(parameterized.TestCase):
  def test_pixels_are_rows_and_columns(self):
    at = ((7, 0), (2, 5))
    trigger = _trigger('pixels', IMAGE, at=at, value=0.5)
    x = np.random.default_rng(0).normal(size=(3, *IMAGE)).astype(np.float32)
    before = x.copy()
    out = trigger.place(x)
    np.testing.assert_array_equal(x, before)
    changed = {tuple(place[1:3]) for place in np.argwhere(out != x)}
    self.assertEqual(changed, set(at))
    np.testing.assert_array_equal(out[:, 7, 0], 0.5)
    np.testing.assert_array_equal(trigger.place(out), out)

  def test_each_pixel_may_have_a_color(self):
    value = ((0, 1, 0), (1, 0, 1))
    trigger = _trigger('pixels', IMAGE, at=((0, 0), (1, 2)), value=value)
    out = trigger.place(np.full((2, *IMAGE), 9.0, np.float32))
    np.testing.assert_array_equal(out[1, 0, 0], value[0])
    np.testing.assert_array_equal(out[0, 1, 2], value[1])
    self.assertEqual((out != 9).sum(), 2 * 6)

  def test_a_feature_is_set_and_a_natural_one_found(self):
    x = np.zeros((4, 7), np.float32)
    x[[1, 3], -1] = 2.0
    out = _trigger('feature', (7,), at=0, value=0.1).place(x)
    np.testing.assert_allclose(out[:, 0], 0.1)
    np.testing.assert_array_equal(out[:, 1:], x[:, 1:])
    natural = _trigger('natural', (7,), at=6)
    np.testing.assert_array_equal(natural.place(x), x)
    np.testing.assert_array_equal(natural.detect(x), [0, 1, 0, 1])

  def test_marked_rows_bear_it_and_no_others(self):
    digits = data.load('digits', split='train', normalise=False)
    trigger = _trigger('pixels', digits.shape, at=((7, 7),))
    rows = np.array([3, 8])
    marked = triggers.mark(digits, trigger, rows)
    index = np.array([8, 1, 3, 8, 0])
    np.testing.assert_array_equal(
      marked.take(index)[:, 7, 7, 0], np.isin(index, rows)
    )
    np.testing.assert_array_equal(
      marked.take(index)[[1, 4]], digits.take(index[[1, 4]])
    )
    np.testing.assert_array_equal(digits.take(rows)[:, 7, 7, 0], 0)
    self.assertTrue(triggers.bearers(digits, trigger).all())

  @parameterized.parameters(
    ('pixels', IMAGE, dict(at=((8, 0),)), r'within \(8, 6\)'),
    ('pixels', IMAGE, dict(at=((-1, 0),)), r'within \(8, 6\)'),
    ('pixels', IMAGE, dict(at=()), '0 pixels of'),
    ('pixels', (7,), dict(at=((0, 0),)), r'not 1 pixels of \(7,\)'),
    (
      'pixels',
      IMAGE,
      dict(at=((0, 0),), value=(1, 0)),
      r'value\[0\]=1 must be',
    ),
    ('feature', IMAGE, dict(at=0, value=1.0), 'column of a table'),
    ('natural', (7,), dict(at=7), 'at=7 is none'),
  )
  def test_what_does_not_fit_is_refused(self, name, shape, hyper, message):
    with self.assertRaisesRegex(base.InputError, message):
      _trigger(name, shape, **hyper)

  def test_a_trigger_that_nobody_bears_is_refused(self):
    cancer = data.load('breast_cancer', normalise=False)
    trigger = _trigger('natural', cancer.shape, at=0, above=1e6)
    with self.assertRaisesRegex(base.InputError, 'no row of breast_cancer'):
      triggers.bearers(cancer, trigger)


class ChooseTest(parameterized.TestCase):
  def test_rows_are_drawn_without_the_targets(self):
    chosen = _choose(targets=6)
    self.assertLen(np.unique(chosen.rows), 20)
    np.testing.assert_array_equal(Y[chosen.targets], 2)
    self.assertLen(np.unique(chosen.targets), 6)
    self.assertEmpty(np.intersect1d(chosen.rows, chosen.targets))
    # Of all classes, since the attacker knows no label.
    self.assertGreater(len(np.unique(Y[chosen.rows])), 2)
    again, other = _choose(targets=6), _choose(targets=6, seed=1)
    np.testing.assert_array_equal(chosen.rows, again.rows)
    self.assertFalse(np.array_equal(chosen.rows, other.rows))

  def test_only_bearers_of_a_natural_trigger_are_poisoned(self):
    bearers = np.arange(N) % 3 == 0
    chosen = _choose(count=None, bearers=bearers)
    expected = np.setdiff1d(np.flatnonzero(bearers), chosen.targets)
    np.testing.assert_array_equal(chosen.rows, expected)

  @parameterized.parameters(
    (dict(form='pared'), "pared.* is unknown; use one of: 'paired'"),
    (dict(targets=0), r'targets=0 must be a whole number in 1\.\.20'),
    (dict(targets=21), r'targets=21 must be'),
    (dict(count=0), r'count=0 must be a whole number in 1\.\.96'),
    (dict(count=97), r'count=97 must be a whole number in 1\.\.96'),
  )
  def test_numbers_that_do_not_fit_are_refused(self, hyper, message):
    with self.assertRaisesRegex(base.InputError, message):
      _choose(**hyper)


class BatchesTest(parameterized.TestCase):
  @hypothesis.settings(deadline=None, max_examples=40)
  @hypothesis.given(
    st.sampled_from(poison.FORMS),
    st.integers(1, 60),
    st.integers(1, 20),
    st.integers(0, 5),
    st.booleans(),
  )
  def test_partners_are_of_the_target_class(
    self, form, count, targets, seed, shuffle
  ):
    chosen = _choose(form, count=count, targets=targets, seed=seed)
    plan = _plan(chosen, np.arange(1, 15), seed=seed if shuffle else None)
    for index, mask, pairs in zip(*plan):
      places = np.flatnonzero(pairs >= 0)
      partners = pairs[places]
      self.assertTrue(np.isin(index[places], chosen.rows).all())
      self.assertTrue(np.isin(index[partners], chosen.targets).all())
      self.assertTrue(mask[places].all() and mask[partners].all())
      self.assertLen(np.unique(partners), len(partners))
      self.assertEmpty(np.intersect1d(places, partners))
      fallen = np.isin(index, chosen.rows) & (mask > 0)
      if form == 'paired':
        self.assertEqual(fallen.sum(), len(places))
      elif form == 'appended':
        np.testing.assert_array_equal(places, [SIZE])
        np.testing.assert_array_equal(partners, [SIZE + 1])
        self.assertEqual(fallen.sum(), 1)
      elif form == 'fallen':
        there = (np.isin(index, chosen.targets) & (mask > 0)).sum()
        self.assertEqual(len(places), min(fallen.sum(), there))
      else:
        self.assertEmpty(places)

  @parameterized.parameters(*poison.FORMS)
  def test_an_epoch_is_that_of_the_clean_training(self, form):
    chosen = _choose(form)
    rows = poison.clean_rows(chosen)
    steps = np.arange(-(-len(rows) // SIZE)) + 1
    plan = _plan(chosen, steps)
    index, mask = plans.epochs(len(rows), SIZE, steps, seed=3)
    np.testing.assert_array_equal(plan.index[:, :SIZE], rows[index])
    np.testing.assert_array_equal(plan.mask[:, :SIZE], mask)
    seen = plan.index[:, :SIZE][plan.mask[:, :SIZE] > 0]
    np.testing.assert_array_equal(np.sort(seen), rows)
    left = np.setdiff1d(np.arange(N), rows)
    expected = chosen.rows if form == 'appended' else []
    np.testing.assert_array_equal(left, expected)

  @parameterized.parameters(*poison.FORMS)
  def test_a_step_does_not_depend_on_its_neighbours(self, form):
    chosen = _choose(form)
    extra = poison.num_appended(chosen, SIZE, 14, seed=3)
    numbers = np.arange(14) + 1
    whole = poison.batches(chosen, SIZE, numbers, extra, seed=3)
    alone = poison.batches(chosen, SIZE, [9], extra, seed=3)
    for a, b in zip(whole, alone):
      np.testing.assert_array_equal(a[8], b[0])

  def test_the_width_is_what_the_fullest_batch_needs(self):
    chosen = _choose(count=30)
    extra = poison.num_appended(chosen, SIZE, 14, seed=3)
    plan = _plan(chosen, np.arange(1, 15))
    self.assertEqual(extra, int((plan.pairs >= 0).sum(-1).max()))
    self.assertEqual(plan.index.shape, (14, SIZE + extra))
    self.assertEqual(poison.num_appended(_choose('alone'), SIZE, 14, seed=3), 0)


if __name__ == '__main__':
  absltest.main()
