"""Rows, resume, tables, matching of published numbers, plots and ranking."""

import json
import pathlib
import subprocess
import sys
from unittest import mock

from absl.testing import parameterized
from matplotlib import figure
from ml_collections import ConfigDict
import numpy as np

from labelleak import report
from labelleak.base import InputError
from labelleak.metrics import significance
from labelleak.report import (
  plots,
  published,
  ranking,
  results,
  tables,
  tradeoff,
)

_GAUSSIAN = 'gaussian(stddev={})'


def _row(attack='counts.llbg', mean=0.9, point=None, **fields):
  setting = dict(
    data='cifar100',
    num_classes=100,
    model='vgg.vgg19',
    batch_size=128,
    local_steps=10,
    clients=1,
    partition='unbalanced',
    trained=False,
    accuracy=None,
    defense='none',
  )
  setting |= fields.pop('setting', {})
  summary = dict(mean=mean, std=0.01, stderr=0.001)
  row = dict(
    config='c',
    point=point or {},
    attack=attack,
    attack_args=fields.pop('attack_args', {}),
    known=['lr', 'steps', 'clients', 'defense', 'apply'],
    setting=setting,
    data='cifar100',
    model=setting['model'],
    defense='none',
    trials=100,
    seed=0,
    metrics=dict(count_accuracy=summary, count_error=summary),
    seconds=1.0,
    device='d',
    versions={},
    commit='x',
  )
  row |= fields
  return row | dict(paper=published.match(row))


def _summary(mean, std=0.0, stderr=0.0):
  return dict(mean=mean, std=std, stderr=stderr)


def _vertical(attack, accuracy, main=None, **fields):
  """A row of vertical FL, as `experiments` write it."""
  setting = dict(
    data='mnist',
    model='mlp.mlp2',
    top='sum',
    split='vertical.rows',
    attacker=0,
    num_classes=10,
    batch_size=1024,
    draw='first',
    step=0,
    trained=False,
    accuracy=None,
    aggregate='clear',
    code='none',
    penalty='none',
    defense='none',
  )
  setting |= fields.pop('setting', {})
  metrics = dict(
    label_accuracy=_summary(accuracy),
    permuted_label_accuracy=_summary(max(accuracy, 0.2)),
  )
  metrics |= fields.pop('metrics', {})
  if main is not None:
    metrics['main_accuracy'] = _summary(main, 0.001)
  row = dict(
    config='v',
    point=dict(defense=setting['defense'], code=setting['code']),
    attack=attack,
    attack_args={},
    known=['bottom'],
    setting=setting,
    data='mnist',
    model='mlp.mlp2',
    defense='x',
    trials=5,
    seed=0,
    metrics=metrics,
    seconds=1.0,
    device='d',
    versions={},
    commit='x',
  )
  row |= fields
  return row | dict(paper=published.match(row))


def _defended(attack, accuracy, main, defense, **fields):
  setting = dict(defense=defense) | fields.pop('setting', {})
  return _vertical(attack, accuracy, main, setting=setting, **fields)


def _values(rows):
  return [dict(count_accuracy=np.arange(3.0)) for _ in rows]


class SummaryTest(parameterized.TestCase):
  def test_closed_form(self):
    out = report.summary(np.array([0.0, 1.0]))
    self.assertAlmostEqual(out['mean'], 0.5)
    self.assertAlmostEqual(out['std'], 0.5**0.5)  # n - 1, as papers report
    self.assertAlmostEqual(out['stderr'], 0.5)
    self.assertEqual(report.summary(np.ones(1))['stderr'], 0.0)


class WorkdirTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.config = ConfigDict(dict(lr=0.1, model=dict(name='m', width=2)))

  def test_rows_and_values_come_back(self):
    self.assertEqual(report.start(self.workdir, self.config), [])
    rows = [_row(), _row('counts.ebi')]
    report.append(self.workdir, rows, _values(rows))
    self.assertEqual(report.start(self.workdir, self.config), rows)
    values = report.trials(self.workdir)
    np.testing.assert_array_equal(
      values['default/counts.llbg/count_accuracy'], [0, 1, 2]
    )

  @parameterized.parameters(0, 1, 20)
  def test_torn_points_are_forgotten(self, cut):
    report.start(self.workdir, self.config)
    first = [_row(point={'a': 1}), _row('counts.ebi', point={'a': 1})]
    report.append(self.workdir, first, _values(first))
    # Killed while the second point was written: no values yet, a torn line.
    path = self.workdir / 'rows.jsonl'
    with open(path, 'a') as f:
      f.write(json.dumps(_row(point={'a': 2})) + '\n')
      f.write(json.dumps(_row('counts.ebi', point={'a': 2}))[:cut])
    self.assertEqual(report.start(self.workdir, self.config), first)
    self.assertEqual(report.read(self.workdir), first)

  @parameterized.parameters(
    ('lr', 0.2, r'config.lr was 0.1 and is 0.2'),
    ('model', dict(name='m', width=3), r'config.model.width was 2 and is 3'),
    ('model', dict(name='m'), r'config.model.width is only in that run'),
  )
  def test_another_config_is_refused(self, field, value, message):
    report.start(self.workdir, self.config)
    report.start(self.workdir, self.config)  # the same one is not
    other = self.config.copy_and_resolve_references()
    other[field] = ConfigDict(value) if isinstance(value, dict) else value
    with self.assertRaisesRegex(InputError, message):
      report.start(self.workdir, other)

  def test_what_differs_in_a_long_sweep_is_named_in_a_line(self):
    self.config.sweep = (('lr', tuple(0.1 * i for i in range(1, 99))),)
    report.start(self.workdir, self.config)
    other = self.config.copy_and_resolve_references()
    other.sweep = (('lr', tuple(0.1 * i for i in range(2, 100))),)
    where = r'config.sweep\[0\]\[1\]\[0\] was 0.1 and is 0.2'
    with self.assertRaisesRegex(InputError, where) as caught:
      report.start(self.workdir, other)
    self.assertLess(len(str(caught.exception)), 300)
    other.sweep = (*self.config.sweep, ('seed', (0, 1)))
    with self.assertRaisesRegex(InputError, 'had 1 entries and has 2'):
      report.start(self.workdir, other)

  def test_table_and_plots(self):
    rows = [
      _row(attack, mean, point={'batch_size': b}, setting=dict(batch_size=b))
      for b in (128, 256)
      for attack, mean in (('counts.llbg', 0.99), ('counts.random', 0.2))
    ]
    report.finish(self.workdir, rows)
    self.assertIn('99.00', (self.workdir / 'table.md').read_text())
    for name in ('accuracy.png', 'batch_size.png'):
      header = (self.workdir / name).read_bytes()[:8]
      self.assertEqual(header, b'\x89PNG\r\n\x1a\n')


class TablesTest(parameterized.TestCase):
  def test_fits_100_columns_with_the_published_number_beside_ours(self):
    aux = dict(
      known=['lr', 'steps', 'clients', 'defense', 'apply', 'x', 'y'],
      attack_args=dict(confidence='aux'),
      setting=dict(trained=True),
    )
    rows = [_row(), _row('counts.random', 0.2), _row(point={'a': 1}, **aux)]
    text = tables.points(rows)
    self.assertLessEqual(max(map(len, text.splitlines())), 100)
    self.assertIn('99.62 ± 0.39', text)
    self.assertIn('llbg Table 1', text)
    self.assertIn('llbg(confidence=aux)+x+y', text)
    self.assertNotIn('†', text)

  def test_what_an_attack_lacks_is_named_where_that_tells_rows_apart(self):
    known = ['lr', 'steps', 'clients', 'defense']
    blind = _row('counts.calibrated', known=known)
    text = tables.points([blind, _row('counts.calibrated'), _row()])
    names = [line.split()[0] for line in text.splitlines() if '±' in line]
    self.assertEqual(names, ['calibrated-apply', 'calibrated', 'llbg'])
    self.assertNotIn('-apply', tables.points([blind, _row()]))

  def test_substitutes_are_marked(self):
    for fields in (dict(data='imagenet_sample 32px/100'), dict(model='x.y')):
      row = _row(**fields)
      self.assertTrue(row['paper']['count_accuracy']['substitute'])
      text = tables.points([row])
      self.assertIn('99.62 ± 0.39 †', text)
      self.assertIn('expected by label', text)

  def test_tables_keep_data_sets_apart(self):
    first, second = _row(), _row(data='other', trials=3)
    text = tables.points([first, second])
    self.assertEqual(text.count('accuracy'), 2)
    self.assertIn('vgg.vgg19 on other', text)

  @parameterized.parameters(
    (dict(), 'none'),
    (dict(defense='clip(max_norm=0.2)'), 'clip(max_norm=0.2)'),
    (dict(code='labelleak.coae.fitted(confusion=0.5)', defense='sparsify'),
     'coae.fitted(confusion=0.5)+sparsify'),
    (dict(penalty='distance_correlation(weight=0.1)'),
     'distance_correlation(weight=0.1)'),
    (dict(top='bottleneck.mid(weight=0.1)'), 'bottleneck.mid(weight=0.1)'),
    (dict(top='mlp.top'), 'none'),
  )  # fmt: skip
  def test_a_defense_is_all_that_defends(self, facts, text):
    row = _vertical('linear.full', 1.0, 0.9, setting=facts)
    self.assertEqual(tables.defense(row), text)
    self.assertIn(f'defense={text}', tables.heading(row))

  def test_links_are_parsed(self):
    text = 'a.b(x=1, y=c(z=2))+plain+d(e=1e-05)'
    want = [
      ('a.b', dict(x='1', y='c(z=2)')),
      ('plain', {}),
      ('d', {'e': '1e-05'}),
    ]
    self.assertEqual(tables.links(text), want)
    self.assertEqual(tables.folded(text).replace('\n', ''), text)

  def test_the_main_task_stands_in_the_heading(self):
    text = tables.points([_vertical('linear.full', 1.0, 0.9712)])
    self.assertIn('test=97.12 ± 0.10', text)
    header = next(line for line in text.splitlines() if 'permuted' in line)
    self.assertNotIn('test', header)

  @parameterized.parameters(
    (0.0, {}, True),
    (0.05, {}, True),
    (0.09, {}, False),
    (0.3, {}, False),
    # Rows without a name are misses, with every renaming.
    (0.0, dict(permuted_label_accuracy=_summary(0.05)), False),
    (0.03, dict(label_accuracy=_summary(0.03, stderr=0.05)), False),
  )
  def test_recovery_below_chance_is_marked(self, accuracy, metrics, marked):
    row = _vertical('scores.direct', accuracy, metrics=metrics)
    self.assertEqual(tables.leaks(row), marked)
    text = tables.points([row])
    self.assertEqual('‡' in text, marked)
    self.assertEqual('which is leakage' in text, marked)

  def test_one_batch_is_less_evidence_than_many(self):
    facts = dict(batch_size=40)
    one = _vertical('scores.direct', 0.0, setting=facts, trials=30)
    many = _vertical(
      'scores.direct', 0.0, setting=dict(facts, draw='random'), trials=30
    )
    self.assertFalse(tables.leaks(one))
    self.assertTrue(tables.leaks(many))
    seen = dict(facts, observed=dict(steps=30, epochs=1))
    epoch = _vertical('scores.direct', 0.0, setting=seen)
    self.assertTrue(tables.leaks(epoch))
    self.assertIn('observed=30 steps, 1 epochs', tables.heading(epoch))

  def test_several_observed_steps_are_another_setting_than_one(self):
    seen = dict(observed=dict(steps=3, epochs=2))
    self.assertIsNone(_vertical('inversion.batch', 0.9, setting=seen)['paper'])
    self.assertIsNotNone(_vertical('inversion.batch', 0.9)['paper'])

  def test_counts_are_not_flagged(self):
    self.assertFalse(tables.leaks(_row(mean=0.0)))


