"""Mutations of the package: which changes of its code does no test notice?

`python -m tests.repository.mutate --seed=0 --num=100` draws places of all
packages, changes one at a time in a copy of the repository, runs the test
modules that mirror the changed one until one fails, and prints what came of it.
A survivor may still be noticed by the rest of the suite. Each test module runs
once without a change: tests that cannot `reach` the place do not run.
"""

import argparse
import ast
import collections
from collections.abc import Iterator
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
from typing import NamedTuple

from tests.repository import reach

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = 'labelleak'
_REACH = 'tests.repository.reach'
_SWAP = {ast.Add: '-', ast.Sub: '+', ast.Mult: '/', ast.Div: '*'}
_REDUCE = 'sum', 'mean', 'max', 'min', 'argmax', 'argmin', 'all', 'any', 'std'
# What is said to a person, or to a type checker, is no computation.
_SILENT = ast.Raise, ast.JoinedStr, ast.AnnAssign, ast.arguments


class Mutation(NamedTuple):
  """One changed expression."""

  file: str  # from the root
  line: int
  old: str
  new: str
  start: int  # where `old` stands, in bytes
  kind: str  # sign, term, index or axis

  def apply(self, source: bytes) -> bytes:
    """Returns the changed source."""
    end = self.start + len(self.old.encode())
    return source[: self.start] + self.new.encode() + source[end:]

  def __str__(self):
    old, new = (' '.join(text.split()) for text in (self.old, self.new))
    return f'{self.file}:{self.line}: {self.kind}: {old}  ->  {new}'


def mutations(file: str, source: bytes) -> Iterator[Mutation]:
  """Yields the mutations of a module's source, in its order.

  The sign of an index or axis is none of them: -1 is 1 in a matrix.
  """
  starts = [0]
  for line in source.splitlines(keepends=True):
    starts.append(starts[-1] + len(line))
  text = source.decode()
  place = lambda line, column: starts[line - 1] + column
  whole = set()  # indices and axes
  for node in _walk(ast.parse(text)):
    for part, kind, new in () if node in whole else _changes(node, text):
      if kind in ('index', 'axis'):
        whole.add(part)
      start = place(part.lineno, part.col_offset)
      old = source[start : place(part.end_lineno, part.end_col_offset)].decode()
      yield Mutation(file, part.lineno, old, new, start, kind)


def mirrors(file: str) -> list[str]:
  """Lists the test modules of a module, its own first.

  Without one of its own it is tested by all of the nearest folder that has any.
  """
  path = 'tests' / pathlib.Path(file).relative_to(PACKAGE)
  folder = path.parent
  names = [path.with_name(f'{path.stem}_test.py')]
  names += [folder.with_name(f'{folder.name}_test.py')]
  if any((ROOT / name).exists() for name in names):
    names.append(folder / f'{folder.name}_test.py')
  else:
    while not any((ROOT / folder).glob('*_test.py')):
      folder = folder.parent
    tests = sorted((ROOT / folder).glob('*_test.py'))
    names = [folder / f'{folder.name}_test.py']
    names += [test.relative_to(ROOT) for test in tests]
  return [str(n) for n in dict.fromkeys(names) if (ROOT / n).exists()]


def wider(file: str) -> list[str]:
  """Lists test modules that mirror no module, of the folders of a module."""
  path = 'tests' / pathlib.Path(file).relative_to(PACKAGE)
  found = []
  for folder in path.parents[:-2]:  # below tests/
    package = ROOT / PACKAGE / folder.relative_to('tests')
    for test in sorted((ROOT / folder).glob('*_test.py')):
      module = package / test.stem.removesuffix('_test')
      is_mirror = module.is_dir() or module.with_suffix('.py').exists()
      if not is_mirror and module.name != folder.name:
        found.append(str(test.relative_to(ROOT)))
  return [test for test in found if test not in mirrors(file)]


def _walk(node):
  """Yields the expressions that compute something."""
  for child in ast.iter_child_nodes(node):
    if not isinstance(child, _SILENT):
      yield child
      yield from _walk(child)


def _changes(node, text):
  """Yields (what is replaced, kind, by what) of one expression."""
  code = lambda part: f'({ast.get_source_segment(text, part)})'
  if isinstance(node, ast.BinOp) and _is_arithmetic(node):
    swapped = _SWAP[type(node.op)]
    yield node, 'sign', f'({code(node.left)} {swapped} {code(node.right)})'
    if isinstance(node.op, ast.Add | ast.Sub):
      yield node, 'term', code(node.left)
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    yield node, 'sign', code(node.operand)
  if isinstance(node, ast.Subscript) and _is_whole(node.slice):
    yield node.slice, 'index', '0' if _value(node.slice) else '-1'
  if isinstance(node, ast.Call):
    axes = [k.value for k in node.keywords if k.arg == 'axis']
    if isinstance(node.func, ast.Attribute) and node.func.attr in _REDUCE:
      axes += node.args[-1:]
    for axis in axes:
      if _is_whole(axis):
        yield axis, 'axis', '-1' if _value(axis) == 0 else '0'


def _is_arithmetic(node):
  sides = node.left, node.right
  return type(node.op) in _SWAP and not any(map(_is_text, sides))


def _is_text(node):
  return isinstance(node, ast.JoinedStr) or (
    isinstance(node, ast.Constant) and isinstance(node.value, str)
  )


def _is_whole(node):
  return type(_value(node)) is int


def _value(node):
  """Returns the number that is written, None for what is none."""
  try:
    return ast.literal_eval(node)
  except ValueError:
    return None


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
    for module in *mirrors(mutation.file), *wider(mutation.file):
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
    every += mutations(str(path.relative_to(ROOT)), path.read_bytes())
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
