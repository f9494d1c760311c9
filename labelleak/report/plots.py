"""Plots of rows: accuracy per attack, and against a swept number."""

import pathlib

import matplotlib
from matplotlib import figure
import numpy as np

from labelleak.report import tables

matplotlib.use('Agg')  # no display needed
_COLORS = matplotlib.color_sequences['tab10']
_BASELINE = '0.6'


def save(workdir: pathlib.Path, rows: list[dict]) -> list[pathlib.Path]:
  """Writes `accuracy.png` and, where one was swept, `batch_size.png`."""
  saved = []
  if rows:
    saved.append(_write(workdir / 'accuracy.png', by_attack(rows)))
  if len({row['setting'].get('batch_size') for row in rows}) > 1:
    saved.append(
      _write(workdir / 'batch_size.png', against(rows, 'batch_size'))
    )
  return saved


def by_attack(rows: list[dict]) -> figure.Figure:
  """Bars of the first metric, one panel a point; diamonds are published."""
  groups = tables.by_point(rows)
  wide = min(len(groups), 2)
  tall = -(-len(groups) // wide)
  most = max(len(group) for _, group in groups)
  fig = figure.Figure(
    figsize=(6.4 * wide, tall * (0.34 * most + 1.3)), layout='constrained'
  )
  axes = fig.subplots(tall, wide, squeeze=False, sharex=True).flat
  for ax in axes[len(groups) :]:
    ax.set_visible(False)
  for ax, (first, group) in zip(axes, groups):
    _bars(ax, group, next(iter(first['metrics'])))
    ax.set_title(tables.heading(first), fontsize=8, loc='left', wrap=True)
  return fig


def _bars(ax, group, metric):
  names = [tables.attack(row, short=True) for row in group]
  means = [100 * row['metrics'][metric]['mean'] for row in group]
  stds = [100 * row['metrics'][metric]['std'] for row in group]
  colors = [_color(row) for row in group]
  at = np.arange(len(group))
  ax.barh(at, means, xerr=stds, color=colors, height=0.7, capsize=2.5)
  for y, mean, std in zip(at, means, stds):
    ax.text(min(mean + std, 100) + 1.5, y, f'{mean:.1f}', va='center', size=8)
  paper = [(row.get('paper') or {}).get(metric) for row in group]
  known = [(100 * p['mean'], y) for p, y in zip(paper, at) if p]
  if known:
    ax.plot(*zip(*known), 'D', color='k', mfc='w', ms=5, label='published')
    ax.legend(fontsize=7, loc='lower right')
  ax.set_yticks(at, names, fontsize=8)
  ax.invert_yaxis()
  ax.set_xlim(0, 110)
  ax.set_xticks(range(0, 101, 20))
  ax.set_xlabel(f'{metric.replace("_", " ")}, %', fontsize=8)
  _plain(ax, 'x')


def against(rows: list[dict], field: str) -> figure.Figure:
  """Lines of the first metric over a field of the setting, one an attack.

  Points that differ in another field, such as the model, get a panel each.
  """
  panels = {}
  for row in rows:
    rest = {
      k: v for k, v in row['setting'].items() if k not in (field, 'accuracy')
    }
    panels.setdefault((row['data'], str(rest)), []).append(row)
  panels = {
    k: v for k, v in panels.items() if len({r['setting'][field] for r in v}) > 1
  } or panels
  fig = figure.Figure(figsize=(5.6 * len(panels), 3.8), layout='constrained')
  axes = fig.subplots(1, len(panels), squeeze=False, sharey=True).flat
  for ax, group in zip(axes, panels.values()):
    _lines(ax, group, field)
  return fig


def _lines(ax, group, field):
  metric = next(iter(group[0]['metrics']))
  lines = {}
  for row in group:
    lines.setdefault(tables.attack(row, short=True), []).append(row)
  for name, line in lines.items():
    line = sorted(line, key=lambda row: row['setting'][field])
    x = [row['setting'][field] for row in line]
    mean = [100 * row['metrics'][metric]['mean'] for row in line]
    std = [100 * row['metrics'][metric]['std'] for row in line]
    color = _color(line[0])
    ax.errorbar(
      x, mean, std, marker='o', ms=4, capsize=3, color=color, label=name
    )
    for row in line:
      if paper := (row.get('paper') or {}).get(metric):
        ax.plot(
          row['setting'][field],
          100 * paper['mean'],
          'D',
          color='k',
          mfc='none',
          ms=7,
        )
  ax.set_xscale('log', base=2)
  ticks = sorted({row['setting'][field] for row in group})
  ax.set_xticks(ticks, [str(t) for t in ticks])
  ax.set_ylim(0, 104)
  ax.set_xlabel(field.replace('_', ' '))
  ax.set_ylabel(f'{metric.replace("_", " ")}, %')
  first = group[0]
  ax.set_title(
    f'{first["model"]} on {first["data"]}; diamonds are published',
    fontsize=9,
    loc='left',
  )
  ax.legend(fontsize=8)
  _plain(ax, 'y')


def _color(row):
  """The same color for an attack in every plot; grey for the baseline."""
  if row['attack'] == 'counts.random':
    return _BASELINE
  return _COLORS[sum(map(ord, tables.attack(row))) % len(_COLORS)]


def _plain(ax, grid):
  ax.spines[['top', 'right']].set_visible(False)
  ax.grid(axis=grid, alpha=0.3)
  ax.set_axisbelow(True)


def _write(path, fig):
  fig.savefig(path, dpi=150)
  return path
