"""Plots of rows: accuracy per attack and against what was swept, confusion."""

import pathlib
import textwrap

from matplotlib import figure, transforms
import numpy as np

from labelleak.report import explained, tables

COLORS = (
  '#4c78a8', '#f58518', '#54a24b', '#e45756', '#72b7b2', '#b279a2', '#eeca3b',
  '#9d755d',
)  # fmt: skip
_BASELINE = '#b3b3b3'
_RANDOM = 'counts.random', 'scores.random'
# Facts of a setting that a line is drawn over where they were swept, and what
# moves with them.
_SWEPT = dict(
  batch_size=('accuracy',),
  num_classes=('accuracy',),
  step=('accuracy', 'trained'),
  depth=('model', 'top'),
  parties=('split', 'share'),
  share=('split',),
)
_LINEAR = 'depth', 'share'
_MOST = 24  # points with a panel each
_COLUMNS = 72  # of a panel's title
_NAME = 32  # columns of an attack beside its bar
_TITLE = dict(fontsize=8, loc='left')
_DASHES = '-', '--', ':', '-.'  # variants of one attack


def save(workdir: pathlib.Path, rows: list[dict]) -> None:
  """Writes `accuracy.png`, a plot for each fact swept, and `matrix.png`.

  A run of very many points has no plots of each of them.
  """
  if not rows:
    return
  few = len(tables.by_point(rows)) <= _MOST
  if few:
    by_attack(rows).savefig(workdir / 'accuracy.png', dpi=150)
  for field in _SWEPT:
    if panels := _panels(rows, field):
      fig = _against(panels, field, _colors(rows))
      fig.savefig(workdir / f'{field}.png', dpi=150)
  if few and (shown := [row for row in rows if row.get('matrix')]):
    by_class(shown).savefig(workdir / 'matrix.png', dpi=150)
  for field, draw in (
    ('points', explained.scatter),
    ('maps', explained.looked_at),
  ):
    shown = [
      row for row in rows if field in row and row['attack'] not in _RANDOM
    ]
    if shown and few:
      draw(shown).savefig(workdir / f'{field}.png', dpi=150)


def by_class(rows: list[dict]) -> figure.Figure:
  """Which class was restored as which, a panel a row (BLI paper, Figure 9)."""
  groups = tables.by_point(rows)
  wide = max(len(group) for _, group in groups)
  fig = figure.Figure(
    figsize=(2.6 * wide + 0.8, 2.9 * len(groups)), layout='constrained'
  )
  axes = fig.subplots(len(groups), wide, squeeze=False)
  for line, (first, group) in zip(axes, groups):
    for ax in line[len(group) :]:
      ax.set_visible(False)
    for ax, row in zip(line, group):
      image = ax.imshow(row['matrix'], vmin=0, vmax=1, cmap='Blues')
      ax.set_title(tables.attack(row, among=group), fontsize=8)
      ax.tick_params(labelsize=6)
      ax.locator_params(integer=True)
    line[0].set_ylabel('\n'.join([*apart(first, rows), 'label']), fontsize=7)
  fig.supxlabel('restored as', fontsize=7)
  fig.colorbar(image, ax=axes, shrink=0.6, label='share of the class')
  return fig


def apart(row, rows):
  """What sets a point apart from the others, such as 'batch_size=64'."""
  return [
    f'{k}={v}'
    for k, v in row['setting'].items()
    if any(other['setting'].get(k) != v for other in rows)
  ]


