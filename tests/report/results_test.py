"""RESULTS.md: ours beside the published, blank where it was not run."""

import json
import pathlib
import subprocess
import sys

from absl.testing import absltest, parameterized

from labelleak.report import published, results
from tests.report import sample


def _line(text, title, name):
  """Cells of a line of a table."""
  block = text.split(f'## {title}')[1].split('\n## ')[0]
  (line,) = [ln for ln in block.splitlines() if ln.startswith(f'| {name}')]
  return [cell.strip() for cell in line.split('|')[1:-1]]


class ResultsTest(parameterized.TestCase):
  def test_ours_beside_the_published_and_blank_where_not_run(self):
    rows = [
      sample.horizontal('counts.llbg', 0.9911),
      sample.horizontal('counts.calibrated', 0.9988),
      sample.horizontal('counts.random', 0.1812),
      sample.horizontal(
        'counts.llbg', 0.5, setting=dict(batch_size=7), point={'b': 7}
      ),
    ]
    text = results.markdown(rows)
    cells = _line(text, 'LLBG Table 1:', 'VGG19')
    self.assertEqual(cells[1:3], ['81.57 ± 1.78', ''])
    self.assertEqual(cells[5:7], ['99.62 ± 0.39', '99.11 ± 1.00'])
    self.assertEqual(cells[7:9], ['99.88 ± 1.00', '18.12 ± 1.00'])
    self.assertEqual(cells[9:], ['vgg.vgg19 on cifar100'])
    self.assertIn('batch_size=7', text.split('not published')[1])

  def test_what_is_not_published_has_a_column_where_it_was_run(self):
    table = published.table('llbg Table 1')
    header = lambda rows: results.compare(table, rows).splitlines()[2]
    self.assertNotIn('calibrated', header([]))
    self.assertNotIn('our data', header([]))
    self.assertEqual(header([]).count('ours'), 3)
    ran = header([sample.horizontal('counts.llbg')])
    self.assertIn('our data', ran)
    self.assertNotIn('calibrated', ran)

  def test_what_no_row_measures_has_no_column_of_ours(self):
    text = results.compare(published.table('llbg Table 7'), [])
    self.assertIn('62.69', text)
    self.assertNotIn('ours', text)

  def test_published_data_go_before_substitutes(self):
    substitute = dict(data='other', stands_for=dict(data='cifar100'))
    rows = [
      sample.horizontal(
        mean=0.1, setting=substitute, trials=500, point={'a': 1}
      ),
      sample.horizontal(mean=0.2, trials=10, point={'a': 2}),
    ]
    table = published.table('llbg Table 1')
    self.assertIn('20.00 ± 1.00', results.compare(table, rows))
    self.assertNotIn('10.00 ± 1.00', results.compare(table, rows))
    self.assertIn('10.00 ± 1.00 †', results.compare(table, rows[:1]))

  def test_ours_of_another_run_states_its_trials(self):
    rows = [
      sample.horizontal('counts.llg', 0.8, trials=100),
      sample.horizontal('counts.calibrated', 0.97, trials=12, seed=21),
      sample.horizontal(
        'counts.calibrated', 0.5, setting=dict(batch_size=7), trials=500
      ),
    ]
    text = results.markdown(rows)
    cells = _line(text, 'LLBG Table 1:', 'VGG19')
    self.assertIn('97.00 ± 1.00 (12 trials)', cells)

  def test_variants_of_another_attack_state_what_they_were_granted(self):
    known = ['lr', 'steps', 'clients', 'defense']
    rows = [
      sample.horizontal('counts.llg', 0.8),
      sample.horizontal('counts.calibrated', 0.97),
      sample.horizontal('counts.calibrated', 0.96, known=known),
    ]
    cells = _line(results.markdown(rows), 'LLBG Table 1:', 'VGG19')
    self.assertIn('97.00 ± 1.00; 96.00 ± 1.00 -model', cells)

  def test_the_main_task_has_its_column(self):
    sparsify = [dict(name='sparsify', drop=0.99)]
    rows = [
      sample.vertical('scores.random', 0.1, 0.941, sparsify, trials=5),
      sample.vertical('inversion.batch', 0.181, None, sparsify, trials=9),
    ]
    text = results.markdown(rows)
    cells = _line(text, 'VFLAIR records: MNIST, 10', 'GS 99 ')
    self.assertEqual(cells[1:3], ['94.71', '94.10 ± 0.10'])
    self.assertEqual(cells[3:5], ['18.69 ± 1.79', '18.10 ± 0.00'])

  def test_a_row_that_measured_it_goes_before_more_trials(self):
    setting = dict(
      data='cifar10',
      model=dict(name='resnet.resnet20', shortcut='pad'),
      batch_size=2048,
    )
    rows = [
      sample.vertical(
        'inversion.batch', 0.9, main, setting=setting, trials=trials
      )
      for main, trials in ((0.8, 2), (None, 9))
    ]
    cells = _line(results.markdown(rows), 'BLI Table 3', 'none ')
    self.assertIn('80.00 ± 0.10 §', cells)

  def test_cells_are_shown_in_their_own_units(self):
    table = published.table('llbg Table 10 images')
    text = results.compare(table, [sample.reconstruction()])
    self.assertIn('0.0140 ± 0.0060', text)
    self.assertIn('0.0144 ± 0.0055', text)
    self.assertIn('44.89 ± 28.29', text)

  def test_runs_are_listed_with_what_was_noted(self):
    rows = [
      sample.horizontal('counts.llg'),
      sample.horizontal('counts.ebi'),
      sample.horizontal(point={'b': 7}, setting=dict(batch_size=7)),
    ]
    cells = _line(results.markdown(rows), 'Runs', 'c ')
    self.assertEqual(cells, ['c', 'cifar100', 'd', 'x', '2', '2'])
    rows = [row | dict(provenance='Rerun.') for row in rows]
    cells = _line(results.markdown(rows), 'Runs', 'c ')
    self.assertEqual(cells[4:], ['2', '2', 'Rerun.'])


class CommandTest(absltest.TestCase):
  def test_a_folder_of_workdirs(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    command = [sys.executable, '-m', 'labelleak.report', str(root)]
    empty = subprocess.run(command, capture_output=True, text=True)
    self.assertNotEqual(empty.returncode, 0)
    self.assertIn('holds no */rows.jsonl', empty.stderr)
    self.assertNotIn('Traceback', empty.stderr)
    (root / 'a').mkdir()
    (root / 'a/rows.jsonl').write_text(json.dumps(sample.horizontal()) + '\n')
    (root / 'killed').mkdir()
    (root / 'killed/rows.jsonl').touch()
    full = subprocess.run(command, capture_output=True, text=True, check=True)
    self.assertIn('| VGG19', full.stdout)
    for name in ('table.md', 'accuracy.png'):
      self.assertTrue((root / 'a' / name).exists())


if __name__ == '__main__':
  absltest.main()
