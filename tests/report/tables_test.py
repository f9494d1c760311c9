"""Tables of rows: cells, headings, marks, columns."""

from absl.testing import absltest, parameterized

from labelleak.report import tables
from tests.report import sample


class PointsTest(parameterized.TestCase):
  def test_fits_100_columns_with_the_published_number_beside_ours(self):
    aux = dict(
      known=['lr', 'steps', 'clients', 'defense', 'model', 'labelled'],
      args=dict(confidence='aux'),
      setting=dict(trained=True),
      point={'a': 1},
    )
    rows = [
      sample.horizontal(),
      sample.horizontal('counts.random', 0.2),
      sample.horizontal(**aux),
    ]
    text = tables.points(rows)
    self.assertLessEqual(max(map(len, text.splitlines())), 100)
    self.assertIn('99.62 ± 0.39', text)
    self.assertIn('llbg Table 1', text)
    self.assertIn('llbg(confidence=aux)+labelled', text)
    self.assertNotIn('†', text)

  def test_what_an_attack_lacks_is_named_where_that_tells_rows_apart(self):
    known = ['lr', 'steps', 'clients', 'defense']
    blind = sample.horizontal('counts.calibrated', known=known)
    seeing, other = sample.horizontal('counts.calibrated'), sample.horizontal()
    text = tables.points([blind, seeing, other])
    names = [line.split()[0] for line in text.splitlines() if '±' in line]
    self.assertEqual(names, ['calibrated-model', 'calibrated', 'llbg'])
    self.assertNotIn('-model', tables.points([blind, other]))

  @parameterized.parameters(
    dict(data='imagenet_sample 32px/100', stands_for=dict(data='cifar100')),
    dict(model=dict(name='x.y'), stands_for=dict(model=dict(name='vgg.vgg19'))),
  )
  def test_substitutes_are_marked(self, **setting):
    row = sample.horizontal(setting=setting)
    self.assertTrue(row['paper']['count_accuracy']['substitute'])
    text = tables.points([row])
    self.assertIn('99.62 ± 0.39 †', text)
    self.assertIn('expected by label', text)

  @parameterized.parameters((0.99, False), (0.5, True))
  def test_what_differs_from_the_published_is_marked(self, mean, far):
    text = tables.points([sample.horizontal(mean=mean)])
    self.assertEqual('99.62 ± 0.39 §' in text, far)
    self.assertEqual('more than two standard deviations' in text, far)

  def test_tables_keep_data_sets_apart(self):
    other = sample.horizontal(setting=dict(data='other'), trials=3)
    text = tables.points([sample.horizontal(), other])
    self.assertEqual(text.count('accuracy'), 2)
    self.assertIn('vgg.vgg19 on other', text)

  def test_every_metric_has_a_column(self):
    """That of the second attack alone, too."""
    rows = [
      sample.horizontal(metrics=dict(count_accuracy=sample.summary(0.99))),
      sample.horizontal('a.b', metrics=dict(mine=sample.summary(0.25))),
    ]
    first, second = tables.points(rows, 'github').splitlines()[-2:]
    cells = lambda line: [cell.strip() for cell in line.split('|')[1:-1]]
    self.assertEqual(cells(first)[:3], ['llbg', '99.00 ± 0.00', ''])
    self.assertEqual(cells(second)[:3], ['a.b', '', '25.00 ± 0.00'])

  def test_the_main_task_stands_in_the_heading(self):
    text = tables.points([sample.vertical('linear.full', 1.0, 0.9712)])
    self.assertIn('test=97.12 ± 0.10', text)
    header = next(line for line in text.splitlines() if 'permuted' in line)
    self.assertNotIn('test', header)

  def test_attacks_that_train_their_own_model_share_a_heading(self):
    rows = [sample.backdoor(main=0.9), sample.backdoor('none', main=0.95)]
    text = tables.points(rows)
    self.assertEqual(text.count('digits'), 1)
    for part in ('90.00', '95.00', '70.00', '1.234'):
      self.assertIn(part, text)

  @parameterized.parameters((0.0, True), (0.3, False))
  def test_recovery_below_chance_is_marked(self, accuracy, leak):
    text = tables.points([sample.vertical('scores.direct', accuracy)])
    self.assertEqual('‡' in text, leak)
    self.assertEqual('which is leakage' in text, leak)

  def test_gains_stand_below_in_points(self):
    gain = dict(
      mean=0.0101, low=0.0063, high=0.014, seeds=100, verdict='gain', over='x'
    )
    text = tables.points([sample.vertical('linear.full', 0.5, gain=gain)])
    self.assertIn(
      'linear.full: +1.01 points over x, 95 % interval +0.63 to +1.40, 100'
      ' seeds: gain',
      text,
    )
    unknown = gain | dict(mean=None)
    text = tables.points([sample.vertical('linear.full', 0.5, gain=unknown)])
    self.assertIn('linear.full: ? points', text)


class HeadingTest(parameterized.TestCase):
  def test_model_data_and_facts(self):
    row = sample.vertical(
      'linear.full',
      1.0,
      defense=[dict(name='clip', max_norm=0.2)],
      setting=dict(
        model=dict(name='mlp.mlp2', width=64),
        observed=dict(steps=30, epochs=1),
        accuracy=None,
        remark='x',
      ),
    )
    model, details = tables.heading(row)
    self.assertEqual(model, 'mlp.mlp2(width=64) on mnist, untrained')
    facts = details.split(', ')
    for fact in ('batch_size=1024', 'split=splits.rows', 'remark=x'):
      self.assertIn(fact, facts)
    self.assertIn('observed=(epochs=1, steps=30)', details)
    self.assertIn('defense=clip(max_norm=0.2)', facts)
    for hidden in ('accuracy', 'attacker', 'draw', 'stands_for', 'None'):
      self.assertNotIn(hidden, details)
    self.assertNotIn('step=', tables.heading(row, ['step'])[1])

  def test_without_a_model_the_defense_is_the_subject(self):
    setting = dict(model=dict(name='none'), data='10 classes')
    code = dict(name='smoothing', alpha=0.5)
    row = sample.vertical('none', 0.0, defense=[code], setting=setting)
    title = 'smoothing(alpha=0.5) on 10 classes'
    self.assertEqual(tables.model_and_data(row), title)

  def test_specs_break_before_their_arguments(self):
    text = 'completion.passive(epochs=5, iterations=200)+labelled'
    self.assertEqual(tables.fold(text, 99), text)
    lines = tables.fold(text, 30).split('\n')
    self.assertEqual(lines[0], 'completion.passive')
    self.assertEqual(lines[1], '(epochs=5,')
    self.assertLess(max(map(len, lines)), 31)


if __name__ == '__main__':
  absltest.main()
