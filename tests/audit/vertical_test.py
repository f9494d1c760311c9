"""Audits of logs whose labels are known."""

import json
import pathlib

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import messages
from labelleak.audit import answers, assessment, patterns, vertical
from labelleak.audit.answers import Setting
from labelleak.base import InputError
from tests.audit import parties

KEY = jax.random.key(0)


def _truth(num_classes=10):
  return dict(enumerate(parties.labels(num_classes).tolist()))


class _InFolder(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def assess(self, arrays, num_classes=10, truth=True, **fields):
    """Returns the assessment of a log, and its attempts by name."""
    path = self.folder / 'log.npz'
    np.savez(path, **arrays)
    setting = Setting(
      num_classes,
      labels=_truth(num_classes) if truth is True else truth or None,
      told=frozenset(fields),
      **fields,
    )
    result = vertical.assess(KEY, messages.read_log(path), setting)
    return result, {attempt.name: attempt for attempt in result.attempts}


class ClearTest(_InFolder):
  @parameterized.parameters(
    dict(num_classes=10),
    dict(num_classes=2),
    dict(num_classes=2, loss='sigmoid'),
    dict(num_classes=3, scale=float, lr=0.01),
  )
  def test_added_logits_give_every_label(self, num_classes, **options):
    arrays = parties.log([40, 40, 13], num_classes=num_classes, **options)
    result, attempts = self.assess(arrays, num_classes)
    self.assertEqual(attempts['direct'].accuracy, 1.0)
    self.assertEqual(attempts['direct'].confidence, 1.0)
    self.assertEqual(result.leaked, 1.0)
    self.assertEqual(attempts['direct'].counts, result.truth)
    self.assertEqual(bool(result.warnings), 'scale' in options)
    if result.warnings:
      self.assertIn('--reduction sum', result.warnings[0])
    self.assertNotIn('groups', attempts)

  def test_without_truth_nothing_is_known_and_much_is_claimed(self):
    result, attempts = self.assess(parties.log([40]), truth=False)
    self.assertIsNone(attempts['direct'].accuracy)
    self.assertIsNone(result.truth)
    self.assertEqual(result.leaked, 1.0)
    self.assertNotIn('largest class', attempts)

  def test_noise_is_warned_of_and_takes_the_claim_away(self):
    arrays = parties.log([100, 100])
    rng = np.random.default_rng(0)
    cut = arrays['cut_grads']
    noise = np.abs(cut).max() / 3 * rng.normal(size=cut.shape)
    arrays['cut_grads'] = (cut + noise).astype('f4')
    result, attempts = self.assess(arrays, truth=False)
    self.assertIsNone(result.leaked)
    self.assertIsNone(attempts['direct'].confidence)
    self.assertIn('noise', result.warnings[0])
    self.assertIn('groups', attempts)

  def test_labels_that_change_are_seen_to(self):
    rows = np.tile(np.arange(50), 2)
    arrays = parties.log([50, 50], order=rows)
    result, attempts = self.assess(arrays)
    self.assertEmpty(result.warnings)
    self.assertEqual(attempts['direct'].accuracy, 1.0)
    self.assertEqual(result.num_rows, 50)
    cut = arrays['cut_grads']  # the second visit of 10 rows has another label
    cut[50:60] = np.roll(cut[50:60], 1, 1)
    result, attempts = self.assess(arrays)
    self.assertIn('20.0% of the rows bear another label', result.warnings[0])
    self.assertAlmostEqual(attempts['direct'].confidence, 0.9)

  @parameterized.parameters((10, 16), (2, 8))
  def test_below_a_model_classes_have_no_names(self, num_classes, width):
    arrays = parties.log([100, 100], num_classes=num_classes, width=width, lr=0)
    result, attempts = self.assess(arrays, num_classes, truth=False)
    self.assertIsNone(attempts['groups'].confidence)
    self.assertFalse(attempts['groups'].named)
    self.assertIsNone(result.leaked)
    told = {a.field: (a.value, a.told) for a in result.assumed}
    self.assertEqual(told['top'], ('model', False))
    result, attempts = self.assess(arrays, num_classes)
    self.assertIsNone(attempts['groups'].accuracy)
    self.assertGreater(attempts['groups'].renamed, 0.8)
    result, attempts = self.assess(arrays, num_classes, granted=1)
    self.assertGreater(attempts['similarity'].accuracy, 0.8)
    self.assertIn('1 a class', attempts['similarity'].granted[0])
    self.assertEqual('cosine' in attempts, num_classes == 2)
    self.assertAlmostEqual(
      result.leaked,
      max(a.accuracy for a in result.attempts[2:] if a.accuracy is not None),
    )

  def test_the_residue_of_fate_is_certain_at_a_start_of_zero(self):
    arrays = parties.log([60], num_classes=2, loss='taylor', start=0)
    result, attempts = self.assess(arrays, 2, loss='taylor')
    self.assertEqual(attempts['direct'].confidence, 1.0)
    self.assertEqual(attempts['direct'].accuracy, 1.0)
    self.assertEmpty(result.warnings)
    arrays = parties.log([60] * 4, num_classes=2, loss='taylor', lr=0.1)
    result, attempts = self.assess(arrays, 2, loss='taylor')
    self.assertIsNone(attempts['direct'].confidence)
    self.assertGreater(attempts['direct'].accuracy, 0.9)
    self.assertIn('within 2', result.warnings[0])

  def test_only_the_first_steps_may_be_attacked(self):
    result, _ = self.assess(parties.log([20] * 4), steps=2)
    self.assertEqual(result.num_rows, 40)
    self.assertEqual(result.source.steps, 2)
    self.assertIn('first 2 of 4', result.source.notes[-1])

  @parameterized.parameters(
    (dict(num_classes=3), dict(top='sum'), 'width 10'),
    (dict(num_classes=12), {}, 'set --classes 10'),
    (dict(sealed=True), {}, 'no param_grads/'),
    (dict(granted=1, truth=False), {}, '--labels'),
  )
  def test_what_does_not_fit_is_refused(self, options, fields, words):
    with self.assertRaisesRegex(InputError, words):
      self.assess(parties.log([8]), **options, **fields)

  @parameterized.parameters(
    ({i: 0 for i in range(7)}, 'none for 1 of 8 rows, such as row 7'),
    ({i: i + 5 for i in range(8)}, 'class 12'),
  )
  def test_labels_that_are_not_of_the_rows_are_refused(self, labels, words):
    with self.assertRaisesRegex(InputError, words):
      self.assess(parties.log([8]), truth=labels)


class SealedTest(_InFolder):
  def test_a_linear_bottom_gives_labels_away(self):
    arrays = parties.log(
      [24, 24], sealed=True, num_classes=3, scale=float, lr=0.002
    )
    result, attempts = self.assess(arrays, 3)
    self.assertIn('taken for a sum', result.source.notes[-1])
    posterior = attempts['expectation_propagation']
    self.assertEqual(posterior.accuracy, 1.0)
    self.assertGreater(posterior.confidence, 0.95)
    self.assertIn('its own model and inputs', posterior.granted)
    self.assertGreater(attempts['last_layer'].accuracy, 0.9)
    self.assertEmpty(result.warnings)

  def test_one_logit_is_read_as_two(self):
    arrays = parties.log(
      [20, 20], num_classes=2, loss='sigmoid', sealed=True, lr=0.2
    )
    result, attempts = self.assess(arrays, 2, reduction='mean')
    self.assertGreater(attempts['last_layer'].accuracy, 0.9)
    self.assertGreater(attempts['expectation_propagation'].accuracy, 0.9)
    self.assertIn('fc.weight', result.source.notes[-1])

  def test_one_logit_without_h_and_loss_is_a_sigmoids(self):
    arrays = parties.log([20, 20], num_classes=2, loss='sigmoid', sealed=True)
    del arrays['h']
    _, attempts = self.assess(arrays, 2)
    self.assertGreater(attempts['residues'].accuracy, 0.9)

  def test_residues_are_read_past_the_rank(self):
    """FATE's loss: 96 rows of 52 columns, of which some are empty."""
    arrays = parties.log(
      [96],
      num_classes=2,
      loss='taylor',
      sealed=True,
      features=52,
      start=0.5,
    )
    _, attempts = self.assess(arrays, 2, loss='taylor', reduction='mean')
    self.assertGreater(attempts['residues'].accuracy, 0.95)
    self.assertGreater(
      attempts['residues'].accuracy, attempts['last_layer'].accuracy
    )

  def test_exact_solutions_are_claimed_and_noisy_ones_are_not(self):
    arrays = parties.log(
      [20, 20], num_classes=2, loss='sigmoid', sealed=True, lr=0.02
    )
    result, attempts = self.assess(arrays, 2, reduction='mean')
    self.assertEqual(attempts['last_layer'].accuracy, 1.0)
    self.assertEqual(attempts['last_layer'].confidence, 1.0)
    self.assertEqual(result.leaked, 1.0)
    grads = arrays['param_grads/fc.weight']
    noise = np.random.default_rng(0).normal(size=grads.shape)
    arrays['param_grads/fc.weight'] = np.float32(grads + grads.std() * noise)
    result, attempts = self.assess(arrays, 2, reduction='mean')
    self.assertIsNone(attempts['last_layer'].confidence)
    # Where labels do not explain the gradients, nobody claims any.
    self.assertIsNone(attempts['expectation_propagation'].confidence)
    self.assertIsNone(attempts['residues'].confidence)

  def test_gradients_of_something_else_are_not_believed(self):
    arrays = parties.log([24, 24], sealed=True, num_classes=3)
    rng = np.random.default_rng(0)
    grads = arrays['param_grads/fc.weight']
    arrays['param_grads/fc.weight'] = (
      3 * np.abs(grads).max() * rng.normal(size=grads.shape).astype('f4')
    )
    result, attempts = self.assess(arrays, 3, truth=False, reduction='mean')
    self.assertIsNone(attempts['expectation_propagation'].confidence)
    self.assertIsNone(result.leaked)
    self.assertIn('unexplained', result.warnings[0])

  @parameterized.parameters(
    (dict(num_classes=4), 'no logits of 4 classes'),
    (dict(top='model'), 'no attack'),
    (dict(activation='gelu'), 'activation='),
    (dict(bottom=dict(name='mlp.nothing')), 'mlp.nothing'),
    (dict(bottom=dict(name='cnn.cnn')), 'takes no x'),
    (dict(bottom=dict(name='mlp.mlp2')), 'lacks'),
    (dict(bottom=dict(name='mlp.mlp2', widht=3)), 'widht'),
  )
  def test_what_no_attack_reads_is_refused(self, fields, words):
    arrays = parties.log([8], sealed=True, num_classes=3)
    with self.assertRaisesRegex(InputError, words):
      self.assess(arrays, **dict(num_classes=3) | fields)


class AnswersTest(parameterized.TestCase):
  def test_lines_are_averaged_by_row(self):
    steps = [
      messages.Step(i, np.array(rows), None, None, None, {}, {})
      for i, rows in enumerate(([7, 3], [3, 9]))
    ]
    rows = answers.find_rows(tuple(steps))
    np.testing.assert_array_equal(rows.ids, [3, 7, 9])
    np.testing.assert_array_equal(rows.first, [1, 0, 3])
    lines = np.array([[1.0, 0], [2, 0], [4, 2], [5, 5]])
    np.testing.assert_array_equal(rows.average(lines), [[3, 1], [1, 0], [5, 5]])
    names = np.array([0, 1, 2, 1])
    fits = np.array([True, True, True, False])
    trust = answers.pool_trust(rows, names, fits)
    np.testing.assert_array_equal(trust, [0.5, 1.0, np.nan])
    self.assertIsNone(answers.pool_trust(rows, names, ~fits))


class PatternsTest(parameterized.TestCase):
  def _lines(self, size=50, num_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    odds = rng.dirichlet(np.ones(num_classes), size)
    y = np.eye(num_classes)[rng.integers(num_classes, size=size)]
    return odds, y, np.full(size, size), rng

  def _check(self, cut, sizes, **fields):
    setting = Setting(4, told=frozenset(fields), **fields)
    fits, warnings = patterns.check(cut, sizes, setting)
    return fits.mean(), ' '.join(warnings)

  def test_each_cause_is_named(self):
    odds, y, sizes, rng = self._lines()
    cut = (odds - y) / 50
    self.assertEqual(self._check(cut, sizes), (1.0, ''))
    share, text = self._check(50 * cut, sizes)
    self.assertIn('--reduction sum', text)
    self.assertEqual(share, 1.0)
    self.assertEqual(self._check(50 * cut, sizes, reduction='sum'), (1.0, ''))
    share, text = self._check(50 * cut, sizes, reduction='mean')
    self.assertLess(share, 0.5)
    share, text = self._check(900 * cut, sizes)
    self.assertIn('class weights', text)
    self.assertLess(share, 0.5)
    smooth = (odds - 0.9 * y - 0.025) / 50
    share, text = self._check(smooth, sizes)
    self.assertIn('soft', text)
    self.assertIn('noise', self._check(rng.normal(size=(50, 4)), sizes)[1])
    apart = (rng.uniform(size=(50, 4)) - y) / 50
    share, text = self._check(apart, sizes)
    self.assertIn('--loss sigmoid', text)
    self.assertEqual(share, 0.0)
    self.assertEqual(self._check(apart, sizes, loss='sigmoid'), (1.0, ''))

  def test_rounding_is_no_noise(self):
    odds, y, sizes, _ = self._lines(400)
    cut = jnp.asarray((odds - y) / 400, jnp.bfloat16)
    share, text = self._check(np.float32(cut), sizes)
    self.assertGreater(share, 0.99)
    self.assertEmpty(text)


class JsonTest(_InFolder):
  def test_json_gives_back_what_it_was_made_of(self):
    for truth in (True, False):
      result, _ = self.assess(parties.log([20]), truth=truth)
      text = assessment.to_json(result)
      self.assertEqual(assessment.from_json(text), result)
      self.assertEqual(json.loads(text)['kind'], 'vertical')


if __name__ == '__main__':
  absltest.main()
