"""Compares the rows of many workdirs with the published tables.

  python -m labelleak.report results > RESULTS.md
  python -m labelleak.report draw epochs FILE DIR...

Each workdir gets its own table and figures anew, too. The second draws one
figure of the rows of some workdirs together.
"""

import pathlib
import sys

import matplotlib

from labelleak import base, report, runs
from labelleak.report import figures, results

_DRAW = 'draw'


def main(argv):
  if argv[1:2] == [_DRAW]:
    _draw(*argv[2:])
    return
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


def _draw(name='', path='', *workdirs):
  """Writes the figure of a name, of the rows of workdirs, to a file."""
  if not workdirs:
    raise base.InputError(
      f'{_DRAW} needs the name of a figure, a file and workdirs, such as'
      f' {_DRAW} epochs curves.svg results/whole_training_digits.'
    )
  rows = []
  for workdir in workdirs:
    stored = runs.read_rows(workdir)
    if not stored:
      raise base.InputError(f'{workdir} holds no rows; name a workdir.')
    rows += stored
  drawn = dict(figures.draw(rows, {}))
  if name not in drawn:
    raise base.InputError(
      f'{name!r} is no figure of {", ".join(workdirs)}; they have'
      f' {", ".join(drawn) or "none"}.'
    )
  with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': name}):
    undated = dict(Date=None) if path.endswith('.svg') else None
    drawn[name].savefig(path, metadata=undated)


if __name__ == '__main__':
  try:
    main(sys.argv)
  except base.InputError as e:
    sys.exit(str(e))
