"""What comes out of an audit: the flags that say so, and the writing of it."""

import argparse
import os
import pathlib
import sys
from typing import Any, NamedTuple, Optional

from labelleak import validate
from labelleak.audit import assessment, page, summary
from labelleak.audit.assessment import AnyAssessment


class Output(NamedTuple):
  """Where an assessment goes.

  Attributes:
    html, json: files to write.
    fail_above: share of the labels above which the command fails.
  """

  html: Optional[str]
  json: Optional[str]
  fail_above: Optional[float]


def add_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
  """Adds the flags of an `Output`; returns their group."""
  group = parser.add_argument_group('what comes out')
  group.add_argument('--html', metavar='FILE', help='a page to write')
  group.add_argument(
    '--json', metavar='FILE', help='a file of all numbers to write'
  )
  group.add_argument(
    '--fail-above',
    type=float,
    metavar='SHARE',
    help='exit with 3 if more of the labels is named, such as .5',
  )
  group.add_argument('--seed', type=int, default=0, help='of what is drawn')
  return group


def parse(values: dict[str, Any]) -> Output:
  """Makes an `Output` of parsed flags.

  Raises:
    InputError: a share or seed that is none.
  """
  if values['fail_above'] is not None:
    validate.within('--fail-above', values['fail_above'], '[0, 1]')
  validate.whole('--seed', values['seed'], 0)
  return Output(values['html'], values['json'], values['fail_above'])


def show(result: AnyAssessment, output: Output) -> int:
  """Shows an assessment in every form that was asked for.

  Returns:
    The exit code: 3 if more leaks than is allowed, else 0.
  """
  if output.json:
    pathlib.Path(output.json).write_text(assessment.to_json(result))
  if output.html:
    pathlib.Path(output.html).write_text(page.render(result))
  print_text(summary.render(result))
  limit = output.fail_above
  return 3 if limit is not None and (result.leaked or 0.0) > limit else 0


def print_text(text: str) -> None:
  """Prints as much of a text as is read: a pipe to `head` ends early."""
  try:
    print(text, flush=True)
  except BrokenPipeError:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # Python flushes it once more