class PlotsTest(parameterized.TestCase):
  def _vertical(self, step, classes):
    return _row(
      'linear.full',
      point={'train.steps': step, 'classes': classes},
      setting=dict(step=step, num_classes=classes, trained=step > 0),
      matrix=np.eye(classes).tolist(),
    )

  def test_a_plot_for_each_fact_that_was_swept(self):
    rows = [self._vertical(step, k) for step in (0, 10) for k in (2, 4)]
    workdir = pathlib.Path(self.create_tempdir().full_path)
    plots.save(workdir, rows)
    names = {path.name for path in workdir.iterdir()}
    self.assertEqual(
      names, {'accuracy.png', 'step.png', 'num_classes.png', 'matrix.png'}
    )

  def test_panels_say_what_sets_them_apart(self):
    rows = [self._vertical(step, k) for step in (0, 10) for k in (2, 4)]
    workdir = pathlib.Path(self.create_tempdir().full_path)
    titles = []
    with mock.patch.object(figure.Figure, 'savefig', autospec=True) as seen:
      plots.save(workdir, rows)
    for call in seen.call_args_list:
      if 'step.png' in str(call.args[1]):
        titles += [ax.get_title('left') for ax in call.args[0].axes]
    self.assertLen(titles, 2)
    for title, k in zip(titles, (2, 4)):
      self.assertEndsWith(title, f'num_classes={k}')

  @parameterized.parameters(
    ('depth', dict(top='mlp.bn_mlp'), dict(top='mlp.linear'), 'linear'),
    ('share', dict(split='a'), dict(split='b'), 'linear'),
    ('parties', dict(split='a', share=0.5), dict(split='b', share=0.1), 'log'),
  )
  def test_what_moves_with_a_swept_fact_is_one_line(self, field, a, b, scale):
    rows = []
    for value, facts in ((2, a), (4, b)):
      model = f'mlp{value}' if field == 'depth' else 'mlp'
      setting = dict(facts, model=model, **{field: value})
      rows.append(_row(setting=setting, point={field: value}, model=model))
    workdir = pathlib.Path(self.create_tempdir().full_path)
    with mock.patch.object(figure.Figure, 'savefig', autospec=True) as seen:
      plots.save(workdir, rows)
    figures = {c.args[1].name: c.args[0] for c in seen.call_args_list}
    self.assertEqual(set(figures), {'accuracy.png', f'{field}.png'})
    (ax,) = figures[f'{field}.png'].axes
    self.assertEqual(ax.get_xticks().tolist(), [2, 4])
    self.assertEqual(ax.get_xscale(), scale)
    self.assertEqual(ax.get_title('left').startswith('mlp'), field != 'depth')

  def test_matrices_say_what_sets_their_points_apart(self):
    rows = [self._vertical(0, k) for k in (2, 4)]
    axes = plots.by_class(rows).axes
    labels = [ax.get_ylabel() for ax in axes if 'label' in ax.get_ylabel()]
    self.assertEqual(labels, ['num_classes=2\nlabel', 'num_classes=4\nlabel'])


