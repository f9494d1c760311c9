"""From config to rows: what they hold, resume, and errors in one line."""

import errno
import io
import os
import pathlib
import sys
from unittest import mock

from absl.testing import absltest, parameterized
import jax
from ml_collections import ConfigDict
import numpy as np

from labelleak import experiments, report, runs
from labelleak.base import InputError
from labelleak.report import tables
from labelleak.runs import files, locks, unfinished
from tests.experiments import samples

_OUTSIDE = '''\
"""An experiment of a stranger's, who states what is required and no more."""

import numpy as np
from labelleak.experiments import Measure
from labelleak.experiments.result import NO_ATTACK, Result, Setting

CALLS = []


def experiment(*, config) -> Measure:

  def measure(progress):
    CALLS.append(config.scale)
    setting = Setting({setting})
    values = dict(scaled=config.scale * np.arange(config.trials) / 10)
    return [Result(NO_ATTACK, (), setting, values)]

  return measure
'''
_REQUIRED = "'numbers', dict(name='none'), 2, None, trained=False"


class RowsTest(parameterized.TestCase):
  def test_a_row_is_complete(self):
    rows = experiments.run(samples.horizontal())
    self.assertEqual(
      [row['attack'] for row in rows],
      [
        dict(name='counts.llbg'),
        dict(name='counts.ebi'),
        dict(name='counts.random'),
      ],
    )
    for row in rows:
      self.assertEqual(row['config'], 'test')
      setting = row['setting']
      self.assertEqual(setting['data'], 'digits')
      self.assertEqual(setting['model'], dict(name='mlp.mlp', width=16))
      self.assertEqual(setting['batch_size'], 20)
      self.assertEqual(setting['defense'], [])
      self.assertFalse(setting['trained'])
      self.assertEqual(row['trials'], 6)
      self.assertEqual(
        row['known'], ['lr', 'steps', 'clients', 'defense', 'model']
      )
      for metric in ('count_accuracy', 'presence_precision', 'count_error'):
        self.assertEqual(set(row['metrics'][metric]), {'mean', 'std', 'stderr'})
      for field in ('seconds', 'device', 'versions', 'commit', 'paper', 'seed'):
        self.assertIn(field, row)
      self.assertIsNone(row['provenance'])

  def test_more_trials_extend_fewer(self):
    few, many = self.create_tempdir().full_path, self.create_tempdir().full_path
    experiments.run(samples.horizontal(trials=3), few)
    experiments.run(samples.horizontal(trials=5, per_device=1), many)
    few, many = runs.read_arrays(few), runs.read_arrays(many)
    self.assertNotEmpty(few)
    for name, values in few.items():
      np.testing.assert_allclose(values, many[name][:3])

  @parameterized.parameters(False, True)
  def test_a_killed_point_goes_on_from_its_last_trial(self, new_code):
    whole, killed = [self.create_tempdir().full_path for _ in range(2)]
    config = samples.horizontal(trials=9, per_device=1)
    rows = experiments.run(config, whole)
    told = experiments.Progress.__call__
    moves = []

    def tell(progress, num, values=None):
      told(progress, num, values)
      moves.append(num)
      if len(moves) == 2:
        raise KeyboardInterrupt  # as early as a kill would end it

    with (
      mock.patch.object(runs, 'EVERY', 0.0),
      mock.patch.object(experiments.Progress, '__call__', tell),
    ):
      with self.assertRaises(KeyboardInterrupt):
        experiments.run(config, killed)
      self.assertEmpty(runs.read_rows(killed))
      code = ['other'] if new_code else runs.code()
      with mock.patch.object(unfinished, 'code', return_value=code):
        again = experiments.run(config, killed)
    left = 9 if new_code else 9 - sum(moves[:2])
    self.assertEqual(sum(moves[2:]), left)
    self.assertEqual(*[[*map(runs.comparable, r)] for r in (rows, again)])
    self.assertNotIn('unfinished', os.listdir(killed))
    values = runs.read_arrays(whole)
    self.assertEqual(values.keys(), runs.read_arrays(killed).keys())
    for name in values:
      np.testing.assert_array_equal(
        runs.read_arrays(killed)[name], values[name]
      )

  def test_device_count_does_not_change_rows(self):
    rows = []
    for num in (1, 4):
      devices = jax.local_devices()[:num]
      with mock.patch.object(jax, 'devices', return_value=devices):
        rows.append(
          [
            runs.comparable(row)
            for row in experiments.run(
              samples.horizontal(trials=6, per_device=1)
            )
          ]
        )
    self.assertEqual(*rows)

  def test_attacks_do_not_disturb_each_other(self):
    alone = samples.horizontal(attacks=samples.COUNTS[1:])
    alone = samples.by_attack(experiments.run(alone))
    both = samples.by_attack(experiments.run(samples.horizontal()))
    self.assertEqual(set(alone), {'counts.ebi', 'counts.random'})
    for name in alone:
      self.assertEqual(alone[name], both[name])

  def test_one_initialisation_by_seed(self):
    rows = [
      experiments.run(samples.horizontal(seed=seed)) for seed in (0, 0, 1)
    ]
    first, again, other = map(samples.by_attack, rows)
    self.assertEqual(first, again)
    self.assertNotEqual(first, other)


