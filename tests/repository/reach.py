"""Which lines of the package each test reaches, and how long it takes.

A plugin of pytest, which writes that to the file that the environment names by
REACH_RECORD; `mutate` reads it.
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


def read(path: pathlib.Path) -> dict[str, Reach]:
  """Reads a record, by test."""
  record = json.loads(path.read_text())
  return {test: Reach(*reach) for test, reach in record.items()}


def order(reaches: Mapping[str, Reach], file: str, line: int) -> list[str]:
  """Lists the tests that can tell a change of a line of a file.

  Those that reach the line come first, the quickest first, then those that
  reach its file: a function that another test compiled runs unseen. One that
  reaches nothing here comes last: it may in a process of its own.
  """

  def rank(test):
    lines = reaches[test].lines.get(file, ())
    return line not in lines, not lines, reaches[test].seconds

  able = [
    test
    for test, reach in reaches.items()
    if file in reach.lines or not reach.lines
  ]
  return sorted(able, key=rank)


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


def pytest_configure(config):
  """Records, if the environment says so."""
  if target := os.environ.get('REACH_RECORD'):
    config.pluginmanager.register(_Recorder(target))
