"""Which lines of the package each test reaches, and how long it takes.

A plugin of pytest for `mutate`. With REACH_RECORD, a file's name, it writes
there what a run reached. With REACH_READ, the folder of such files, and
REACH_PLACE, `labelleak/file.py:line`, it runs first the tests that reach the
line, the quickest first, then those that reach its file, and leaves out those
that reach the package elsewhere only. A test without a record runs, as does
one that reaches nothing here: it may in a process of its own.
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import sys
import time
from typing import NamedTuple

import pytest

_PACKAGE = 'labelleak'


class Reach(NamedTuple):
  """What one test reached of the package, in how many seconds."""

  seconds: float
  lines: Mapping[str, Sequence[int]]  # by file, from the root


def order(
  tests: Sequence[str], records: Mapping[str, Reach], file: str, line: int
) -> list[str]:
  """Returns the tests that can tell a change of a line, most telling first.

  All of them where records know of none.
  """

  def rank(test):
    reach = records.get(test)
    if reach is None:
      return 0, 0.0
    lines = reach.lines.get(file, ())
    return 0 if line in lines else 1 if lines else 2, reach.seconds

  able = lambda test: rank(test)[0] < 2 or not records[test].lines
  return sorted(filter(able, tests), key=rank) or list(tests)


class _Recorder:
  """Records what tests reach, by the interpreter's trace."""

  def __init__(self, target: str):
    self._target = target
    self._prefix = os.path.join(os.getcwd(), _PACKAGE) + os.sep
    self._reaches = {}

  @pytest.hookimpl(wrapper=True)
  def pytest_runtest_protocol(self, item):
    """Traces the test with its fixtures."""
    hits = set()

    def trace_line(frame, event, arg):
      hits.add((frame.f_code.co_filename, frame.f_lineno))
      return trace_line

    def trace_call(frame, event, arg):
      ours = frame.f_code.co_filename.startswith(self._prefix)
      return trace_line if ours else None

    start = time.perf_counter()
    sys.settrace(trace_call)
    try:
      return (yield)
    finally:
      sys.settrace(None)
      lines = {}
      for name, line in sorted(hits):
        lines.setdefault(os.path.relpath(name), []).append(line)
      self._reaches[item.nodeid] = time.perf_counter() - start, lines

  def pytest_sessionfinish(self):
    """Writes the record."""
    pathlib.Path(self._target).write_text(json.dumps(self._reaches))


class _Orderer:
  """Orders tests, and leaves out those that cannot tell."""

  def __init__(self, folder: str, place: str):
    self._folder = pathlib.Path(folder)
    self._place = place

  @pytest.hookimpl(trylast=True)
  def pytest_collection_modifyitems(self, config, items):
    """Replaces the tests by those that can tell, in their order."""
    records = {}
    for path in self._folder.glob('*.json'):
      for test, reach in json.loads(path.read_text()).items():
        records[test] = Reach(*reach)
    file, line = self._place.rsplit(':', 1)
    by_name = {item.nodeid: item for item in items}
    chosen = order(list(by_name), records, file, int(line))
    dropped = set(by_name) - set(chosen)
    config.hook.pytest_deselected(items=[by_name[name] for name in dropped])
    items[:] = [by_name[name] for name in chosen]


def pytest_configure(config):
  """Records or orders, as the environment says."""
  if target := os.environ.get('REACH_RECORD'):
    config.pluginmanager.register(_Recorder(target))
  if place := os.environ.get('REACH_PLACE'):
    config.pluginmanager.register(_Orderer(os.environ['REACH_READ'], place))
