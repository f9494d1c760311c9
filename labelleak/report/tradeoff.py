"""The trade-off plot: what a defense costs (x) against what it hides (y)."""

from collections.abc import Sequence
import textwrap
from typing import NamedTuple

from matplotlib import figure, lines
import numpy as np

from labelleak.metrics import significance
from labelleak.report import plots, published, ranking, tables

_ABREAST = 3  # panels beside each other
_WRAP = 60  # columns of a title
_MARKERS = 'o', '^', 's'
_LEVELS = (0.6, 0.7, 0.8, 0.9)  # of the DCS
_FAINT = dict(color='0.75', lw=0.7, zorder=0)
# Where a label may stand, in points from its marker, the best first.
_AROUND = [
  (round(reach * x), round(reach * y))
  for reach in (5, 11, 17)
  for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1))
]


class Family(NamedTuple):
  """Points whose defenses differ in their strength alone: one line."""

  label: str  # 'clip+laplace: scale'
  varied: tuple  # (link, argument) that differ
  style: dict


def draw(comparisons: Sequence[ranking.Comparison]) -> figure.Figure:
  """A panel an attack, a line a defense, a point a strength.

  The lower right is best. The star is the ideal corner of the defense
  capability score: nothing recovered, and a model as accurate as undefended.
  Grey arcs around it are points of equal score. Hollow markers are published.
  """
  panels = [(c, name) for c in comparisons for name in c.attacks]
  wide = min(len(panels), _ABREAST)
  tall = -(-len(panels) // wide)
  fig = figure.Figure(
    figsize=(4.6 * wide + 0.4, 4.0 * tall + 1.1), layout='constrained'
  )
  cells = list(fig.subplots(tall, wide, squeeze=False).flat)
  for ax in cells[len(panels) :]:
    ax.set_visible(False)
  families = _families([p for c in comparisons for p in c.points])
  firsts = [c.first for c in comparisons]
  labels = []
  for ax, (comparison, name) in zip(cells, panels):
    labels.append(_panel(ax, comparison, name, families))
    name = textwrap.fill(name, _WRAP)
    title = [name, *plots.apart(comparison.first, firsts)]
    ax.set_title('\n'.join(title), fontsize=8, loc='left')
  _legend(fig, cells[: len(panels)], labels)
  fig.suptitle(f'{firsts[0]["model"]} on {firsts[0]["data"]}', fontsize=9)
  fig.draw_without_rendering()  # settles where the markers are
  for ax, texts in zip(cells, labels):
    _annotate(ax, texts)
  return fig


def _names(point):
  return tuple(name for name, _ in tables.links(point.defense))


def _families(points):
  """Families by the names of their links, no defense in black."""
  groups = {}
  for point in points:
    groups.setdefault(_names(point), []).append(point)
  defended = [names for names in groups if names != ('none',)]
  families = {}
  for names, group in groups.items():
    varied = _varied([tables.links(point.defense) for point in group])
    label = tables.folded(group[0].defense)
    if varied:
      label = f'{"+".join(names)}: {", ".join(name for _, name in varied)}'
    style = dict(color='k', marker='s')
    if names in defended:
      turn, at = divmod(defended.index(names), len(plots.COLORS))
      style = dict(
        color=plots.COLORS[at], marker=_MARKERS[turn % len(_MARKERS)]
      )
    families[names] = Family(label, varied, style)
  return families


def _varied(chains):
  """(link, argument) whose values differ between chains of the same names."""
  seen = {}
  for chain in chains:
    for at, (_, arguments) in enumerate(chain):
      for argument, value in arguments.items():
        seen.setdefault((at, argument), set()).add(value)
  return tuple(key for key, values in seen.items() if len(values) > 1)


def _strength(point, family):
  """Values of what the family varies, as text."""
  chain = tables.links(point.defense)
  return [chain[at][1].get(argument, '') for at, argument in family.varied]


def _sweeps(points, family):
  """Lines of points, each over the argument that was varied the most."""
  strengths = [_strength(point, family) for point in points]
  if not family.varied:
    return [[point] for point in points]
  spread = [len(set(values)) for values in zip(*strengths)]
  along = spread.index(max(spread)) if spread else 0
  lines = {}
  for point, values in zip(points, strengths):
    rest = tuple(v for i, v in enumerate(values) if i != along)
    lines.setdefault(rest, []).append((_number(values[along]), point))
  order = lambda pair: pair[0]
  return [[p for _, p in sorted(line, key=order)] for line in lines.values()]


def _number(text):
  """Sorts numbers as numbers, before anything else."""
  try:
    return 0, float(text), text
  except ValueError:
    return 1, 0.0, text


def _panel(ax, comparison, name, families):
  """Draws a panel; returns its labels, (x, y, text, color) each."""
  best, relative = ranking.ideal(comparison), comparison.relative
  shown = [point for point in comparison.points if name in point.rows]
  ends = [
    100 * (point.main['mean'] + side * (point.main['std'] or 0))
    for point in shown
    for side in (-1, 1)
  ]
  ends += [100 * best] if best is not None else []
  width = max(ends) - min(ends)
  margin = max(0.08 * width, 0.25 - width / 2)  # half a point in all at least
  ax.set_xlim(min(ends) - margin, max(ends) + margin)
  ax.set_ylim(-6, 106)
  if best is not None:
    _ideal(ax, best)
  _guess(ax, shown)
  labels = []
  for names, family in families.items():
    own = [point for point in shown if _names(point) == names]
    for line in _sweeps(own, family):
      labels += _line(ax, line, name, family, relative)
  what = 'relative accuracy, points' if relative else 'main accuracy, %'
  ax.set_xlabel(what, fontsize=8)
  ax.set_ylabel('attack accuracy, %', fontsize=8)
  ax.tick_params(labelsize=7)
  ax.spines[['top', 'right']].set_visible(False)
  return labels


def _line(ax, line, name, family, relative):
  """One family's points, and beside them what was published."""
  rows = [point.rows[name] for point in line]
  own = [ranking.leaked(row) for row in rows]
  x = [100 * point.main['mean'] for point in line]
  y = [100 * summary['mean'] for summary in own]
  ax.errorbar(
    x,
    y,
    xerr=[100 * (point.main['std'] or 0) for point in line],
    yerr=[100 * (summary['std'] or 0) for summary in own],
    label=family.label,
    ms=4,
    lw=1,
    elinewidth=0.5,
    **family.style,
  )
  main = 'relative_accuracy' if relative else 'main_accuracy'
  for row in rows:
    paper = published.match(row) or {}
    found = [paper.get(m) for m in (main, ranking.metric(row))]
    if all(found):
      at = [100 * cell['mean'] for cell in found]
      ax.plot(*at, **family.style, ms=6, mfc='none', lw=0, label='published')
  return [
    (*at, ', '.join(_strength(point, family)) + _mark(row), family.style)
    for *at, point, row in zip(x, y, line, rows)
  ]


def _mark(row):
  return ' ‡' if tables.leaks(row) else ''


def _ideal(ax, best):
  """The ideal corner and arcs of equal DCS around it."""
  x, y = (np.linspace(*limits, 200) for limits in (ax.get_xlim(), (0, 106)))
  score = significance.dcs(y[:, None] / 100, x[None] / 100, best)
  arcs = ax.contour(x, y, score, _LEVELS, colors='0.8', linewidths=0.7)
  ax.clabel(arcs, fontsize=6, fmt='DCS %g')
  style = dict(color='#eeca3b', mec='k', mew=0.5, ms=11, lw=0, zorder=5)
  ax.plot(100 * best, 0, '*', label='ideal', clip_on=False, **style)


def _guess(ax, points):
  """What guessing scores, dashed."""
  rows = [row for point in points for row in point.rows.values()]
  for row in rows:
    if row['attack'] in ranking.GUESSES:
      level = ranking.leaked(row)['mean']
      if ranking.metric(row) == 'label_accuracy':
        level = 1 / row['setting']['num_classes']
      ax.axhline(100 * level, ls='--', label='guess', **_FAINT)
      return


def _legend(fig, cells, labels):
  entries = {}
  for ax in cells:
    for handle, label in zip(*ax.get_legend_handles_labels()):
      entries.setdefault(label, handle)
  if any('‡' in text for texts in labels for *_, text, _ in texts):
    entries['‡ fewer hits than by guessing: a leak'] = lines.Line2D(
      [], [], lw=0
    )
  fig.legend(
    entries.values(),
    entries.keys(),
    loc='outside lower center',
    ncols=max(2, int(fig.get_figwidth() / 2.4)),
    fontsize=7,
  )


def _annotate(ax, labels):
  """Puts each label where it hides the least of markers and other labels."""
  scale = ax.figure.dpi / 72
  taken = [
    np.array([*ax.transData.transform((x, y))] * 2) + np.array([-3, -3, 3, 3])
    for x, y, *_ in labels
  ]
  for x, y, text, style in labels:
    if not text:
      continue
    at = ax.transData.transform((x, y))
    size = np.array([3.4 * len(text) + 1, 7.0]) * scale
    boxes = []
    for offset in _AROUND:
      middle = at + scale * np.array(offset) + size * np.sign(offset) / 2
      boxes.append(np.concatenate([middle - size / 2, middle + size / 2]))
    costs = [sum(_overlap(box, other) for other in taken) for box in boxes]
    best = int(np.argmin(costs))
    taken.append(boxes[best])
    dx, dy = _AROUND[best]
    ax.annotate(
      text,
      (x, y),
      (dx, dy),
      textcoords='offset points',
      ha=('center', 'left', 'right')[np.sign(dx)],
      va=('center', 'bottom', 'top')[np.sign(dy)],
      fontsize=6,
      color=style['color'],
      in_layout=False,
    )


def _overlap(a, b):
  """Area that two boxes (left, bottom, right, top) share."""
  sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
  return np.prod(np.maximum(sides, 0))
