"""A SIGKILL at any moment costs nothing that has finished."""

import multiprocessing
import pathlib
import time

from absl.testing import parameterized
import numpy as np
import pytest

from labelleak import runs
from tests.repository import kills

_KILLS = 3  # of each experiment, 27 together


@pytest.mark.slow
class KillsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.context = multiprocessing.get_context('forkserver')
    self.context.set_forkserver_preload(['tests.repository.kills'])

  def _run(self, name, workdir, kill_after=None):
    """Returns whether a run ended, not killed, and after how many seconds."""
    started = time.monotonic()
    process = self.context.Process(target=kills.work, args=(name, str(workdir)))
    process.start()
    process.join(kill_after)
    if ended := process.exitcode is not None:
      self.assertEqual(process.exitcode, 0)
    process.kill()
    process.join()
    return ended, time.monotonic() - started

  @parameterized.parameters(*kills.CONFIGS)
  def test_killed_runs_end_as_whole_ones(self, name):
    whole = self.root / 'whole'
    self._run(name, self.root / 'first')  # compiles
    _, seconds = self._run(name, whole)
    rng = np.random.default_rng([19, *name.encode()])
    killed, lives, resumed = 0, 0, 0
    while killed < _KILLS:
      workdir = self.root / f'killed{lives}'
      ended = False
      while not ended:
        left = killed < _KILLS
        ended, _ = self._run(
          name, workdir, rng.uniform(0.1, 0.9) * seconds if left else None
        )
        killed += not ended
        resumed += not ended and (workdir / 'unfinished').is_dir()
      self._compare(workdir, whole)
      lives += 1
    # When a kill falls is a matter of the machine; none of these may be told.
    print(f'{name}: {killed} kills, {resumed} with something unfinished')

  def _compare(self, workdir, whole):
    ours, theirs = map(runs.read_rows, (workdir, whole))
    self.assertEqual(
      list(map(runs.comparable, ours)), list(map(runs.comparable, theirs))
    )
    self.assertNotEmpty(ours)
    ours, theirs = map(runs.read_arrays, (workdir, whole))
    self.assertEqual(ours.keys(), theirs.keys())
    for array, values in ours.items():
      np.testing.assert_array_equal(values, theirs[array])
    # Killed between its end and its line, a trial has no line; none has two.
    ours, theirs = (
      (folder / kills.FINISHED).read_text().count('\n')
      for folder in (workdir, whole)
    )
    self.assertLessEqual(ours, theirs)
    self.assertFalse((workdir / 'unfinished').exists())
    self.assertFalse((workdir / 'lock').exists())