class PublishedTest(parameterized.TestCase):
  @parameterized.parameters(
    ('counts.llg', {}, {}, 0.8157),
    ('counts.ebi', {}, dict(batch_size=1024), 0.3735),
    ('counts.llbg', {}, dict(partition='iid', batch_size=100), 1.0),
    ('counts.llbg', {}, dict(model='mlp.mlp(activation=tanh)'), 0.9948),
    ('counts.llbg', {}, dict(defense='compress(drop=0.9)'), 0.8262),
    ('counts.llbg', dict(confidence='aux'), {}, None),
    ('counts.calibrated', {}, {}, None),
    ('counts.llg', {}, dict(batch_size=64), None),
    ('counts.llg', {}, dict(local_steps=1), None),
    ('counts.llg', {}, dict(num_classes=10), None),
    ('counts.llg', {}, dict(trained=True), None),
  )
  def test_only_the_published_setting_matches(self, name, args, facts, mean):
    row = _row(name, attack_args=args, setting=facts)
    found = row['paper']
    self.assertEqual(found and found['count_accuracy']['mean'], mean)

  def test_a_code_is_not_undefended(self):
    cells = published.table('bli MNIST record').cells
    cell = cells['mnist, B=1024', 'inversion']
    coded = dict(code='labelleak.coae.fitted(confusion=0.5)')
    plain = _vertical('inversion.batch', 0.9)
    old = _vertical('inversion.batch', 0.9)
    del old['setting']['code'], old['setting']['penalty']  # rows before codes
    self.assertTrue(published.holds(cell, plain))
    self.assertTrue(published.holds(cell, old))
    row = _vertical('inversion.batch', 0.1, setting=coded)
    self.assertFalse(published.holds(cell, row))
    self.assertEqual(row['paper']['label_accuracy']['mean'], 0.1043)

  @parameterized.parameters(
    (dict(top='bottleneck.mid(weight=100)'), 0.1160, 0.8894),
    (dict(top='bottleneck.mid(weight=100.0)'), 0.1160, 0.8894),
    (dict(penalty='distance_correlation(weight=0.3)'), 0.3459, 0.8730),
    (dict(defense='sparsify(drop=0.995)'), 0.1572, 0.9030),
    (dict(defense='grad_perturb(epsilon=10.0)'), 0.8658, 0.9699),
    (
      dict(
        code='labelleak.coae.fitted(confusion=0.0)',
        defense='discretize_first(bins=12)',
      ),
      0.0891,
      0.9489,
    ),
    (dict(defense='laplace(scale=0.1)'), None, None),  # without its clip
    (
      dict(defense='clip_batch(max_norm=0.2)+laplace(scale=0.1)'),
      0.1012,
      0.8671,
    ),
  )
  def test_records_know_their_defense(self, facts, attack, main):
    paper = _vertical('inversion.batch', 0.5, 0.9, setting=facts)['paper'] or {}
    found = [paper.get(m) for m in ('label_accuracy', 'main_accuracy')]
    self.assertEqual([f and f['mean'] for f in found], [attack, main])

  def test_what_is_of_the_model_is_asked_of_those_who_measured_it(self):
    noise = 'clip(max_norm=0.1)+gaussian(stddev=0.01)'
    facts = dict(setting=dict(defense=noise))
    self.assertNotIn('relative_accuracy', _row(**facts)['paper'])
    metrics = dict(
      count_accuracy=_summary(0.3), relative_accuracy=_summary(-0.6)
    )
    paper = _row('counts.calibrated', metrics=metrics, **facts)['paper']
    self.assertEqual(list(paper), ['relative_accuracy'])
    self.assertEqual(paper['relative_accuracy']['mean'], -0.668)
    row = _row('counts.calibrated', metrics=metrics, **facts)
    self.assertEqual(tables.published(row), '')


