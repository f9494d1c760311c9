"""All figures of a run, by the names of their files."""

from collections.abc import Iterator, Mapping, Sequence
import functools

from matplotlib import figure
import numpy as np

from labelleak.report import facts, pictures, plots, ranking, tradeoff
from labelleak.report.facts import Row

_FEW = 24  # points with a panel each
# Draw a panel or more for each point.
_EACH = dict(
  accuracy=plots.accuracy_bars,
  matrix=plots.confusion,
  points=pictures.embeddings,
  maps=pictures.class_maps,
)
_SWEEPS = dict(
  {f: functools.partial(plots.field_sweep, field=f) for f in plots.SWEPT},
  gamma=plots.gamma_sweep,
  epochs=plots.epoch_curves,
  triggered=pictures.trigger_examples,
)


def draw(
  rows: Sequence[Row], arrays: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, figure.Figure]]:
  """Yields the figures that a run has, without those of each of many points."""
  few = len(facts.groups(rows)) <= _FEW
  drawn = _EACH | _SWEEPS if few else _SWEEPS
  for name, draw_rows in drawn.items():
    if fig := draw_rows(rows):
      yield name, fig
  if fig := pictures.restorations(rows, arrays):
    yield 'images', fig
  if compared := ranking.comparisons(rows):
    yield 'tradeoff', tradeoff.draw(compared)
