"""Stored rows: in today's form, by configs that run today, and consistent."""

import dataclasses
import json
import os
import pathlib

from absl.testing import parameterized
from ml_collections import ConfigDict
import numpy as np
import pytest

from labelleak import experiments, hfl, registry, runs, spec, sweep, vfl
from labelleak.experiments.result import Setting

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = sorted(path.parent.name for path in ROOT.glob('results/*/rows.jsonl'))
_PACKAGES = dict(model='models', split='data', aggregate='he', trigger='data')
_GRANTS = {
  field.name
  for known in (hfl.Known, vfl.Known)
  for field in dataclasses.fields(known)
}


def _tuples(value):
  """JSON's lists as a config has them."""
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _load(folder):
  """(config, rows) of a stored run."""
  path = ROOT / 'results' / folder
  stored = json.loads((path / 'config.json').read_text())
  assert stored['layout'] == runs.LAYOUT, folder
  return ConfigDict(_tuples(stored['config'])), runs.read_rows(path)


@parameterized.parameters(*FOLDERS)
class StoredTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    previous = os.getcwd()
    os.chdir(ROOT)  # paths of shared data are relative to it
    self.addCleanup(os.chdir, previous)

  def test_rows_are_of_points_of_the_config(self, folder):
    config, rows = _load(folder)
    points = [point for point, _ in sweep.grid(config)]
    self.assertNotEmpty(rows)
    for row in rows:
      self.assertIn(row['point'], points)
      self.assertEqual(row['config'], config.name)

  def test_rows_have_todays_fields_and_names(self, folder):
    config, rows = _load(folder)
    registry.find('experiments', f'{config.experiment}.experiment')
    for row in rows:
      setting = Setting(**row['setting'])
      self.assertContainsSubset(row['known'], _GRANTS)
      if row['attack']['name'] != 'none':
        registry.find('attacks', row['attack']['name'])
      for defense in setting.defense:
        registry.find('defenses', defense['name'])
      facts = dict(setting.extra, model=setting.model)
      for field, package in _PACKAGES.items():
        name = (facts.get(field) or {}).get('name', 'none')
        if name != 'none':
          registry.find(package, name)

  def test_metrics_are_those_of_the_trials(self, folder):
    _, rows = _load(folder)
    trials = runs.read_arrays(ROOT / 'results' / folder)
    for i, row in enumerate(rows):
      for name, summary in row['metrics'].items():
        values = trials[f'{i}/{name}']
        self.assertAlmostEqual(
          float(np.mean(values, dtype=float)), summary['mean'], places=6
        )

  @pytest.mark.slow
  def test_its_config_can_be_run(self, folder):
    config, _ = _load(folder)
    _, first = next(iter(sweep.grid(config)))
    prepared = ROOT / '../shared/tfds'
    if not prepared.is_dir() and 'shared' in json.dumps(spec.plain(first)):
      self.skipTest(f'{folder} needs {prepared}')
    first.sweep = ()
    (job,) = experiments.prepare(first)
    self.assertTrue(callable(job.measure))