class JudgingTest(parameterized.TestCase):
  def test_score_by_the_formula(self):
    rng = np.random.default_rng(0)
    for attack, main, best, beta, ideal in rng.random((50, 5)):
      distance = np.sqrt(
        (1 - beta) * (attack - ideal) ** 2 + beta * (main - best) ** 2
      )
      got = significance.dcs(attack, main, best, beta=beta, attack_ideal=ideal)
      np.testing.assert_allclose(got, 1 / (1 + distance), rtol=1e-12)

  def test_score_at_the_corners(self):
    self.assertEqual(significance.dcs(0.0, 0.9, 0.9), 1.0)
    self.assertEqual(
      significance.dcs(-0.3, 0.9, 0.9), 1.0
    )  # no attack is negative
    self.assertAlmostEqual(significance.dcs(1.0, 0.9, 0.9), 0.585786, 6)
    self.assertEqual(
      significance.dcs(0.0, 0.8, 0.9), significance.dcs(0.0, 1.0, 0.9)
    )
    self.assertEqual(significance.dcs(1.0, 0.1, 0.9, beta=0.0), 0.5)
    self.assertEqual(significance.dcs(1.0, 0.0, 1.0, beta=1.0), 0.5)
    falling = significance.dcs(np.linspace(0, 1, 9), 0.8, 0.9)
    self.assertTrue((np.diff(falling) < 0).all())
    with self.assertRaisesRegex(InputError, 'beta=1.5'):
      significance.dcs(0.0, 1.0, 1.0, beta=1.5)

  def test_means_over_attacks_and_types(self):
    self.assertAlmostEqual(significance.t_dcs([0.5, 0.7]), 0.6)
    types = dict(label=0.6, backdoor=0.9, feature=None)
    self.assertAlmostEqual(significance.c_dcs(types), 0.75)
    weights = dict(label=2.0, backdoor=1.0, feature=7.0)
    self.assertAlmostEqual(significance.c_dcs(types, weights), 0.7)
    for call in (
      lambda: significance.t_dcs([]),
      lambda: significance.c_dcs(dict(label=None)),
      lambda: significance.c_dcs(types, dict(label=1.0)),
    ):
      with self.assertRaises(InputError):
        call()

  @parameterized.parameters(2, 5, 10, 100)
  def test_guesses_are_seldom_called_leaks(self, num_classes):
    rng = np.random.default_rng(num_classes)
    trials, size = 10, 64
    flagged = []
    for _ in range(400):
      hits = rng.binomial(size, 1 / num_classes, trials) / size
      stderr = hits.std(ddof=1) / np.sqrt(trials)
      flagged.append(
        significance.below_chance(
          hits.mean(), stderr, num_classes, rows=trials * size
        )
      )
    self.assertLess(np.mean(flagged), 0.01)

  def test_avoiding_the_label_is_a_leak_and_the_rarest_class_is_none(self):
    leak = significance.below_chance
    self.assertTrue(leak(0.0, 0.0, 10, rows=1024))
    self.assertTrue(leak(0.05, 0.005, 10, rows=1024))
    self.assertTrue(leak(0.2, 0.01, 2, rows=128))
    self.assertFalse(leak(0.37, 0.0, 2, rows=10**6))  # of an uneven data set
    self.assertFalse(leak(0.0902, 0.0, 10, rows=10**6))
    self.assertFalse(leak(0.0, 0.0, 10, rows=62))  # too few to tell
    self.assertTrue(leak(0.0, 0.0, 10, rows=63))  # .9^63 = .00131
    self.assertFalse(leak(0.0, 0.04, 10, rows=1024))


class RankingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.rows = [
      _defended('linear.full', 1.0, 0.97, 'none'),
      _defended('scores.direct', 1.0, 0.97, 'none'),
      _defended('scores.random', 0.1, 0.97, 'none'),
      _defended('linear.full', 0.5, 0.96, _GAUSSIAN.format(0.01)),
      _defended('scores.direct', 0.7, 0.96, _GAUSSIAN.format(0.01)),
      _defended('linear.full', 0.1, 0.9, _GAUSSIAN.format(0.1)),
      _defended('scores.direct', 0.2, 0.9, _GAUSSIAN.format(0.1)),
    ]

  def _one(self, rows):
    (comparison,) = ranking.comparisons(rows)
    return comparison

  def test_the_best_mean_score_comes_first(self):
    judged = ranking.judge(self._one(self.rows))
    self.assertEqual(
      [j.point.defense for j in judged],
      [_GAUSSIAN.format(0.1), _GAUSSIAN.format(0.01), 'none'],
    )
    self.assertEqual([j.rank for j in judged], [1, 2, 3])
    self.assertEqual(list(judged[0].dcs), ['linear.full', 'direct'])  # no guess
    want = [significance.dcs(a, 0.9, 0.97) for a in (0.1, 0.2)]
    np.testing.assert_allclose(list(judged[0].dcs.values()), want)
    self.assertAlmostEqual(judged[0].total, np.mean(want))

  def test_of_an_attacks_variants_the_strongest_counts(self):
    other = dict(attack_args=dict(rule='complement'))
    weak = _defended('scores.direct', 0.0, 0.97, 'none', **other)
    strong = _defended('scores.direct', 0.9, 0.9, 'sparsify', **other)
    failed = _defended('scores.direct', 0.0, 0.9, 'sparsify')
    comparison = self._one([*self.rows, weak, failed, strong])
    judged = {j.point.defense: j for j in ranking.judge(comparison)}
    self.assertEqual(judged['none'].counted, ('linear.full', 'direct'))
    self.assertAlmostEqual(
      judged['none'].total, significance.dcs(1.0, 0.97, 0.97)
    )
    coded = judged['sparsify']
    self.assertEqual(coded.counted, ('direct(rule=complement)',))
    self.assertAlmostEqual(coded.total, significance.dcs(0.9, 0.9, 0.97))
    text = ranking.table(comparison, 'github')
    self.assertEqual(text.count('‡'), 2)  # the cells, not what they add up to

  def test_equal_scores_share_a_rank(self):
    rows = [r | dict(metrics=self.rows[0]['metrics']) for r in self.rows]
    self.assertEqual(
      [j.rank for j in ranking.judge(self._one(rows))], [1, 1, 1]
    )

  @parameterized.parameters('simple', 'github')
  def test_the_table(self, style):
    text = ranking.table(self._one(self.rows), style)
    line = next(ln for ln in text.splitlines() if '0.01' in ln)
    score = significance.dcs(0.5, 0.96, 0.97)
    self.assertIn('96.00 ± 0.10', line)
    self.assertIn(f'({score:.3f})'.replace('0.', '.'), line)
    worst = f'{significance.dcs(0.7, 0.96, 0.97):.3f}'.removeprefix('0')
    self.assertIn(f' {worst} ', line)

  def test_terminals_have_100_columns(self):
    chain = '+'.join(['clip_batch(max_norm=0.2)', _GAUSSIAN.format(0.001)])
    rows = [
      _defended(f'scores.{"attack" * 3}_{i}', 0.5, 0.9, defense)
      for defense in ('none', chain)
      for i in range(9)
    ]
    text = ranking.table(self._one(rows))
    self.assertLessEqual(max(map(len, text.splitlines())), 100)
    for i in range(9):
      self.assertIn(f'_{i}', text)

  def test_relative_accuracy_needs_no_undefended_model(self):
    """Horizontal rows, through the same code; undefended costs nothing."""
    noise = _GAUSSIAN.format(0.1)
    metrics = dict(
      count_accuracy=_summary(0.4), relative_accuracy=_summary(-0.3, 0.02)
    )
    rows = [
      _row('counts.llbg', 0.99),
      _row('counts.llbg', metrics=metrics, setting=dict(defense=noise)),
    ]
    best, bare = ranking.judge(self._one(rows))
    self.assertAlmostEqual(best.dcs['llbg'], significance.dcs(0.4, 0.6, 0.9))
    self.assertAlmostEqual(bare.dcs['llbg'], significance.dcs(0.99, 0.9, 0.9))
    self.assertIn('-30.00 ± 2.00', ranking.table(self._one(rows)))

  def test_accuracy_of_the_setting_serves_trained_models(self):
    rows = [
      _vertical('linear.full', a, setting=dict(defense=d, accuracy=m, step=9))
      for d, m, a in (('none', 0.95, 0.9), ('sparsify', 0.94, 0.3))
    ]
    best, _ = ranking.judge(self._one(rows))
    self.assertAlmostEqual(best.total, significance.dcs(0.3, 0.94, 0.95))

  def test_without_an_undefended_model_nothing_is_scored(self):
    rows = [r for r in self.rows if r['setting']['defense'] != 'none']
    comparison = self._one(rows)
    self.assertIsNone(ranking.ideal(comparison))
    self.assertEqual([j.dcs for j in ranking.judge(comparison)], [{}, {}])
    self.assertIn('70.0', ranking.table(comparison))
    tradeoff.draw([comparison])

  def test_only_what_defends_may_differ(self):
    coded = _vertical(
      'linear.full', 0.2, 0.9, setting=dict(code='smoothing(alpha=0.5)')
    )
    guarded = _vertical(
      'linear.full', 0.2, 0.9, setting=dict(top='bottleneck.mid(weight=1.0)')
    )
    other = _defended(
      'linear.full', 0.2, 0.9, 'sparsify', setting=dict(batch_size=7)
    )
    rows = [*self.rows, coded, guarded, other]
    points = self._one(rows).points  # a lone point is no comparison
    self.assertEqual(
      [p.defense for p in points][3:],
      ['smoothing(alpha=0.5)', 'bottleneck.mid(weight=1.0)'],
    )

  def test_attacks_of_two_sweep_points_meet_and_repetitions_do_not(self):
    more = _defended('linear.last_layer', 0.3, 0.97, 'none')
    again = _defended('linear.full', 0.8, 0.97, 'none', point={'lr': 1})
    points = self._one([*self.rows, more, again]).points
    self.assertLen(points, 4)
    self.assertIn('linear.last_layer', points[0].rows)
    self.assertEqual(list(points[3].rows), ['linear.full'])

  def test_rows_without_a_main_task_or_an_attack_are_left_out(self):
    bare = [_vertical('linear.full', 1.0), _defended('a.b', 1.0, None, 'x')]
    self.assertEmpty(ranking.comparisons(bare))
    none = _vertical('none', 0.0, 0.9)
    none['metrics'] = dict(main_accuracy=_summary(0.9))
    self.assertEmpty(ranking.comparisons([none]))
    self.assertEmpty(ranking.comparisons(self.rows[:3]))  # one defense
    guesses = [r | dict(attack='scores.random') for r in self.rows]
    self.assertEmpty(ranking.comparisons(guesses))

  def test_leaks_below_chance_are_marked_in_the_score(self):
    rows = [*self.rows, _defended('scores.direct', 0.0, 0.97, 'rounding')]
    text = ranking.markdown([self._one(rows)])
    line = next(ln for ln in text.splitlines() if 'rounding' in ln)
    cells = [cell.strip() for cell in line.split('|')[1:-1]]
    self.assertEqual(cells[0], '1')  # as published, and hence the mark
    self.assertEqual(cells[3], '1.000 ‡')
    self.assertIn('which is leakage', text)
    self.assertNotIn('‡', ranking.markdown([self._one(self.rows)]))


