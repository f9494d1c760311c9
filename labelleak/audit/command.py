"""The command `labelleak`, whose one subcommand is `audit`.

Exit codes: 0; 2 of bad input, with one line on stderr; 3 if more is named than
--fail-above allows.
"""

from collections.abc import Sequence
import pathlib
import re
import sys
from typing import Optional

import jax

from labelleak import messages
from labelleak.audit import assessment, horizontal, options, page, summary
from labelleak.base import InputError


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the command on its arguments, by default those of the process."""
  try:
    return _audit(options.parse(sys.argv[1:] if argv is None else argv))
  except (InputError, OSError) as e:
    print(f'labelleak: {_name_flags(str(e))}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('labelleak: stopped', file=sys.stderr)
    return 130


def _audit(values: options.Options) -> int:
  """Reads, assesses, and shows the result in every form that was asked for."""
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
  print(summary.render(result))
  if values.json:
    pathlib.Path(values.json).write_text(assessment.to_json(result))
  if values.html:
    pathlib.Path(values.html).write_text(page.render(result))
  limit = values.fail_above
  return 3 if limit is not None and result.leaked > limit else 0


def _name_flags(message: str) -> str:
  """Makes one line that names arguments of `messages.read` as flags do."""
  arguments = r'\b(before|after|update|sign|names|kernel|bias)=(?=\W|$)'
  message = re.sub(arguments, r'--\1', message)
  return ' '.join(message.replace('num_classes=', '--classes ').split())
