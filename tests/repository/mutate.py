"""Mutations of the package: which changes of its code does no test notice?

`python -m tests.repository.mutate --seed=0 --num=100` draws places of all
packages, changes one at a time in a copy of the repository, runs the test
modules that mirror the changed one until one fails, and prints what came of it.
A survivor may still be noticed by the rest of the suite. Each test module runs
once without a change: tests that cannot `reach` the place do not run.
"""

import argparse
import collections
import concurrent.futures
import hashlib
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading

from tests.repository import mutations, reach
from tests.repository.mutations import PACKAGE, ROOT, Mutation

_REACH = 'tests.repository.reach'


def _copy(folder):
  """Copies what git tracks: tests read kept results and notebooks, too."""
  listed = subprocess.run(
    ['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True
  )
  for name in listed.stdout.splitlines():
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / name, target)


class _Trial:
  """Tries mutations of a snapshot of the repository, in threads."""

  def __init__(self, snapshot: str, records: str, timeout: float):
    self._snapshot = pathlib.Path(snapshot)
    self._records = pathlib.Path(records)
    self._timeout = timeout
    self._locks = collections.defaultdict(threading.Lock)

  def __call__(self, mutation: Mutation) -> str:
    """Returns 'survived', 'slow', 'void', or the test that failed.

    It is void where that test fails without the mutation, too.
    """
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name, 'copy')
      shutil.copytree(self._snapshot, folder)
      source = (folder / mutation.file).read_bytes()
      (folder / mutation.file).write_bytes(mutation.apply(source))
      try:
        failed = self._find_failure(folder, mutation)
        if not failed:
          return 'survived'
        (folder / mutation.file).write_bytes(source)
        again = _first_failure(folder, [failed], self._timeout)
      except subprocess.TimeoutExpired:
        return 'slow'
    return 'void' if again else failed

  def _find_failure(self, folder, mutation):
    """Runs the tests that can tell, a module at a time, until one fails."""
    for module in (
      *mutations.mirrors(mutation.file),
      *mutations.wider(mutation.file),
    ):
      reaches = self._record(module)
      tests = reach.order(reaches, mutation.file, mutation.line)
      failed = tests and _first_failure(folder, tests, self._timeout)
      if failed:
        return failed
    return None

  def _record(self, module):
    """Returns what the tests of a module reach, of which a record is kept."""
    digest = hashlib.sha256((self._snapshot / module).read_bytes()).hexdigest()
    name = f'{module.replace("/", ".")}.{digest[:8]}.json'
    target = self._records / name
    with self._locks[module]:
      if not target.exists():
        _run_tests(self._snapshot, [module], REACH_RECORD=str(target))
    return reach.read(target)


def _first_failure(folder, tests, timeout):
  """Runs tests until one fails; returns it, or the first if none began."""
  done = _run_tests(folder, ['-x', *tests], timeout=timeout)
  failed = re.findall(r'^(?:FAILED|ERROR) (\S+)', done.stdout, re.MULTILINE)
  return (failed or tests)[0] if done.returncode else None


def _run_tests(folder, arguments, timeout=None, **names):
  """Runs pytest in one process, with what the environment names."""
  shared = os.environ.get('LABELLEAK_SHARED', str(ROOT.parent / 'shared'))
  options = '-q', '-n', '0', '-p', 'no:cacheprovider', '-rfE'
  return subprocess.run(
    [sys.executable, '-m', 'pytest', *options, '-p', _REACH, *arguments],
    cwd=folder,
    env=dict(os.environ, LABELLEAK_SHARED=shared, **names),
    capture_output=True,
    text=True,
    timeout=timeout,
  )


def main():
  """Draws places, tries them one by one and counts what came of them."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--num', type=int, default=100, help='places')
  parser.add_argument('--jobs', type=int, default=2, help='at a time')
  parser.add_argument('--timeout', type=float, default=600, help='seconds each')
  parser.add_argument('--records', help='folder that keeps what tests reach')
  options = parser.parse_args()
  every = []
  for path in sorted((ROOT / PACKAGE).rglob('*.py')):
    every += mutations.mutations(str(path.relative_to(ROOT)), path.read_bytes())
  random.Random(options.seed).shuffle(every)
  drawn = every[: options.num]
  counts = dict(killed=0, survived=0, slow=0, void=0)
  with (
    tempfile.TemporaryDirectory() as snapshot,  # edits go on meanwhile
    tempfile.TemporaryDirectory() as records,
    concurrent.futures.ThreadPoolExecutor(options.jobs) as pool,
  ):
    _copy(pathlib.Path(snapshot))
    attempt = _Trial(snapshot, options.records or records, options.timeout)
    for mutation, outcome in zip(drawn, pool.map(attempt, drawn)):
      counts[outcome if outcome in counts else 'killed'] += 1
      print(f'{mutation}\n  {outcome}', flush=True)
  print(f'{len(every)} places, {options.num} drawn:', counts)


if __name__ == '__main__':
  main()