class TradeoffTest(parameterized.TestCase):
  def _rows(self, strengths=('0.1', '0.001', '0.01')):
    mains = {'none': 0.97, '0.001': 0.96, '0.01': 0.9, '0.1': 0.8}
    attacks = {'none': 1.0, '0.001': 0.8, '0.01': 0.4, '0.1': 0.1}
    return [
      _defended(
        name,
        attacks[s],
        mains[s],
        s if s == 'none' else _GAUSSIAN.format(s),
      )
      for s in ('none', *strengths)
      for name in ('linear.full', 'scores.direct')
    ]

  def _draw(self, rows):
    fig = tradeoff.draw(ranking.comparisons(rows))
    return [ax for ax in fig.axes if ax.get_visible()]

  def _lines(self, ax):
    return {line.get_label(): line for line in ax.get_lines()} | {
      c.get_label(): c.lines[0] for c in ax.containers
    }

  def test_a_panel_an_attack_with_the_ideal_corner(self):
    axes = self._draw(self._rows())
    titles = [ax.get_title('left') for ax in axes]
    self.assertEqual(titles, ['linear.full', 'direct'])
    for ax in axes:
      (at,) = self._lines(ax)['ideal'].get_xydata()
      np.testing.assert_allclose(at, [97, 0])

  def test_a_line_a_defense_in_the_order_of_its_strength(self):
    ax = self._draw(self._rows())[0]
    line = self._lines(ax)['gaussian: stddev'].get_xydata()
    np.testing.assert_allclose(line, [[96, 80], [90, 40], [80, 10]])
    bare = self._lines(ax)['none'].get_xydata()
    np.testing.assert_allclose(bare, [[97, 100]])
    texts = {text.get_text() for text in ax.texts}
    self.assertContainsSubset({'0.001', '0.01', '0.1'}, texts)

  def test_with_two_arguments_a_line_varies_one(self):
    rows = [
      _defended('linear.full', 0.5, 0.9, f'clip(max_norm={c})+noise(scale={s})')
      for c, s in ((0.1, 1), (1.0, 1), (0.5, 1), (1.0, 2))
    ]
    (ax,) = self._draw([*rows, *self._rows(())[:1]])
    lengths = sorted(
      len(c.lines[0].get_xydata())
      for c in ax.containers
      if c.get_label() == 'clip+noise: max_norm, scale'
    )
    self.assertEqual(lengths, [1, 3])

  def test_published_points_stand_beside_ours(self):
    rows = [
      _vertical('inversion.batch', 0.9, 0.95),
      _vertical(
        'inversion.batch', 0.3, 0.9, setting=dict(defense='sparsify(drop=0.99)')
      ),
    ]
    (ax,) = self._draw(rows)
    found = [
      line.get_xydata()[0]
      for line in ax.get_lines()
      if line.get_label() == 'published'
    ]
    np.testing.assert_allclose(found, [[97.46, 99.65], [94.71, 18.69]])

  def test_labels_keep_off_each_other(self):
    near = [
      (50.0 + i / 100, 50.0, 'strength', dict(color='k')) for i in range(6)
    ]
    fig = figure.Figure()
    ax = fig.subplots()
    ax.set(xlim=(0, 100), ylim=(0, 100))
    tradeoff._annotate(ax, near)
    self.assertLen({text.get_position() for text in ax.texts}, 6)

  def test_both_are_written_where_defenses_were_run(self):
    for rows, written in ((self._rows(), True), (self._rows(()), False)):
      workdir = pathlib.Path(self.create_tempdir().full_path)
      report.finish(workdir, rows)
      self.assertEqual((workdir / 'ranking.md').exists(), written)
      self.assertEqual((workdir / 'tradeoff.png').exists(), written)
      self.assertTrue((workdir / 'accuracy.png').exists())

  def test_runs_of_very_many_points_have_no_plot_of_each(self):
    rows = [_row(point={'b': b}) for b in range(25)]
    workdir = pathlib.Path(self.create_tempdir().full_path)
    report.finish(workdir, rows)
    self.assertFalse((workdir / 'accuracy.png').exists())
    self.assertTrue((workdir / 'table.md').exists())


