"""Strangers add by adding files only, from a folder outside the checkout.

The recipes of `docs/extending.md` are run as they stand.
"""

import os
import pathlib
import re
import subprocess
import sys

from absl.testing import parameterized

from labelleak import runs

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = (ROOT / 'docs/extending.md').read_text()
FILES = {
  match[1]: match[0]
  for match in re.finditer(
    r'^# (\S+\.py)\n.*?(?=^```$)', TEXT, re.DOTALL | re.MULTILINE
  )
}


class StrangersTest(parameterized.TestCase):
  def run_config(self, name):
    """Rows of a recipe's config, and what the terminal shows."""
    root = pathlib.Path(self.create_tempdir().full_path)
    for file, block in FILES.items():
      path = root / file
      path.parent.mkdir(exist_ok=True)
      path.write_text(block)
    flags = f'--config={root}/configs/{name}.py', f'--workdir={root}/run'
    process = subprocess.run(
      [sys.executable, 'launch.py', *flags],
      cwd=ROOT,
      env={**os.environ, 'PYTHONPATH': str(root), 'JAX_PLATFORMS': 'cpu'},
      capture_output=True,
      text=True,
    )
    self.assertEqual(process.returncode, 0, process.stderr)
    return runs.read_rows(root / 'run'), process.stdout

  def mean(self, rows, attack, metric):
    (row,) = [row for row in rows if row['attack']['name'] == attack]
    return row['metrics'][metric]['mean']

  def test_six_recipes_of_two_files(self):
    self.assertLen(FILES, 12)

  def test_attack(self):
    rows, shown = self.run_config('proportional')
    ours = self.mean(rows, 'proportional.proportional', 'count_accuracy')
    self.assertGreater(ours, self.mean(rows, 'counts.random', 'count_accuracy'))
    self.assertIn('proportional', shown)

  def test_attack_over_time_beside_one_of_an_instant(self):
    rows, _ = self.run_config('gathering')
    summed = self.mean(rows, 'gathering.by_row', 'label_accuracy')
    averaged = self.mean(rows, 'scores.direct', 'label_accuracy')
    guess = self.mean(rows, 'scores.random', 'label_accuracy')
    # Both see the same noisy gradients of every row, five times.
    self.assertGreater(summed, guess + 0.1)
    self.assertGreater(averaged, guess)

  def test_defense(self):
    rows, _ = self.run_config('flipping')
    self.assertEqual(
      rows[0]['setting']['defense'], [dict(name='flipping.flip', share=0.5)]
    )
    self.assertLess(self.mean(rows, 'counts.llbg', 'count_accuracy'), 0.8)

  def test_model(self):
    rows, _ = self.run_config('shallow')
    self.assertGreater(self.mean(rows, 'counts.llbg', 'count_accuracy'), 0.7)

  def test_data_set(self):
    rows, _ = self.run_config('blobs')
    self.assertEqual(rows[0]['setting']['data'], 'blobs')
    self.assertEqual(rows[0]['setting']['num_classes'], 4)

  def test_experiment(self):
    rows, shown = self.run_config('counting')
    self.assertLen(rows, 1)
    self.assertAlmostEqual(rows[0]['metrics']['counted']['mean'], 1 / 3)
    self.assertIn('counted', shown)
