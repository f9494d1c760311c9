"""The command line: errors in one line, and rows that survive a SIGKILL."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from absl.testing import parameterized
import pytest

from labelleak import runs

ROOT = pathlib.Path(__file__).resolve().parents[2]
_CONFIG = '--config=configs/llbg_cifar.py:runlocal'
_SMALL = (
  _CONFIG,
  "--config.dataset={'name': 'digits'}",
  "--config.attacks=({'name': 'counts.llbg'}, {'name': 'counts.ebi'})",
  "--config.sweep=(('batch_size', (50, 60, 70, 80)),)",
)


def _launch(*flags, cwd=ROOT):
  command = [sys.executable, str(ROOT / 'launch.py'), *flags]
  return subprocess.Popen(
    command,
    cwd=cwd,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    # In the background of a shell it would be ignored.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(
    ((_CONFIG, '--config.batchsize=3'), 'Did you mean "batch_size"'),
    ((_CONFIG, '--wrokdir=/tmp/x'), "'wrokdir'. Did you mean: workdir"),
    ((_CONFIG, '--config.batch_size=many'), 'batch_size=many'),
    ((_CONFIG, '--config.attacks.0.name=x'), "'attacks.0.name'"),
    ((_CONFIG, '--config.sweep=()', '--config.batch_size=12'), 'local_steps='),
    (('--config=configs/llbg_cifar.py:tabel=3',), "'tabel'.*'table'"),
    (('--config=configs/absent.py',), 'configs/absent.py is no file; --list'),
    (('--config=llbg_vit',), 'mean --config=configs/llbg_vit.py'),
    (('--config=configs/lbg_vit.py:paper',), 'mean --config=configs/llbg_vit'),
    ((_CONFIG, 'table=3'), "'table=3' is no flag"),
    ((), '--config'),
  )
  def test_one_line_and_no_traceback(self, flags, message):
    workdir = self.create_tempdir().full_path
    process = _launch(*flags, f'--workdir={workdir}')
    out, err = process.communicate()
    self.assertEqual(process.returncode, 2, err)
    self.assertLen(err.strip().splitlines(), 1, err)
    self.assertRegex(err, message)
    self.assertEmpty(out)

  @parameterized.parameters((('--help',), 0), (('-h',), 0), ((), 2))
  def test_help(self, flags, status):
    process = _launch(*flags)
    out, err = process.communicate()
    self.assertEqual((process.returncode, err), (status, ''))
    for flag in ('--config=', '--workdir=', '--list', '--help'):
      self.assertIn(flag, out)

  def test_a_flag_wins_over_the_sweep_and_says_so(self):
    workdir = self.create_tempdir().full_path
    process = _launch(
      *_SMALL[:-1], '--config.batch_size=50', f'--workdir={workdir}'
    )
    _, err = process.communicate()
    self.assertEqual(process.returncode, 0, err)
    self.assertIn('launch.py: batch_size=50 wins over the sweep', err)
    sizes = {r['setting']['batch_size'] for r in runs.read_rows(workdir)}
    self.assertEqual(sizes, {50})

  def test_a_workdir_of_an_earlier_form_is_refused(self):
    """Its config stood alone, and its rows were flat."""
    workdir = pathlib.Path(self.create_tempdir().full_path)
    row = dict(config='llbg_cifar', data='digits', attack='counts.llbg')
    before = {
      'config.json': json.dumps(dict(name='llbg_cifar', trials=2)),
      'rows.jsonl': json.dumps(row) + '\n',
    }
    for name, text in before.items():
      (workdir / name).write_text(text)
    process = _launch(*_SMALL, f'--workdir={workdir}')
    out, err = process.communicate()
    self.assertEqual(process.returncode, 2, err)
    lines = [line for line in err.splitlines() if 'launch.py' in line]
    self.assertLen(lines, 1, err)
    self.assertRegex(lines[0], 'earlier labelleak.*choose another --workdir')
    self.assertNotIn('Traceback', err)
    self.assertEmpty(out)
    for name, text in before.items():
      self.assertEqual((workdir / name).read_text(), text)


class KillTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_rows_survive_a_kill(self):
    whole, killed = (self.create_tempdir().full_path for _ in range(2))
    process = _launch(*_SMALL, f'--workdir={killed}')
    rows = pathlib.Path(killed, 'rows.jsonl')
    deadline = time.monotonic() + 300
    while not (rows.exists() and rows.read_text().count('\n') >= 3):
      self.assertIsNone(process.poll(), 'ended before it could be killed')
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = runs.read_rows(killed)
    self.assertBetween(len(left), 3, 9)  # of 12: stopped in mid-sweep
    for workdir in (killed, whole):
      process = _launch(*_SMALL, f'--workdir={workdir}')
      out, err = process.communicate()
      self.assertEqual(process.returncode, 0, err)
      self.assertIn('random', out)
    comparable = [
      [runs.comparable(row) for row in runs.read_rows(workdir)]
      for workdir in (killed, whole)
    ]
    self.assertLen(comparable[0], 12)
    self.assertEqual(*comparable)
    ours, theirs = runs.read_arrays(killed), runs.read_arrays(whole)
    self.assertEqual(ours.keys(), theirs.keys())
    for name, values in ours.items():
      self.assertEqual(values.tolist(), theirs[name].tolist())

  def test_a_stop_by_hand_is_one_line_that_says_how_to_go_on(self):
    root = self.create_tempdir().full_path
    process = _launch(_CONFIG.replace('=', f'={ROOT}/'), *_SMALL[1:], cwd=root)
    workdir = pathlib.Path(root, 'runs', 'llbg_cifar-runlocal')
    deadline = time.monotonic() + 300
    while not (workdir / 'config.json').exists():
      self.assertIsNone(process.poll(), 'ended before it could be stopped')
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    self.assertEqual(process.returncode, 130, err)
    self.assertNotIn('Traceback', err)
    self.assertEqual(
      err.strip().splitlines()[-1],
      'launch.py: stopped by hand; the same command goes on from'
      ' runs/llbg_cifar-runlocal.',
    )
    self.assertEmpty(out)
    self.assertFalse((workdir / 'lock').exists())
