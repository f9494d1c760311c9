"""Rows, resume, tables, published numbers and plots."""

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
from labelleak.report import plots, published, results, tables


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

  def test_substitutes_are_marked(self):
    for fields in (dict(data='imagenet_sample 32px/100'), dict(model='x.y')):
      row = _row(**fields)
      self.assertTrue(row['paper']['count_accuracy']['substitute'])
      text = tables.points([row])
      self.assertIn('99.62 ± 0.39 †', text)
      self.assertIn('expected by label', text)


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

  def test_matrices_say_what_sets_their_points_apart(self):
    rows = [self._vertical(0, k) for k in (2, 4)]
    axes = plots.by_class(rows).axes
    labels = [ax.get_ylabel() for ax in axes if 'label' in ax.get_ylabel()]
    self.assertEqual(labels, ['num_classes=2\nlabel', 'num_classes=4\nlabel'])


class PublishedTest(parameterized.TestCase):
  def test_every_cell_is_a_rate(self):
    cells = [c for t in published.TABLES for c in t.cells.values()]
    self.assertGreater(len(cells), 100)
    for cell in cells:
      self.assertBetween(cell.mean, 0, 1)
      if cell.std is not None:
        self.assertBetween(cell.std, 0, 1)

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

  def test_vertical_numbers_equal_the_reference(self):
    path = pathlib.Path(__file__).parents[2]
    path = path / 'shared/reference/bli_vflair.md'
    if not path.exists():
      self.skipTest(f'{path} is absent')
    text = path.read_text()
    cells = {
      label: cell
      for table in published.bli.TABLES
      for (label, _), cell in table.cells.items()
    }
    for data in ('cifar10', 'cifar100'):
      for size in (128, 512, 2048):
        mean = cells[f'{data}, B={size}'].mean
        self.assertIn(
          f'BLI,{data.upper()},{size},{mean:.3f}'.replace('0.', '.'), text
        )
    record = cells['mnist, B=1024']
    joint = cells['mnist, 30 epochs']
    self.assertIn(f'None,None,{joint.mean},{record.mean},{record.std},', text)

  def test_numbers_equal_the_reference_digit_by_digit(self):
    """Against the transcription of the paper that is shared with us."""
    path = pathlib.Path(__file__).parents[2] / 'shared/reference/hfl.md'
    if not path.exists():
      self.skipTest(f'{path} is absent')
    text = path.read_text().split('## 4.')[1].split('## 5.')[0]
    have = {
      f'{v * 100:.2f}'
      for t in published.llbg.TABLES
      for c in t.cells.values()
      for v in (c.mean, c.std)
    }
    for number in (1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14):
      block = text.split(f'Table {number} ')[1].split('```')[1]
      lines = block.strip().splitlines()[2:]  # after `csv` and the header
      for line in lines:
        columns = line.split(',')[1:]
        if number in (11, 12, 13):
          columns = columns[:6]  # the last one is utility
        for value in columns:
          if '.' in value and value not in ('0.5', '0.7', '0.9'):
            self.assertIn(value, have, f'Table {number}: {line}')


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
