"""What a run leaves for its reader: tables and figures of its rows.

`runs` stores rows; here they are shown. A workdir gets `table.md`, figures and,
where several defenses were run, `ranking.md`. `python -m labelleak.report
results > RESULTS.md` compares the rows of many workdirs with the published
tables. Plotting is imported when it is used: who saves a row does without.
"""

from collections.abc import Sequence
import pathlib

from labelleak import runs
from labelleak.report.facts import Row


def finish(workdir: str | pathlib.Path, rows: Sequence[Row]) -> None:
  """Writes `table.md`, `ranking.md` and the figures of a run."""
  from labelleak.report import figures, ranking, tables

  path = pathlib.Path(workdir)
  (path / 'table.md').write_text(tables.points(rows, 'github'))
  if compared := ranking.comparisons(rows):
    (path / 'ranking.md').write_text(ranking.markdown(compared))
  for name, fig in figures.draw(rows, runs.read_arrays(path)):
    fig.savefig(path / f'{name}.png', dpi=150)
