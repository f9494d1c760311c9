"""Draws the figures of these pages from rows: `python docs/figures.py`."""

import pathlib

import matplotlib
from matplotlib import figure

from labelleak import runs
from labelleak.report import figures

_ROOT = pathlib.Path(__file__).resolve().parent.parent
# file -> figure of `labelleak.report`, and the workdirs whose rows it shows
FIGURES = {
  'whole_training.svg': (
    'epochs',
    ('whole_training_digits', 'whole_training_sealed_digits'),
  ),
}


def draw(file: str) -> figure.Figure:
  """Draws the figure of a file."""
  name, workdirs = FIGURES[file]
  rows = []
  for workdir in workdirs:
    rows += runs.read_rows(_ROOT / 'results' / workdir)
  return dict(figures.draw(rows, {}))[name]


def save(file: str, folder: pathlib.Path) -> None:
  """Writes it without a date, so that the same rows make the same file."""
  with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': file}):
    draw(file).savefig(folder / file, metadata=dict(Date=None))


if __name__ == '__main__':
  for each in FIGURES:
    save(each, _ROOT / 'docs')
