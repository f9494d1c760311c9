"""What a run leaves for its reader, whatever its rows state beside."""

import pathlib
import re
import runpy
import subprocess
import sys

from absl.testing import absltest, parameterized
import numpy as np

from labelleak import report
from labelleak.experiments import result
from labelleak.report import results, tables
from tests.report import sample
from tests.repository.mutations import ROOT


class FinishTest(parameterized.TestCase):
  def _finish(self, rows, arrays=None):
    """Names of the files that a run leaves."""
    workdir = pathlib.Path(self.create_tempdir().full_path)
    if arrays:
      np.savez(workdir / 'trials.npz', **arrays)
    report.finish(workdir, rows)
    (workdir / 'trials.npz').unlink(missing_ok=True)
    self.assertIn('####', (workdir / 'table.md').read_text())
    for path in workdir.glob('*.png'):
      self.assertEqual(path.read_bytes()[:8], b'\x89PNG\r\n\x1a\n')
    return {path.name for path in workdir.iterdir()}

  def test_a_table_and_a_plot_for_each_fact_that_was_swept(self):
    rows = [
      sample.horizontal(
        attack, mean, point={'batch_size': b}, setting=dict(batch_size=b)
      )
      for b in (128, 256)
      for attack, mean in (('counts.llbg', 0.99), ('counts.random', 0.2))
    ]
    files = {'table.md', 'accuracy.png', 'batch_size.png'}
    self.assertEqual(self._finish(rows), files)

  def test_all_kinds_of_figures(self):
    defenses = [], [sample.gaussian(0.1)]
    maps = [dict(image=np.eye(4)[..., None].tolist(), map=np.eye(4).tolist())]
    more = dict(
      points=[[0, 1, 2], [1, 0, 3]], maps=maps, matrix=np.eye(10).tolist()
    )
    rows = [
      sample.vertical('linear.full', 0.5, 0.9, d, **more) for d in defenses
    ]
    rows += [sample.backdoor(gamma=g) for g in (1, 10)]
    rows[-1]['examples'] = sample.examples(
      np.zeros((1, 4, 4, 1)),
      np.ones((1, 4, 4, 1)),
      label=[1],
      target=2,
      taken_for=dict(plain=[1], triggered=[2]),
    )
    images = np.zeros((1, 2, 4, 4, 3), np.uint8)
    arrays = {'0/originals': images, '0/restored': images}
    figures = (
      *('accuracy', 'gamma', 'images', 'maps', 'matrix', 'points'),
      *('tradeoff', 'triggered'),
    )
    files = {'table.md', 'ranking.md', *(f'{name}.png' for name in figures)}
    self.assertEqual(self._finish(rows, arrays), files)

  def test_defenses_are_ranked_where_several_were_run(self):
    rows = [sample.vertical('linear.full', 0.5, 0.9)]
    self.assertEqual(self._finish(rows), {'table.md', 'accuracy.png'})

  def test_runs_of_very_many_points_have_no_plot_of_each(self):
    rows = [sample.horizontal(point={'b': b}) for b in range(25)]
    self.assertEqual(self._finish(rows), {'table.md'})


class OutsideTest(parameterized.TestCase):
  """Rows of an experiment that states what is required, and no more."""

  def _row(self, metric, attack='mine.mine'):
    setting = result.Setting('blobs', dict(name='m'), 4, None, trained=False)
    metrics = {metric: sample.summary(0.25, 0.1, 0.05)}
    return sample.row(attack, metrics, setting, trials=3)

  @parameterized.parameters(
    *('hits', 'label_accuracy', 'count_accuracy', 'backdoor_rate'),
    *('main_accuracy', 'psnr', 'relative_accuracy'),
  )
  def test_they_are_shown(self, metric):
    rows = [self._row(metric), self._row(metric, 'none'), self._row('other')]
    workdir = pathlib.Path(self.create_tempdir().full_path)
    report.finish(workdir, rows)
    self.assertTrue((workdir / 'accuracy.png').exists())
    for text in (tables.points(rows), (workdir / 'table.md').read_text()):
      self.assertIn('m on blobs, untrained', text)
      self.assertIn('num_classes=4, defense=none', text)
      self.assertIn('mine.mine', text)
    self.assertIn('mine.mine', results.markdown(rows))

  def test_sample_rows_have_the_fields_of_real_ones(self):
    """Else what is shown of them says nothing."""
    point = result.Result(
      attack=dict(name='mine.mine'),
      known=(),
      setting=result.Setting('blobs', dict(name='m'), 4, None, trained=False),
      values=dict(hits=np.zeros(3)),
    )
    real = result.row(point, config_name='c', point={}, seed=0, seconds=1.0)
    ours = self._row('hits')
    self.assertEqual(ours.keys(), real.keys())
    for field in ('attack', 'known', 'setting', 'point', 'paper', 'provenance'):
      self.assertEqual(ours[field], real[field])


class DocsTest(parameterized.TestCase):
  """Figures of docs/ show the rows that are kept."""

  @parameterized.parameters(('whole_training.svg',))
  def test_a_figure_is_drawn_of_its_rows(self, file):
    path = ROOT / 'docs' / 'figures.py'
    docs = runpy.run_path(str(path))
    folder = pathlib.Path(self.create_tempdir().full_path)
    docs['save'](file, folder)
    texts, kept = (
      set(re.findall(r'>([^<>]+)</text>', (at / file).read_text()))
      for at in (folder, ROOT / 'docs')
    )
    self.assertEqual(texts, kept)
    self.assertContainsSubset({'none', 'epochs'}, texts)
    self.assertEqual(list(docs['FIGURES']), [file])


class ImportTest(absltest.TestCase):
  def test_saving_a_row_imports_no_plotting(self):
    code = (
      'import sys; from labelleak import experiments, report, runs;'
      ' from labelleak.experiments import result;'
      ' print(*sys.modules)'
    )
    process = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    modules = process.stdout.split()
    self.assertIn('labelleak.experiments.result', modules)
    self.assertNotIn('matplotlib', modules)


if __name__ == '__main__':
  absltest.main()
