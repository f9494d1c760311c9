"""What rows say beside their numbers."""

from absl.testing import absltest, parameterized

from labelleak.report import facts
from tests.report import sample


class AttackTest(parameterized.TestCase):
  def test_what_was_granted_beyond_is_named(self):
    known = ['lr', 'steps', 'clients', 'defense', 'model', 'labelled']
    row = sample.horizontal(known=known, args=dict(confidence='aux'))
    text = 'llbg(confidence=aux)+labelled'
    self.assertEqual(facts.attack(row, [row]), text)

  def test_what_an_attack_lacks_is_named_where_that_tells_rows_apart(self):
    known = ['lr', 'steps', 'clients', 'defense']
    blind = sample.horizontal('counts.calibrated', known=known)
    seeing = sample.horizontal('counts.calibrated')
    other = sample.horizontal()
    rows = [blind, seeing, other]
    names = [facts.attack(row, rows) for row in rows]
    self.assertEqual(names, ['calibrated-model', 'calibrated', 'llbg'])
    self.assertEqual(facts.attack(blind, [blind, other]), 'calibrated')

  def test_a_party_has_its_own_model_and_rows(self):
    known = ['party', 'pool', 'labelled']
    row = sample.vertical('completion.passive', 0.5, known=known)
    self.assertEqual(facts.attack(row, [row]), 'completion.passive+labelled')

  def test_a_party_has_to_be_told_a_defense(self):
    told = sample.vertical('a.b', 0.5, known=['pool', 'defense'])
    rows = [told, sample.vertical('a.b', 0.4, known=['pool'])]
    names = [facts.attack(row, rows) for row in rows]
    self.assertEqual(names, ['a.b+defense', 'a.b'])

  def test_arguments_that_are_specs(self):
    args = dict(labels=dict(name='counts.llbg', confidence=0.5), steps=3)
    row = sample.horizontal('reconstruction.dlg', args=args)
    text = 'dlg(labels=counts.llbg(confidence=0.5), steps=3)'
    self.assertEqual(facts.attack(row, [row]), text)


class DifferTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.5, 0.03, 0.42, 0.02, True),  # apart by 2.2 deviations
    (0.5, 0.03, 0.43, 0.02, False),  # by 1.9
    (0.5, None, 0.42, 0.02, True),
    (0.5, 0.0, 0.496, None, False),  # within rounding
    (0.5, 0.0, 0.49, None, True),
    (0.5, None, 0.1, None, False),  # nothing says how far is far
  )
  def test_two_deviations_of_a_difference(
    self, ours, std, other, other_std, far
  ):
    published = dict(mean=other, std=other_std)
    self.assertEqual(facts.differ(dict(mean=ours, std=std), published), far)


class DefenseTest(parameterized.TestCase):
  @parameterized.parameters(
    ([], 'none'),
    ([dict(name='clip', max_norm=0.2)], 'clip(max_norm=0.2)'),
    ([dict(name='coae', confusion=0.5),
      dict(name='sparsify')],
     'coae(confusion=0.5)+sparsify'),
    ([dict(name='distance_correlation', weight=0.1)],
     'distance_correlation(weight=0.1)'),
    ([dict(name='mid', weight=0.1)], 'mid(weight=0.1)'),
  )  # fmt: skip
  def test_all_that_defends(self, specs, text):
    self.assertEqual(facts.defense(specs), text)
    self.assertEqual(facts.defense(specs, '+\n').replace('\n', ''), text)


class GroupsTest(parameterized.TestCase):
  def _sizes(self, rows):
    return [len(group) for group in facts.groups(rows)]

  def test_points_settings_and_seeds_are_apart(self):
    rows = [
      sample.horizontal(),
      sample.horizontal('counts.ebi'),
      sample.horizontal(point=dict(a=1)),
      sample.horizontal(setting=dict(data='other')),
      sample.horizontal(seed=1),
      sample.horizontal('counts.ebi', point=dict(a=1)),
    ]
    self.assertEqual(self._sizes(rows), [2, 2, 1, 1])

  def test_a_model_is_a_group_unless_each_attack_trains_its_own(self):
    rows = [sample.vertical('linear.full', 1.0, m) for m in (0.9, 0.9, 0.8)]
    self.assertEqual(self._sizes(rows), [2, 1])
    rows = [sample.backdoor(main=0.9), sample.backdoor('none', main=0.95)]
    self.assertEqual(self._sizes(rows), [2])


class LeaksTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.0, {}, True),
    (0.05, {}, True),
    (0.09, {}, False),
    (0.3, {}, False),
    # Rows without a name are misses, with every renaming.
    (0.0, dict(permuted_label_accuracy=sample.summary(0.05)), False),
    (0.03, dict(label_accuracy=sample.summary(0.03, stderr=0.05)), False),
  )
  def test_recovery_below_chance(self, accuracy, metrics, leak):
    row = sample.vertical('scores.direct', accuracy, metrics=metrics)
    self.assertEqual(facts.misses_below_chance(row), leak)

  def test_one_batch_is_less_evidence_than_many(self):
    size = dict(batch_size=40)
    direct = lambda facts, **fields: sample.vertical(
      'scores.direct', 0.0, setting=facts, **fields
    )
    self.assertFalse(facts.misses_below_chance(direct(size, trials=30)))
    self.assertTrue(
      facts.misses_below_chance(direct(dict(size, draw='random'), trials=30))
    )
    observed = dict(steps=30, epochs=1)
    self.assertTrue(
      facts.misses_below_chance(direct(dict(size, observed=observed)))
    )

  def test_counts_are_not_flagged(self):
    self.assertFalse(facts.misses_below_chance(sample.horizontal(mean=0.0)))


if __name__ == '__main__':
  absltest.main()