class ResumeTest(parameterized.TestCase):
  def test_finished_points_are_not_run_again(self):
    config = samples.horizontal(sweep=(('batch_size', (20, 30)),))
    workdir = self.create_tempdir().full_path
    rows = experiments.run(config, workdir)
    with (
      mock.patch.object(runs, 'append_point') as append,
      mock.patch('sys.stderr', new_callable=io.StringIO) as shown,
    ):
      again = experiments.run(config, workdir)
    self.assertIn(f'{workdir}: 2 of 2 points were finished.', shown.getvalue())
    append.assert_not_called()
    self.assertEqual(rows, again)
    self.assertEqual(rows, runs.read_rows(workdir))

  def test_config_dict_survives(self):
    config = samples.horizontal()
    before = config.to_json()
    experiments.run(config)
    self.assertEqual(config.to_json(), before)
    self.assertIsInstance(config, ConfigDict)


class OutsideTest(parameterized.TestCase):
  """An experiment in a flat module of a folder on PYTHONPATH."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.name = f'outside_{abs(hash(self.id()))}'  # a module is imported once
    self.enterContext(
      mock.patch.object(sys, 'path', [*sys.path, str(self.root)])
    )
    self.addCleanup(sys.modules.pop, self.name, None)
    self.workdir = str(self.root / 'run')

  def _config(self, setting):
    path = self.root / f'{self.name}.py'
    path.write_text(_OUTSIDE.format(setting=setting))
    return ConfigDict(
      dict(
        name='outside',
        experiment=self.name,
        scale=1.0,
        trials=3,
        seed=0,
        sweep=(('scale', (1.0, 2.0)),),
      )
    )

  def test_required_fields_are_enough_to_be_shown_and_resumed(self):
    config = self._config(_REQUIRED)
    rows = experiments.run(config, self.workdir)
    means = [row['metrics']['scaled']['mean'] for row in rows]
    np.testing.assert_allclose(means, [0.1, 0.2])
    self.assertIn('scaled', tables.points(rows))
    table = pathlib.Path(self.workdir, 'table.md')
    self.assertIn('scaled', table.read_text())
    calls = sys.modules[self.name].CALLS
    self.assertEqual(calls, [1.0, 2.0])
    table.unlink()
    self.assertEqual(experiments.run(config, self.workdir), rows)
    self.assertEqual(calls, [1.0, 2.0])  # nothing ran again
    self.assertTrue(table.exists())

  def test_a_finished_run_can_be_read_only(self):
    config = self._config(_REQUIRED)
    rows = experiments.run(config, self.workdir)
    read_only = OSError(errno.EROFS, 'read-only')
    with (
      mock.patch.object(locks, '_lock', side_effect=read_only),
      mock.patch.object(files, 'replace', side_effect=read_only),
      mock.patch.object(report, 'finish', side_effect=AssertionError),
    ):
      self.assertEqual(experiments.run(config, self.workdir), rows)
      other = str(self.root / 'unfinished')
      with self.assertRaisesRegex(InputError, 'cannot be opened.*--workdir'):
        experiments.run(config, other)
      path = pathlib.Path(self.workdir)
      (path / 'rows.jsonl').unlink()
      (path / 'trials.npz').unlink()
      message = 'cannot be written, and 0 of 2 points are finished; choose'
      with self.assertRaisesRegex(InputError, message):
        experiments.run(config, self.workdir)

  def test_any_error_ends_its_point_alone(self):
    """Memory that is short, or a fault of an experiment's own."""
    for error in (MemoryError(), ZeroDivisionError('by nought\nand more')):
      config = self._config(_REQUIRED)
      config.sweep = (('scale', (1.0, 2.0, 3.0)),)
      workdir = f'{self.workdir}-{type(error).__name__}'
      moment = mock.Mock(side_effect=[1.0, error, 1.0, 1.0])
      with (
        mock.patch.object(experiments.Progress, 'seconds', moment),
        self.assertRaisesRegex(InputError, '1 of 3 points') as caught,
      ):
        experiments.run(config, workdir)
      line = str(caught.exception)
      self.assertRegex(line, rf'scale=.\.0: {type(error).__name__}: ')
      short = 'lower per_device or batch_size' in line
      self.assertEqual(short, isinstance(error, MemoryError))
      self.assertNotIn('\n', line)
      self.assertIn('Traceback', caught.exception.__notes__[0])
      self.assertLen(runs.read_rows(workdir), 2)
      rows = experiments.run(config, workdir)  # the one that is left
      means = [row['metrics']['scaled']['mean'] for row in rows]
      np.testing.assert_allclose(means, [0.1, 0.2, 0.3])

  def test_a_person_who_stops_a_callback_stops_the_run(self):
    config = self._config(_REQUIRED)
    error = ValueError('callback failed: KeyboardInterrupt: ')
    with (
      mock.patch.object(experiments.Progress, 'seconds', side_effect=error),
      self.assertRaises(KeyboardInterrupt),
    ):
      experiments.run(config, self.workdir)

  def test_nothing_of_a_point_outlives_it(self):
    """Programs map memory: no more before the fourth point than the second."""
    config = samples.vertical(
      experiment='vfl.training', train__steps=2, trials=1
    )
    config.model = dict(name='mlp.linear')
    config.sweep = (('optimizer.lr', tuple(0.01 * i for i in range(1, 5))),)
    maps, measure = [], experiments._measure

    def count(job, workdir):
      maps.append(experiments._count_maps())
      return measure(job, workdir)

    with mock.patch.object(experiments, '_measure', count):
      experiments.run(config)
    if not any(maps):
      self.skipTest('no /proc')
    self.assertLess(maps[-1] - maps[1], 100)  # of 2 x 147

  @parameterized.parameters('trained', 'num_classes', 'model')
  def test_a_missing_field_fails_before_a_row_is_written(self, field):
    given = dict(
      data='numbers',
      model=dict(name='none'),
      num_classes=2,
      batch_size=None,
      trained=False,
    )
    del given[field]
    config = self._config(f'**{given}')
    message = f"TypeError: .*missing .*'{field}'"
    with self.assertRaisesRegex(InputError, message):
      experiments.run(config, self.workdir)
    self.assertEmpty(runs.read_rows(self.workdir))
    # Mended, the same workdir goes on.
    del sys.modules[self.name]
    config = self._config(_REQUIRED)
    self.assertLen(experiments.run(config, self.workdir), 2)


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(trials=0), 'trials=0'),
    (dict(experiment='hlf'), "'hlf'; .*known: .*hfl.label_counts"),
    (dict(experiment='hfl.label_count'), "did you mean 'hfl.label_counts'"),
  )
  def test_one_line_naming_the_value(self, fields, message):
    with self.assertRaisesRegex(InputError, message) as caught:
      experiments.run(samples.horizontal(**fields))
    self.assertNotIn('\n', str(caught.exception))

  def test_a_bad_point_stops_the_sweep_before_the_first_runs(self):
    config = samples.horizontal(sweep=(('batch_size', (20, 12)),))
    workdir = self.create_tempdir().full_path
    with self.assertRaisesRegex(InputError, 'batch_size=12'):
      experiments.run(config, workdir)
    self.assertEmpty(runs.read_rows(workdir))

  @parameterized.parameters(
    (dict(aggregate=dict(name='ckks', bound=1e-4)), 'beyond bound=0.0001'),
    (dict(optimizer__lr=1e38), 'loss is .* at step'),
  )
  def test_what_only_a_run_finds_is_one_line(self, fields, message):
    fields |= dict(experiment='vfl.training', train__steps=30, classes=2)
    fields['model'] = dict(name='mlp.linear')
    with self.assertRaisesRegex(InputError, message) as caught:
      experiments.run(samples.vertical(**fields))
    self.assertLen(str(caught.exception).splitlines(), 1)

  def test_it_ends_its_point_alone(self):
    config = samples.vertical(
      experiment='vfl.training', train__steps=30, classes=2
    )
    config.model = dict(name='mlp.linear')
    config.sweep = (('optimizer.lr', (1e38, 0.01)),)
    workdir = self.create_tempdir().full_path
    with self.assertRaisesRegex(
      InputError,
      r'1 of 2 points stopped\. optimizer\.lr=1e\+38: loss is.* is in .*\.$',
    ):
      experiments.run(config, workdir)
    rows = runs.read_rows(workdir)
    self.assertEqual({row['point']['optimizer.lr'] for row in rows}, {0.01})
    self.assertTrue(os.path.exists(os.path.join(workdir, 'table.md')))
    with self.assertRaisesRegex(InputError, '1 of 2 points stopped'):
      experiments.run(config, workdir)
    self.assertEqual(runs.read_rows(workdir), rows)  # what was finished stays


if __name__ == '__main__':
  absltest.main()
