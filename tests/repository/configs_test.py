"""Every config runs in seconds with `runlocal`, and is plain data."""

import importlib.util
import json
import os
import pathlib

from absl.testing import parameterized
import pytest

from labelleak import defenses, experiments, spec, sweep
from labelleak.base import InputError
from labelleak.experiments.result import Setting
from labelleak.report import published
import launch

ROOT = pathlib.Path(__file__).resolve().parents[2]
_SHARED = ('common', 'datasets')
FILES = sorted(
  p for p in (ROOT / 'configs').glob('*.py') if p.stem not in _SHARED
)
# At hand without files, or made from nothing.
_FREE = {'digits', 'breast_cancer', 'synthetic', 'labels'}


def _module(path):
  spec = importlib.util.spec_from_file_location(f'config_{path.stem}', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _get(path, arg=None):
  return _module(path).get_config(arg)


def _reads(config):
  """Names of the data sets that the points of a config read."""
  names = set()
  for _, full in sweep.grid(config):
    task = full.get('main_task') or {}
    for dataset in (full.dataset, task.get('dataset', full.dataset)):
      names.add(dataset['name'])
  sample = {'stand_in': 'imagenet_sample'}
  return {sample.get(name, name) for name in names} - _FREE


class ConfigsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    previous = os.getcwd()
    os.chdir(ROOT)  # paths of shared data are relative to it
    self.addCleanup(os.chdir, previous)

  @parameterized.parameters(*FILES)
  @pytest.mark.slow
  def test_runlocal(self, path):
    config = _get(path, 'runlocal')
    workdir = self.create_tempdir().full_path
    rows = experiments.run(config, workdir)
    points = list(sweep.grid(config))
    named = {json.dumps(row['point']) for row in rows}
    self.assertEqual(named, {json.dumps(point) for point, _ in points})
    for point, full in points:
      attacks = [row['attack'] for row in rows if row['point'] == point]
      wanted = [
        dict(name=entry['name'], **spec.plain(spec.arguments(entry)))
        for entry in full.attacks
      ]
      self.assertEqual(attacks[: len(wanted)], wanted)
      names = [attack['name'] for attack in attacks]
      guesses = [name for name in names if name.endswith('.random')]
      self.assertTrue(guesses or names[-1] == 'none')  # or nothing is attacked

  @parameterized.parameters(*FILES)
  def test_each_head_is_data_and_says_what_is_read(self, path):
    heads = _module(path).HEAD
    self.assertNotIn('arg', heads[0])  # the config as it stands
    for head in heads:
      self.assertContainsSubset(head, ['table', 'arg', 'minutes', 'needs'])
      config = _get(path, head.get('arg'))
      self.assertEqual(config.name, path.stem)
      json.loads(config.to_json())
      needs = {head['needs']} if 'needs' in head else set()
      self.assertEqual(_reads(config), needs, head)

  @parameterized.parameters(*FILES)
  def test_each_variant_is_small_with_runlocal(self, path):
    for head in _module(path).HEAD:
      arg = head.get('arg')
      config = _get(path, f'{arg},runlocal' if arg else 'runlocal')
      json.loads(config.to_json())
      self.assertNotEmpty(list(sweep.grid(config)))
      self.assertLess(config.trials, 4)

  def test_a_list_of_all_heads(self):
    lines = launch.listing().splitlines()
    self.assertLessEqual(max(map(len, lines)), 100)
    heads = sum(len(_module(path).HEAD) for path in FILES)
    self.assertLen(lines, 1 + heads + 3)

  @parameterized.parameters(*FILES)
  def test_misspelt_arguments_are_named(self, path):
    with self.assertRaisesRegex(InputError, "'runlocl'.*'runlocal'"):
      _get(path, 'runlocl')


class PublishedSettingsTest(parameterized.TestCase):
  @parameterized.parameters(
    ('llbg_cifar', 'paper', 1),
    ('llbg_cifar', 'table=3,paper', 3),
    ('llbg_cifar', 'table=4,paper', 4),
    ('llbg_cifar', 'table=8,paper', 8),
    ('llbg_imagenet', 'paper', 2),
    ('llbg_imagenet', 'table=5,paper', 5),
    ('llbg_imagenet', 'table=5,paper', 6),
    ('llbg_vit', 'paper', 9),
  )
  def test_configs_run_the_published_settings(self, name, arg, number):
    """Each printed setting is a point of its config (weights aside)."""
    table = published.table(f'llbg Table {number}')
    points = [
      full for _, full in sweep.grid(_get(ROOT / f'configs/{name}.py', arg))
    ]
    models = {full.model.name for full in points}
    for cell in table.cells.values():
      model = cell.setting['model']['name']
      if number in (5, 6) or cell.setting['trained']:
        continue  # one model at a time, with its weights file
      self.assertIn(model, models)
      fits = [
        full
        for full in points
        if spec.plain(full.model) == cell.setting['model']
        and full.batch_size == cell.setting['batch_size']
        and full.partition == cell.setting['partition']
        and full.local_steps == cell.setting['local_steps']
        and any(cell.attack.items() <= a.items() for a in full.attacks)
      ]
      self.assertLen(fits, 1, cell)

  @parameterized.parameters(11, 12, 13, 14)
  def test_each_printed_cell_of_a_defense_is_a_point(self, number):
    table = published.table(f'llbg Table {number}')
    arg = f'table={number},paper'
    points = [
      full
      for _, full in sweep.grid(_get(ROOT / 'configs/llbg_defenses.py', arg))
    ]
    for label, cell in table.cells.items():
      fits = []
      for full in points:
        setting = Setting(
          data=full.dataset.name,
          model=spec.plain(full.model),
          num_classes=100,
          batch_size=full.batch_size,
          trained=bool(full.train),
          defense=spec.plain(defenses.canonical(full.defense)),
          extra=dict(
            local_steps=full.local_steps,
            clients=full.clients,
            partition=full.partition,
          ),
        )
        learned = dict(relative_accuracy=0) if full.get('main_task') else {}
        rows = [
          dict(
            attack=dict(name=entry['name'], **spec.arguments(entry)),
            setting=setting._asdict(),
            metrics=learned,
          )
          for entry in full.attacks
        ]
        fits += [row for row in rows if published.holds(cell, row)]
      attacks = len(full.attacks) if cell.attack is None else 1
      self.assertLen(fits, attacks, label)

  @parameterized.parameters(
    ('cifar10', 'CIFAR-10'),
    ('cifar100', 'CIFAR-100'),
    ('cinic10', 'CINIC-10'),
    ('yahoo,bert', 'Yahoo Answers'),
    ('criteo', 'Criteo'),
    ('histopathology', 'BHI'),
  )
  def test_completions_are_the_published_ones(self, data, name):
    table = published.table('fu Table 2')
    config = _get(ROOT / 'configs/completion.py', f'data={data}')
    attacks = [dict(a) for a in config.attacks if 'r_max' not in a]
    by_name = {a['name']: a for a in attacks}
    for (row, _), cell in table.cells.items():
      if row == name:
        self.assertEqual(cell.setting['model'], spec.plain(config.model))
        self.assertEqual(cell.attack, by_name[cell.attack['name']])

  @parameterized.parameters(
    ('cifar10', 'CIFAR-10', 'cifar10'),
    ('criteo', 'Criteo', 'criteo'),
    ('histopathology', 'BHI', 'breast_histopathology x2'),
  )
  def test_depths_are_the_published_ones(self, data, prefix, name):
    table = published.table('fu supplement Figure 2')
    config = _get(ROOT / 'configs/completion_depth.py', f'data={data}')
    points = [full for _, full in sweep.grid(config)]
    asked = [c for (k, _), c in table.cells.items() if k.startswith(prefix)]
    self.assertLen(asked, 3 * len(points))
    for cell in asked:
      (full,) = [p for p in points if p.depth == cell.setting['depth']]
      setting = dict(
        data=name,
        model=spec.plain(full.model),
        depth=full.depth,
        labelled=full.aux.per_class * (10 if data == 'cifar10' else 2),
      )
      self.assertEqual(cell.setting, setting)
      self.assertIn(cell.attack, [dict(a) for a in full.attacks])

  @parameterized.parameters(('resnet20', 'cifar10, '), ('mnist', 'mnist, B'))
  def test_vertical_settings_are_the_published_ones(self, part, prefix):
    cells = {
      label: cell
      for name in ('bli Table 2', 'bli MNIST record')
      for (label, _), cell in published.table(name).cells.items()
      if label.startswith(prefix)
    }
    self.assertNotEmpty(cells)
    config = _get(ROOT / 'configs/bli.py', f'part={part}')
    points = [full for _, full in sweep.grid(config)]
    for label, cell in cells.items():
      fits = [
        full
        for full in points
        if spec.plain(full.model) == cell.setting['model']
        and full.dataset.name == cell.setting['data']
        and full.batch_size == cell.setting['batch_size']
        and full.split.name == cell.setting['split']
        and full.train.steps == cell.setting['step']
        and cell.setting.get('draw', full.draw) == full.draw
      ]
      self.assertLen(fits, 1, label)

  def test_trained_attacks_are_the_published_ones(self):
    config = _get(ROOT / 'configs/llbg_imagenet.py', 'table=5')
    asked = {(a['name'], a.get('confidence')) for a in config.attacks}
    for number in (5, 6):
      for cell in published.table(f'llbg Table {number}').cells.values():
        attack = cell.attack
        self.assertIn((attack['name'], attack.get('confidence')), asked)
