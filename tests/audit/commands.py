"""Runs a command of `labelleak` in a folder of its own."""

import contextlib
import io
import os

from absl.testing import parameterized

from labelleak.audit import command


def run(*argv: str) -> tuple[int, str, str]:
  """Runs `labelleak` with arguments; returns code, stdout and stderr."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = command.main([*argv])
  return code, out.getvalue(), err.getvalue()


class InFolder(parameterized.TestCase):
  """Each test starts in an empty folder."""

  def setUp(self):
    super().setUp()
    previous = os.getcwd()
    os.chdir(self.create_tempdir().full_path)
    self.addCleanup(os.chdir, previous)
