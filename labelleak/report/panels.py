"""What all figures share: panels, colors, axes in percent, one legend."""

from collections.abc import Mapping, Sequence
import functools
import textwrap
from typing import Any

from matplotlib import axes as mpl_axes
from matplotlib import figure
from matplotlib.artist import Artist

from labelleak.report import facts, tables
from labelleak.report.facts import Row

COLORS = (
  '#4c78a8', '#f58518', '#54a24b', '#e45756', '#72b7b2', '#b279a2', '#eeca3b',
  '#9d755d',
)  # fmt: skip
GREY = '#b3b3b3'
TITLE = dict(fontsize=7.5, loc='left')
_SMALL = 8  # points of labels
_COLUMNS = 72  # of a title
_INCHES = 0.05, 0.6  # of a legend: a letter, the line before the text


def spread(
  num: int,
  *,
  abreast: int,
  size: tuple[float, float],
  legend: float = 0.0,
  **kwargs: Any,
) -> tuple[figure.Figure, list[mpl_axes.Axes]]:
  """Makes a figure of `num` panels, `abreast` beside each other.

  Args:
    num: of panels; the last line may have less than the others.
    abreast: at most.
    size: width and height of a panel, inches.
    legend: height that a legend and a title take beside the panels, inches.
    **kwargs: of `Figure.subplots`.
  """
  wide = min(num, abreast)
  tall = -(-num // wide)
  inches = wide * size[0], tall * size[1] + legend
  fig = figure.Figure(inches, layout='constrained')
  axes = list(fig.subplots(tall, wide, squeeze=False, **kwargs).flat)
  for ax in axes[num:]:
    ax.set_visible(False)
  return fig, axes[:num]


def colors(rows: Sequence[Row]) -> dict[str, str]:
  """Returns one color for an attack in all panels; grey where none infers."""
  names = dict.fromkeys(row['attack']['name'] for row in rows)
  grey = [n for n in names if n in (*facts.RANDOM, 'none')]
  others = [n for n in names if n not in grey]
  cycle = {n: COLORS[i % len(COLORS)] for i, n in enumerate(others)}
  return cycle | dict.fromkeys(grey, GREY)


def percent_axis(ax: mpl_axes.Axes, axis: str, name: str) -> None:
  """Labels an axis 'x' or 'y' in percent and draws its grid behind all else."""
  ax.set(**{f'{axis}label': f'{name.replace("_", " ")}, %'})
  ax.tick_params(labelsize=_SMALL)
  for label in (ax.xaxis.label, ax.yaxis.label):
    label.set_fontsize(_SMALL)
  ax.grid(axis=axis, alpha=0.3)
  ax.set_axisbelow(True)
  ax.spines[['top', 'right']].set_visible(False)


def to_percent(
  rows: Sequence[Row], metric: str
) -> tuple[list[float], list[float]]:
  """Returns means and deviations of a metric in percent."""
  summaries = [row['metrics'][metric] for row in rows]
  means, stds = ([100 * s[k] for s in summaries] for k in ('mean', 'std'))
  return means, stds


def hide_ticks(ax: mpl_axes.Axes) -> None:
  """Takes the ticks of an image away."""
  ax.set(xticks=[], yticks=[])


def legend(
  fig: figure.Figure, more: Mapping[str, Artist] | None = None
) -> None:
  """Puts one legend below all panels, each label once."""
  entries = {}
  for ax in fig.axes:
    for handle, label in zip(*ax.get_legend_handles_labels()):
      entries.setdefault(label, handle)
  entries |= more or {}
  if not entries:
    return
  letter, line = _INCHES
  width = line + letter * max(map(len, entries))
  fig.legend(
    entries.values(),
    entries,
    loc='outside lower center',
    ncols=max(1, int(fig.get_figwidth() / width)),
    fontsize=7,
  )


def differences(row: Row, rows: Sequence[Row]) -> list[str]:
  """Returns what sets a point apart from others, such as 'batch_size=64'."""
  settings = [facts.setting(other) for other in rows]
  return [
    tables.fold(tables.fact(name, value), _COLUMNS)
    for name, value in facts.setting(row).items()
    if any(other.get(name) != value for other in settings)
  ]


def title(row: Row) -> str:
  """Returns a point's heading, folded."""
  fill = functools.partial(
    textwrap.fill, width=_COLUMNS, break_long_words=False
  )
  return '\n'.join(map(fill, tables.heading(row)))
