"""The trade-off plot: what a defense costs (x) against what it hides (y)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import axes as mpl_axes
from matplotlib import figure, lines
import numpy as np

from labelleak import spec
from labelleak.metrics import significance
from labelleak.report import facts, panels, published, ranking, tables

_WRAP = 60  # columns of a title
_MARKERS = 'o', '^', 's'
_LEVELS = (0.6, 0.7, 0.8, 0.9)  # of the DCS
_LEAK = '‡ fewer hits than by guessing: a leak'
# Where a label may stand, in points from its marker, the best first.
_AROUND = [
  (round(reach * x), round(reach * y))
  for reach in (5, 11, 17)
  for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1))
]


class Family(NamedTuple):
  """Points whose defenses differ in their strength alone: one line."""

  label: str  # such as 'clip+laplace: scale'
  # (place in the chain, argument) of what differs
  varied: list[tuple[int, str]]
  style: Mapping[str, str]  # color and marker


class Label(NamedTuple):
  """Text beside a marker at (x, y), in the units of the axes."""

  x: float
  y: float
  text: str
  color: str


def draw(comparisons: Sequence[ranking.Comparison]) -> figure.Figure:
  """Draws a panel an attack, a line a defense, a point a strength.

  The lower right is best. The star is the ideal corner of the defense
  capability score: nothing recovered, and a model as accurate as undefended.
  Grey arcs around it are points of equal score. Hollow markers are published.
  """
  pairs = [(c, name) for c in comparisons for name in c.attacks]
  shape = dict(abreast=3, size=(4.7, 4.0), legend=1.1)
  fig, axes = panels.spread(len(pairs), **shape)
  families = _families([p for c in comparisons for p in c.points])
  firsts = [c.first for c in comparisons]
  labels = []
  for ax, (comparison, name) in zip(axes, pairs):
    labels.append(_panel(ax, comparison, name, families))
    apart = panels.differences(comparison.first, firsts)
    title = '\n'.join([tables.fold(name, _WRAP), *apart])
    ax.set_title(title, **panels.TITLE)
  leak = any('‡' in label.text for texts in labels for label in texts)
  panels.legend(fig, {_LEAK: lines.Line2D([], [], lw=0)} if leak else {})
  fig.suptitle(tables.model_and_data(firsts[0]), fontsize=9)
  fig.draw_without_rendering()  # settles where the markers are
  for ax, texts in zip(axes, labels):
    annotate(ax, texts)
  return fig


def _names(point):
  return tuple(link['name'] for link in point.defense)


def _families(points):
  """Returns families by the names of their links, no defense in black."""
  groups = {}
  for point in points:
    groups.setdefault(_names(point), []).append(point.defense)
  families, turns = {}, 0
  for names, defenses in groups.items():
    style = dict(color='k', marker='s')
    if names:
      turn, at = divmod(turns, len(panels.COLORS))
      marker = _MARKERS[turn % len(_MARKERS)]
      style, turns = dict(color=panels.COLORS[at], marker=marker), turns + 1
    label, varied = facts.defense(defenses[0], '+\n'), _variations(defenses)
    if varied:
      chain = facts.defense([dict(name=name) for name in names])
      label = f'{chain}: {", ".join(argument for _, argument in varied)}'
    families[names] = Family(label, varied, style)
  return families


def _variations(defenses):
  """Returns (place, argument) whose values differ in chains of equal names."""
  values = {}
  for defense in defenses:
    for place, link in enumerate(defense):
      for argument, value in spec.arguments(link).items():
        kinds = values.setdefault((place, argument), set())
        kinds.add(facts.identity(value))
  return [varied for varied, kinds in values.items() if len(kinds) > 1]


def _strength(point, family):
  """Returns the values of what the family varies; '' is a default."""
  return [point.defense[at].get(argument, '') for at, argument in family.varied]


def _sweeps(points, family):
  """Returns lines of points, each over the argument that varies the most."""
  if not family.varied:
    return [[point] for point in points]
  strengths = [_strength(point, family) for point in points]
  kinds = [len(set(map(facts.identity, values))) for values in zip(*strengths)]
  along = kinds.index(max(kinds)) if kinds else 0
  sweeps = {}
  for point, values in zip(points, strengths):
    value = values.pop(along)
    sweeps.setdefault(facts.identity(values), []).append((value, point))
  return [
    [point for _, point in sorted(line, key=lambda pair: _order(pair[0]))]
    for line in sweeps.values()
  ]


def _order(value: Any) -> tuple[bool, float, str]:
  """Sorts numbers as numbers, before anything else."""
  number = isinstance(value, int | float)
  return not number, value if number else 0.0, str(value)


def _panel(ax, comparison, name, families):
  """Draws a panel; returns its labels."""
  best, relative = ranking.ideal(comparison), comparison.relative
  points = [point for point in comparison.points if name in point.rows]
  labels = []
  for names, family in families.items():
    members = [point for point in points if _names(point) == names]
    for line in _sweeps(members, family):
      labels += _line(ax, line, name, family, relative)
  _limit(ax, best)
  if best is not None:
    _ideal(ax, best)
  _guess(ax, points)
  main = 'relative accuracy, points' if relative else 'main accuracy, %'
  ax.set_xlabel(main, fontsize=8)
  ax.set_ylabel('attack accuracy, %', fontsize=8)
  ax.tick_params(labelsize=7)
  ax.spines[['top', 'right']].set_visible(False)
  return labels


def _limit(ax, best):
  """Makes room for all that was drawn and the ideal, half a point at least."""
  left, right = ax.dataLim.intervalx
  if best is not None:
    left, right = min(left, 100 * best), max(right, 100 * best)
  margin = max(0.08 * (right - left), 0.25 - (right - left) / 2)
  ax.set_xlim(left - margin, right + margin)
  ax.set_ylim(-6, 106)


def _line(ax, line, name, family, relative):
  """Draws one sweep and beside it what was published; returns its labels."""
  rows = [point.rows[name] for point in line]
  leakages = [ranking.leakage(row) for row in rows]
  x = [100 * point.main['mean'] for point in line]
  y = [100 * summary['mean'] for summary in leakages]
  ax.errorbar(
    x,
    y,
    xerr=[100 * (point.main['std'] or 0) for point in line],
    yerr=[100 * (summary['std'] or 0) for summary in leakages],
    label=family.label,
    ms=4,
    lw=1,
    elinewidth=0.5,
    **family.style,
  )
  main = 'relative_accuracy' if relative else 'main_accuracy'
  for row in rows:
    paper = published.match(row) or {}
    cells = [paper.get(m) for m in (main, ranking.leakage_metric(row))]
    if all(cells):
      at = [100 * cell['mean'] for cell in cells]
      ax.plot(*at, **family.style, ms=6, mfc='none', lw=0, label='published')
  texts = [
    ', '.join(map(str, _strength(point, family)))
    + (' ‡' if facts.misses_below_chance(row) else '')
    for point, row in zip(line, rows)
  ]
  color = family.style['color']
  return [Label(a, b, text, color) for a, b, text in zip(x, y, texts)]


def _ideal(ax, best):
  """Draws the ideal corner and arcs of equal DCS around it."""
  x, y = (np.linspace(*limits, 200) for limits in (ax.get_xlim(), (0, 106)))
  score = significance.dcs(y[:, None] / 100, x[None] / 100, best)
  arcs = ax.contour(x, y, score, _LEVELS, colors='0.8', linewidths=0.7)
  ax.clabel(arcs, fontsize=6, fmt='DCS %g')
  style = dict(color='#eeca3b', mec='k', mew=0.5, ms=11, lw=0, zorder=5)
  ax.plot(100 * best, 0, '*', label='ideal', clip_on=False, **style)


def _guess(ax, points):
  """Draws what guessing scores, dashed."""
  rows = [row for point in points for row in point.rows.values()]
  guess = [r for r in rows if r['attack']['name'] in ranking.BASELINES][:1]
  for row in guess:
    level = ranking.leakage(row)['mean']
    if ranking.leakage_metric(row) == 'label_accuracy':
      level = 1 / row['setting']['num_classes']
    style = dict(color='0.75', ls='--', lw=0.7, zorder=0)
    ax.axhline(100 * level, label='guess', **style)


def annotate(ax: mpl_axes.Axes, labels: Sequence[Label]) -> None:
  """Puts each label where it hides the least of markers and other labels."""
  scale = ax.figure.dpi / 72
  at = np.array([ax.transData.transform(label[:2]) for label in labels])
  occupied = [np.concatenate([xy - 3, xy + 3]) for xy in at]
  for xy, label in zip(at, labels):
    if not label.text:
      continue
    size = np.array([3.4 * len(label.text) + 1, 7.0]) * scale
    boxes = [_box(xy, np.array(offset), size, scale) for offset in _AROUND]
    costs = [sum(_overlap(box, other) for other in occupied) for box in boxes]
    best = int(np.argmin(costs))
    occupied.append(boxes[best])
    dx, dy = _AROUND[best]
    ax.annotate(
      label.text,
      label[:2],
      (dx, dy),
      textcoords='offset points',
      ha=('center', 'left', 'right')[np.sign(dx)],
      va=('center', 'bottom', 'top')[np.sign(dy)],
      fontsize=6,
      color=label.color,
      in_layout=False,
    )


def _box(at, offset, size, scale):
  """Returns (left, bottom, right, top) of a label, pixels."""
  middle = at + scale * offset + size * np.sign(offset) / 2
  return np.concatenate([middle - size / 2, middle + size / 2])


def _overlap(a, b):
  """Returns the area that two boxes share."""
  sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
  return np.prod(np.maximum(sides, 0))
