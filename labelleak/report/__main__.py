"""Compares the rows of many workdirs with the published tables.

  python -m labelleak.report results > RESULTS.md

Each workdir gets its own table and figures anew, too.
"""

import pathlib
import sys

from labelleak import base, report, runs
from labelleak.report import results


def main(argv):
  root = pathlib.Path(argv[1] if len(argv) > 1 else 'results')
  rows = []
  for path in sorted(root.glob('*/rows.jsonl')):
    if stored := runs.read_rows(path.parent):
      report.finish(path.parent, stored)
      rows += stored
  if not rows:
    raise base.InputError(
      f'{root} holds no */rows.jsonl; name a folder of workdirs.'
    )
  print(results.markdown(rows))


if __name__ == '__main__':
  try:
    main(sys.argv)
  except base.InputError as e:
    sys.exit(str(e))
