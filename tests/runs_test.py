"""The store of a run: what it keeps, what a kill leaves, what it refuses."""

import io
import json
import os
import pathlib
import socket
import subprocess
import sys
from unittest import mock

from absl.testing import absltest, parameterized
from ml_collections import ConfigDict
import numpy as np

from labelleak import runs
from labelleak.base import InputError
from labelleak.runs import origin, unfinished
from tests.report import sample


def _values(rows):
  return [dict(count_accuracy=np.arange(3.0) + i) for i in range(len(rows))]


class WorkdirTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.config = ConfigDict(dict(lr=0.1, model=dict(name='m', width=2)))

  def test_rows_and_values_come_back(self):
    self.assertEqual(runs.open_workdir(self.workdir, self.config), [])
    rows = [sample.horizontal(), sample.horizontal('counts.ebi')]
    runs.append_point(self.workdir, rows, _values(rows))
    self.assertEqual(runs.open_workdir(self.workdir, self.config), rows)
    more = [sample.horizontal(point={'a': 1})]
    runs.append_point(self.workdir, more, _values(more))
    self.assertEqual(
      runs.open_workdir(self.workdir, self.config), [*rows, *more]
    )
    values = runs.read_arrays(self.workdir)
    wanted = {0: [0, 1, 2], 1: [1, 2, 3], 2: [0, 1, 2]}
    self.assertLen(values, len(wanted))
    for index, numbers in wanted.items():
      np.testing.assert_array_equal(values[f'{index}/count_accuracy'], numbers)

  def test_files_of_points_have_their_names(self):
    write = lambda point: runs.write_texts(self.workdir, point, {'a.txt': 'A'})
    paths = [*write({}), *write({'lr': 0.1, 'model.name': 'm/n'})]
    names = ['a.txt', 'a-lr=0.1_model.name=m_n.txt']
    self.assertEqual([pathlib.Path(path).name for path in paths], names)
    self.assertEqual({*os.listdir(self.workdir)}, {*names})
    self.assertEqual(pathlib.Path(paths[1]).read_text(), 'A')

  def test_a_kill_after_a_point_is_written_leaves_nothing_unfinished(self):
    points = [{'lr': lr, 'widths': [8, 4]} for lr in (0.1, 0.2, 0.3)]
    for point in points:
      runs.save_trials(self.workdir, point, [np.arange(2)], 1.0)
    with mock.patch.object(unfinished, 'forget', side_effect=SystemExit):
      for point in points[:2]:
        rows = [sample.horizontal(point=point)]
        with self.assertRaises(SystemExit):
          runs.append_point(self.workdir, rows, _values(rows))
    self.assertLen(runs.open_workdir(self.workdir, self.config), 2)
    kept = [bool(runs.load_trials(self.workdir, p)[0]) for p in points]
    self.assertEqual(kept, [False, False, True])

  @parameterized.parameters('files.save_arrays', 'store._line')
  def test_a_point_that_cannot_be_written_leaves_no_trace(self, function):
    """On a disk that was full, say; other points are written after it."""
    runs.open_workdir(self.workdir, self.config)
    points = [[sample.horizontal(point={'a': a})] for a in range(3)]
    runs.append_point(self.workdir, points[0], _values(points[0]))
    full = mock.patch(f'labelleak.runs.{function}', side_effect=OSError(28))
    with full, self.assertRaises(OSError):
      runs.append_point(self.workdir, points[1], _values(points[1]))
    self.assertEqual(runs.read_rows(self.workdir), points[0])
    runs.append_point(self.workdir, points[2], _values(points[2]))
    rows = runs.open_workdir(self.workdir, self.config)
    self.assertEqual(rows, points[0] + points[2])

  @parameterized.parameters(0, 1, 20)
  def test_torn_points_are_forgotten(self, cut):
    runs.open_workdir(self.workdir, self.config)
    names = 'counts.llbg', 'counts.ebi'
    first = [sample.horizontal(name, point={'a': 1}) for name in names]
    second = [sample.horizontal(name, point={'a': 2}) for name in names]
    runs.append_point(self.workdir, first, _values(first))
    # Killed while the second point was written: no values yet, a torn line.
    path = self.workdir / 'rows.jsonl'
    with open(path, 'a') as f:
      f.write(json.dumps(second[0]) + '\n')
      f.write(json.dumps(second[1])[:cut])
    self.assertEqual(runs.open_workdir(self.workdir, self.config), first)
    self.assertEqual(runs.read_rows(self.workdir), first)

  @parameterized.parameters(
    ('lr', 0.2, r'config.lr was 0.1 and is 0.2'),
    ('model', dict(name='m', width=3), r'config.model.width was 2 and is 3'),
    ('model', dict(name='m'), r'config.model.width is only in that run'),
  )
  def test_another_config_is_refused(self, field, value, message):
    runs.open_workdir(self.workdir, self.config)
    runs.open_workdir(self.workdir, self.config)  # the same one is not
    other = self.config.copy_and_resolve_references()
    other[field] = ConfigDict(value) if isinstance(value, dict) else value
    with self.assertRaisesRegex(InputError, message):
      runs.open_workdir(self.workdir, other)

  def test_a_run_in_an_earlier_form_is_refused(self):
    path = self.workdir / 'config.json'
    for contents in (dict(lr=0.1), dict(layout=1, config=dict(lr=0.1))):
      path.write_text(json.dumps(contents))
      with self.assertRaisesRegex(InputError, 'earlier labelleak') as caught:
        runs.open_workdir(self.workdir, self.config)
      line = str(caught.exception)
      self.assertNotIn('\n', line)
      self.assertIn(str(self.workdir), line)
      self.assertIn('choose another --workdir or remove this one', line)
      # It is left as it was.
      self.assertEqual(json.loads(path.read_text()), contents)
      self.assertFalse((self.workdir / 'rows.jsonl').exists())

  def test_what_differs_in_a_long_sweep_is_named_in_a_line(self):
    self.config.sweep = (('lr', tuple(0.1 * i for i in range(1, 99))),)
    runs.open_workdir(self.workdir, self.config)
    other = self.config.copy_and_resolve_references()
    other.sweep = (('lr', tuple(0.1 * i for i in range(2, 100))),)
    where = r'config.sweep\[0\]\[1\]\[0\] was 0.1 and is 0.2'
    with self.assertRaisesRegex(InputError, where) as caught:
      runs.open_workdir(self.workdir, other)
    self.assertLess(len(str(caught.exception)), 300)
    other.sweep = (*self.config.sweep, ('seed', (0, 1)))
    with self.assertRaisesRegex(InputError, 'had 1 entries and has 2'):
      runs.open_workdir(self.workdir, other)