class ResultsTest(parameterized.TestCase):
  def test_ours_beside_the_published_and_blank_where_not_run(self):
    rows = [
      _row('counts.llbg', 0.9911),
      _row('counts.calibrated', 0.9988),
      _row('counts.random', 0.1812),
      _row('counts.llbg', 0.5, setting=dict(batch_size=7), point={'b': 7}),
    ]
    text = results.markdown(rows)
    (line,) = [
      ln
      for ln in text.split('## LLBG Table 1:')[1].split('##')[0].splitlines()
      if ln.startswith('| VGG19')
    ]
    cells = [c.strip() for c in line.split('|')[1:-1]]
    self.assertEqual(cells[1:3], ['81.57 ± 1.78', ''])
    self.assertEqual(cells[5:9][:2], ['99.62 ± 0.39', '99.11 ± 1.00'])
    self.assertEqual(cells[7:9], ['99.88 ± 1.00', '18.12 ± 1.00'])
    self.assertIn('batch_size=7', text.split('not published')[1])

  def test_published_data_go_before_substitutes(self):
    rows = [
      _row(mean=0.1, data='other', trials=500, point={'a': 1}),
      _row(mean=0.2, trials=10, point={'a': 2}),
    ]
    table = results.markdown(rows).split('## LLBG Table 1:')[1].split('##')[0]
    self.assertIn('20.00 ± 1.00', table)
    self.assertNotIn('10.00 ± 1.00', table)

  def test_ours_of_another_run_states_its_trials(self):
    rows = [
      _row('counts.llg', 0.8, trials=100),
      _row('counts.calibrated', 0.97, trials=12, seed=21),
      _row('counts.calibrated', 0.5, setting=dict(batch_size=7), trials=500),
    ]
    table = results.markdown(rows).split('## LLBG Table 1:')[1].split('##')[0]
    (line,) = [ln for ln in table.splitlines() if ln.startswith('| VGG19')]
    self.assertIn('| 97.00 ± 1.00 (12 trials) |', line)

  def test_the_main_task_has_its_column(self):
    facts = dict(defense='sparsify(drop=0.99)')
    rows = [
      _vertical('scores.random', 0.1, 0.941, setting=facts, trials=5),
      _vertical('inversion.batch', 0.181, setting=facts, trials=9),
    ]
    text = results.markdown(rows)
    block = text.split('## VFLAIR records: MNIST, 10')[1].split('##')[0]
    (line,) = [ln for ln in block.splitlines() if ln.startswith('| GS 99 ')]
    cells = [c.strip() for c in line.split('|')[1:-1]]
    self.assertEqual(cells[1:3], ['94.71', '94.10 ± 0.10'])
    self.assertEqual(cells[3:5], ['18.69 ± 1.79', '18.10 ± 0.00'])

  def test_a_row_that_measured_it_goes_before_more_trials(self):
    facts = dict(
      data='cifar10', model='resnet.resnet20(shortcut=pad)', batch_size=2048
    )
    rows = [
      _vertical('inversion.batch', 0.9, main, setting=facts, trials=trials)
      for main, trials in ((0.8, 2), (None, 9))
    ]
    text = results.markdown(rows)
    block = text.split('## BLI Table 3')[1].split('##')[0]
    (line,) = [ln for ln in block.splitlines() if ln.startswith('| none ')]
    self.assertIn('80.00 ± 0.10', line)

  def test_the_command(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    command = [sys.executable, '-m', 'labelleak.report', str(root)]
    empty = subprocess.run(command, capture_output=True, text=True)
    self.assertNotEqual(empty.returncode, 0)
    self.assertIn('holds no */rows.jsonl', empty.stderr)
    self.assertNotIn('Traceback', empty.stderr)
    (root / 'a').mkdir()
    (root / 'a/rows.jsonl').write_text(json.dumps(_row()) + '\n')
    full = subprocess.run(command, capture_output=True, text=True, check=True)
    self.assertIn('| VGG19', full.stdout)
    for name in ('table.md', 'accuracy.png'):
      self.assertTrue((root / 'a' / name).exists())
