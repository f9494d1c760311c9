"""The command `labelleak`: `audit`, and `audit-vertical`.

Exit codes: 0; 2 of bad input, with one line on stderr; 3 if more is named than
--fail-above allows.
"""

from collections.abc import Sequence
import re
import sys
from typing import Optional

import jax

from labelleak import compilation, messages
from labelleak.audit import (
  horizontal,
  options,
  outputs,
  vertical,
  vertical_options,
)
from labelleak.base import InputError


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the command on its arguments, by default those of the process.

  What it compiles is kept, so that the next audit of such a round is faster.
  """
  compilation.keep_programs()
  try:
    values = options.parse(sys.argv[1:] if argv is None else argv)
    if isinstance(values, vertical_options.Options):
      return _audit_vertical(values)
    return _audit(values)
  except (InputError, OSError) as e:
    print(f'labelleak: {_name_flags(str(e))}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('labelleak: stopped', file=sys.stderr)
    return 130


def _audit(values: options.Options) -> int:
  """Reads a round, assesses it, and shows the result."""
  reading = values.reading
  capture = messages.read(**reading)
  files = [reading[name] for name in ('before', 'after', 'update')]
  result = horizontal.assess(
    jax.random.key(values.seed),
    capture,
    values.setting,
    files=tuple(file for file in files if file),
    simulate=values.simulate,
  )
  return outputs.show(result, values.output)


def _audit_vertical(values: vertical_options.Options) -> int:
  """Reads a log, assesses it, and shows the result."""
  result = vertical.assess(
    jax.random.key(values.seed),
    messages.read_log(values.log),
    values.setting,
    files=(values.log,),
  )
  return outputs.show(result, values.output)


def _name_flags(message: str) -> str:
  """Makes one line that names arguments of `messages.read` as flags do."""
  arguments = r'\b(before|after|update|sign|names|kernel|bias)=(?=\W|$)'
  message = re.sub(arguments, r'--\1', message)
  return ' '.join(message.replace('num_classes=', '--classes ').split())