def _edit_row(change, place=1):
  """Returns what edits a row of the file, which `change` mutates."""

  def damage(workdir):
    path = workdir / 'rows.jsonl'
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows[place])
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))

  return damage


def _edit_text(change, name='rows.jsonl'):
  """Returns what rewrites a file's bytes."""

  def damage(workdir):
    path = workdir / name
    path.write_bytes(change(path.read_bytes()))

  return damage


def _edit_values(change):
  """Returns what rewrites the values, `change` mutating their dict."""

  def damage(workdir):
    with np.load(workdir / 'trials.npz') as f:
      arrays = dict(f)
    change(arrays)
    np.savez(workdir / 'trials.npz', **arrays)

  return damage


def _lines(change):
  return _edit_text(
    lambda text: b''.join(change(text.splitlines(keepends=True)))
  )


def _summarise(row, values):
  """A row whose metrics are those of its values."""
  summary = dict(mean=float(values.mean()), std=1.0, stderr=1.0)
  return dict(row, metrics=dict(count_accuracy=summary))


_DAMAGES = dict(
  a_cut_last_row=(_edit_text(lambda text: text[:-20]), 'row 4 is missing'),
  a_lost_last_row=(_lines(lambda rows: rows[:-1]), 'row 4 is missing'),
  a_lost_row=(_lines(lambda rows: rows[1:]), 'row 4 is missing'),
  no_rows=(lambda workdir: (workdir / 'rows.jsonl').unlink(), 'row 1 is missi'),
  a_doubled_last_row=(_lines(lambda r: [*r, r[-1]]), 'row 5 doubles one'),
  a_doubled_row=(
    _lines(lambda r: [r[0], *r]),
    r'row \d (doubles|.*count_accuracy)',
  ),
  swapped_rows=(_lines(lambda r: r[::-1]), 'row 1 .*count_accuracy'),
  a_changed_point=(_edit_row(lambda r: r.update(point={'a': 9})), 'row 2 was'),
  a_changed_setting=(
    _edit_row(lambda row: row['setting'].update(batch_size=7)),
    'row 2 was changed',
  ),
  a_changed_mean=(
    _edit_row(lambda row: row['metrics']['count_accuracy'].update(mean=0.9)),
    'row 2 has not the mean of its values of count_accuracy',
  ),
  a_missing_metric=(
    _edit_row(lambda row: row['metrics'].clear()),
    'row 2 lacks count_accuracy',
  ),
  missing_metrics=(_edit_row(lambda row: row.pop('metrics')), 'metrics'),
  no_row=(_lines(lambda r: [r[0], b'{"a": \n', *r[1:]]), 'line 2, is no row'),
  a_number=(_lines(lambda rows: [*rows[:-1], b'7\n']), 'line 4, is no row'),
  not_text=(_lines(lambda rows: [b'\xff\xfe\n', *rows]), 'line 1, is no row'),
  missing_values=(
    _edit_values(lambda arrays: arrays.pop('1/count_accuracy')),
    'row 2 has no values of count_accuracy',
  ),
  changed_values=(
    _edit_values(lambda arrays: np.put(arrays['1/count_accuracy'], 0, 0.5)),
    'row 2 has not the mean',
  ),
  values_of_the_same_mean=(
    _edit_values(lambda arrays: arrays['1/count_accuracy'].sort()),
    'row 2 was changed',
  ),
  other_values=(
    _edit_values(lambda a: a.update(x=a['0/count_accuracy'])),
    'other arrays',
  ),
  cut_values=(_edit_text(lambda text: text[:-50], 'trials.npz'), 'is damaged'),
  flipped_values=(
    _edit_text(
      lambda t: t[: len(t) // 3] + b'?' + t[len(t) // 3 + 1 :], 'trials.npz'
    ),
    'is damaged',
  ),
  empty_values=(_edit_text(lambda text: b'', 'trials.npz'), 'is damaged'),
  no_config=(_edit_text(lambda text: text[:-9], 'config.json'), 'is no JSON'),
  an_array=(_edit_text(lambda text: b'[]', 'config.json'), 'another form'),
)


class DamageTest(parameterized.TestCase):
  """What no kill leaves is found at the start, named, with the remedy."""

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.config = ConfigDict(dict(lr=0.1))
    runs.open_workdir(self.workdir, self.config)
    for a in (1, 2):
      values = [np.array([0.3, 0.2, 0.1]) * a, np.array([0.9, 0.8, 0.7]) / a]
      rows = [
        _summarise(sample.horizontal(name, point={'a': a}), each)
        for name, each in zip(('counts.llbg', 'counts.ebi'), values)
      ]
      runs.append_point(
        self.workdir, rows, [dict(count_accuracy=each) for each in values]
      )

  @parameterized.named_parameters(
    (name, damage, message) for name, (damage, message) in _DAMAGES.items()
  )
  def test_is_refused(self, damage, message):
    self.assertLen(runs.open_workdir(self.workdir, self.config), 4)
    damage(self.workdir)
    before = {p.name: p.read_bytes() for p in self.workdir.iterdir()}
    with self.assertRaisesRegex(InputError, message) as caught:
      runs.open_workdir(self.workdir, self.config)
    line = str(caught.exception)
    self.assertNotIn('\n', line)
    self.assertIn(str(self.workdir), line)
    self.assertRegex(line, 'restore it from a copy|choose another --workdir')
    after = {p.name: p.read_bytes() for p in self.workdir.iterdir()}
    self.assertEqual(before, after)

  @parameterized.parameters(
    'a_cut_last_row',
    'a_doubled_row',
    'a_changed_mean',
    'missing_metrics',
    'missing_values',
    'changed_values',
  )
  def test_is_refused_of_an_earlier_version(self, name):
    """It wrote no digests."""
    _edit_values(lambda arrays: arrays.pop('digests'))(self.workdir)
    self.assertLen(runs.open_workdir(self.workdir, self.config), 4)
    damage, message = _DAMAGES[name]
    damage(self.workdir)
    with self.assertRaisesRegex(InputError, message):
      runs.open_workdir(self.workdir, self.config)

  def test_an_annotated_row_is_as_good(self):
    _edit_row(lambda row: row.update(provenance='merged', seconds=1.0))(
      self.workdir
    )
    self.assertLen(runs.open_workdir(self.workdir, self.config), 4)

  @parameterized.parameters(b'', b'PK', b'not an archive')
  def test_unfinished_trials_that_are_damaged_run_again(self, contents):
    runs.save_trials(self.workdir, {'a': 3}, [np.arange(2)], 1.0)
    ((trials,), seconds) = runs.load_trials(self.workdir, {'a': 3})
    self.assertEqual((trials.tolist(), seconds), ([0, 1], 1.0))
    self.assertEqual(runs.load_trials(self.workdir, {'a': 4}), ([], 0.0))
    (path,) = self.workdir.glob('unfinished/*/trials.npz')
    path.write_bytes(contents)
    self.assertEqual(runs.load_trials(self.workdir, {'a': 3}), ([], 0.0))


_HOLDER = """
import fcntl, json, os, socket, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX)
os.write(file, json.dumps([socket.gethostname(), os.getpid()]).encode())
print('held', flush=True)
time.sleep(60)
"""


class LockTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.lock = self.workdir / 'lock'

  def _hold(self):
    """Returns what holding says, and checks that nothing is left of it."""
    with (
      mock.patch('sys.stderr', new_callable=io.StringIO) as shown,
      runs.hold(self.workdir) as writable,
    ):
      self.assertTrue(writable)
      holder = json.loads(self.lock.read_text())
      self.assertEqual(holder, [socket.gethostname(), os.getpid()])
    self.assertFalse(self.lock.exists())
    return shown.getvalue()

  def test_the_second_is_told_who_holds_it(self):
    self.assertEmpty(self._hold())
    where = f'process {os.getpid()} on {socket.gethostname()}; .*--workdir'
    with runs.hold(self.workdir):
      with self.assertRaisesRegex(InputError, where) as caught:
        self._hold()
      self.assertNotIn('\n', str(caught.exception))
      self.assertTrue(self.lock.exists())  # the refused one left it
    self.assertEmpty(self._hold())  # and after an error
    with self.assertRaises(KeyboardInterrupt), runs.hold(self.workdir):
      raise KeyboardInterrupt
    self.assertEmpty(self._hold())

  def test_a_killed_process_holds_nothing(self):
    command = [sys.executable, '-c', _HOLDER, str(self.lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
      self.assertEqual(other.stdout.readline(), 'held\n')
      with self.assertRaisesRegex(InputError, f'process {other.pid} on'):
        self._hold()
      other.kill()
    self.assertIn(f'took over from process {other.pid}', self._hold())

  def test_another_host_is_believed(self):
    self.lock.write_text(json.dumps(['elsewhere', 7]))
    with self.assertRaisesRegex(InputError, 'process 7 on elsewhere.*remove'):
      self._hold()
    self.assertEqual(json.loads(self.lock.read_text()), ['elsewhere', 7])

  def test_a_file_that_names_nobody_is_taken_over(self):
    for contents in ('', '[]', 'null', '{"a": 1}'):
      self.lock.write_text(contents)
      self.assertEmpty(self._hold())

  def test_without_locks_of_the_system_a_pid_decides(self):
    host = socket.gethostname()
    with mock.patch('fcntl.flock', side_effect=OSError(38, 'not here')):
      self.lock.write_text(json.dumps([host, 2**22 + 1]))  # beyond all pids
      self.assertIn('took over', self._hold())
      self.lock.write_text(json.dumps([host, os.getppid()]))
      with self.assertRaisesRegex(InputError, f'process {os.getppid()} on'):
        self._hold()

  def test_no_folder_is_refused(self):
    file = self.workdir / 'file'
    file.write_text('')
    message = 'cannot be a workdir.*--workdir'
    with self.assertRaisesRegex(InputError, message), runs.hold(file):
      pass


class CommitTest(absltest.TestCase):
  """The commit is of our own sources, not of what they lie in."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def _git(self, *arguments):
    identity = ['-c', 'user.name=a', '-c', 'user.email=a@b']
    command = ['git', '-C', str(self.root), *identity, *arguments]
    return subprocess.run(
      command, check=True, capture_output=True, text=True
    ).stdout.strip()

  def _package(self, *parents):
    package = self.root.joinpath(*parents, 'labelleak')
    package.mkdir(parents=True)
    (package / '__init__.py').write_text('')
    return package

  def test_a_checkout_states_its_own(self):
    package = self._package()
    self.assertIsNone(origin.read_commit(package))  # no repository
    self._git('init', '-q')
    self.assertIsNone(origin.read_commit(package))  # no part of it
    self._git('add', '.')
    self._git('commit', '-qm', 'all')
    head = self._git('rev-parse', 'HEAD')
    commit = origin.read_commit(package)
    self.assertTrue(head.startswith(commit), commit)
    with mock.patch.dict(os.environ, GIT_DIR=str(self.root / 'absent')):
      self.assertEqual(origin.read_commit(package), commit)
    (package / '__init__.py').write_text('changed')
    self.assertEqual(origin.read_commit(package), f'{commit}-dirty')

  def test_a_wheel_inside_a_repository_states_none(self):
    package = self._package('.venv', 'lib', 'site-packages')
    self._git('init', '-q')
    (self.root / 'file').write_text('')
    self._git('add', 'file')
    self._git('commit', '-qm', 'theirs')
    self.assertIsNone(origin.read_commit(package))
    self._git('add', '-f', '.')  # even where they commit their environment
    self._git('commit', '-qm', 'theirs')
    self.assertIsNone(origin.read_commit(package))

  def test_without_git_there_is_none(self):
    package = self._package()
    with mock.patch('subprocess.run', side_effect=FileNotFoundError):
      self.assertIsNone(origin.read_commit(package))


if __name__ == '__main__':
  absltest.main()
