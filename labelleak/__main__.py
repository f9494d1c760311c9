"""Runs `python -m labelleak audit`."""

import sys

from labelleak.audit import command

if __name__ == '__main__':
  sys.exit(command.main())