def by_attack(rows: list[dict]) -> figure.Figure:
  """Bars of the first metric, one panel a point; diamonds are published."""
  groups = tables.by_point(rows)
  colors = _colors(rows)
  titles = [_title(first) for first, _ in groups]
  wide = min(len(groups), 2)
  tall = -(-len(groups) // wide)
  most = max(len(group) for _, group in groups)
  above = 0.12 * max(title.count('\n') for title in titles)
  fig = figure.Figure(
    figsize=(6.4 * wide, tall * (0.28 * most + 0.9 + above)),
    layout='constrained',
  )
  axes = fig.subplots(tall, wide, squeeze=False).flat
  for ax in axes[len(groups) :]:
    ax.set_visible(False)
  for ax, (_, group), title in zip(axes, groups, titles):
    _bars(ax, group, colors)
    ax.set_title(title, fontsize=7.5, loc='left')
  return fig


def _title(row):
  """A point's heading, folded."""
  parts = tables.heading(row).split('\n')
  return '\n'.join(textwrap.fill(part.strip(), _COLUMNS) for part in parts)


def _bars(ax, group, colors):
  metric = _metric(group)
  names = [
    textwrap.fill(tables.attack(row, among=group), _NAME) for row in group
  ]
  means = [100 * row['metrics'][metric]['mean'] for row in group]
  stds = [100 * row['metrics'][metric]['std'] for row in group]
  at = np.arange(len(group))
  ax.barh(
    at,
    means,
    xerr=stds,
    color=[colors[row['attack']] for row in group],
    error_kw=dict(ecolor='0.25', elinewidth=1, capsize=2.5),
    height=0.72,
  )
  for y, mean, std in zip(at, means, stds):
    right = min(mean + std, 100)  # a deviation may pass 100, a label must fit
    ax.text(right + 2, y, f'{mean:.1f}', va='center', fontsize=8)
  papers = [(_paper(row, metric), y) for row, y in zip(group, at)]
  papers = [(100 * paper['mean'], y) for paper, y in papers if paper]
  if papers:
    ax.plot(*zip(*papers), 'D', color='k', mfc='w', ms=4.5, label='published')
    ax.legend(fontsize=7, loc='lower right')
  ax.set_yticks(at, names, fontsize=8)
  ax.invert_yaxis()
  ax.set_xlim(0, 112)
  ax.set_xticks(range(0, 101, 20))
  ax.tick_params(axis='x', labelsize=8)
  ax.set_xlabel(f'{metric.replace("_", " ")}, %', fontsize=8)
  _plain(ax, 'x')


def _panels(rows, field):
  """Groups of rows that differ in the attack and in `field` alone."""
  panels = {}
  for row in rows:
    drop = {field, *_SWEPT[field]}
    rest = {k: v for k, v in row['setting'].items() if k not in drop}
    model = None if 'model' in drop else row['model']
    panels.setdefault((model, row['data'], str(rest)), []).append(row)
  return [
    group
    for group in panels.values()
    if len({row['setting'].get(field) for row in group}) > 1
  ]


def _against(panels, field, colors):
  """Lines of the first metric over a field of the setting, one an attack."""
  fig = figure.Figure(figsize=(5.6 * len(panels), 3.8), layout='constrained')
  axes = fig.subplots(1, len(panels), squeeze=False, sharey=True).flat
  firsts = [group[0] for group in panels]
  for ax, group in zip(axes, panels):
    _lines(ax, group, field, colors)
    if other := apart(group[0], firsts):
      ax.set_title('\n'.join([ax.get_title('left'), *other]), **_TITLE)
  return fig


def _lines(ax, group, field, colors):
  metric = _metric(group)
  lines = {}
  for row in group:
    lines.setdefault(tables.attack(row, among=group), []).append(row)
  drawn = []
  for name, line in lines.items():
    line = sorted(line, key=lambda row: row['setting'][field])
    x = [row['setting'][field] for row in line]
    mean = [100 * row['metrics'][metric]['mean'] for row in line]
    std = [100 * row['metrics'][metric]['std'] for row in line]
    family = line[0]['attack']
    dashes = _DASHES[drawn.count(family) % len(_DASHES)]
    drawn.append(family)
    style = dict(color=colors[family], ls=dashes, marker='o', ms=4, capsize=3)
    ax.errorbar(x, mean, std, label=name, **style)
    papers = [(row['setting'][field], _paper(row, metric)) for row in line]
    for at, paper in papers:
      if paper:
        ax.plot(at, 100 * paper['mean'], 'D', color='k', mfc='none', ms=7)
  if field == 'step':
    ax.set_xscale('symlog', linthresh=10)
  elif field not in _LINEAR:
    ax.set_xscale('log', base=2)
  ticks = sorted({row['setting'][field] for row in group})
  ax.set_xticks(ticks, [str(tick) for tick in ticks])
  ax.minorticks_off()
  ax.set_ylim(0, 105)
  ax.set_xlabel(field.replace('_', ' '))
  ax.set_ylabel(f'{metric.replace("_", " ")}, %')
  models = {row['model'] for row in group}
  title = group[0]['data']
  if len(models) == 1:
    title = f'{models.pop()} on {title}'
  if any(_paper(row, metric) for row in group):
    title += '; diamonds are published'
  ax.set_title(title, **_TITLE)
  # Below the axes and their label, where it hides no point.
  below = transforms.ScaledTranslation(0, -0.5, ax.figure.dpi_scale_trans)
  ax.legend(
    fontsize=7,
    loc='upper center',
    bbox_to_anchor=(0.5, 0.0),
    bbox_transform=ax.transAxes + below,
  )
  _plain(ax, 'y')


def _metric(group):
  return tables.of_attack(group[0])[0]


def _paper(row, metric):
  return (row['paper'] or {}).get(metric)


def _colors(rows):
  """One color for an attack in all panels of a run; grey for the baseline."""
  names = dict.fromkeys(row['attack'] for row in rows)
  colors = {
    n: COLORS[i % len(COLORS)]
    for i, n in enumerate(n for n in names if n not in _RANDOM)
  }
  return colors | dict.fromkeys(_RANDOM, _BASELINE)


def _plain(ax, grid):
  ax.spines[['top', 'right']].set_visible(False)
  ax.grid(axis=grid, alpha=0.3)
  ax.set_axisbelow(True)
