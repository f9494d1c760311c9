"""Plots of rows: bars of attacks, lines over what was swept, confusion."""

from collections.abc import Sequence
import itertools
from typing import Optional

from matplotlib import figure
import numpy as np

from labelleak import spec
from labelleak.report import facts, panels, tables
from labelleak.report.facts import Row

# Facts of a setting that a line is drawn over where they were swept, and what
# moves with them.
SWEPT = dict(
  batch_size=('accuracy',),
  num_classes=('accuracy',),
  step=('accuracy', 'trained'),
  depth=('model', 'top'),
  parties=('split', 'share'),
  share=('split',),
)
_LINEAR = 'depth', 'share'
_COLUMNS = 32  # of an attack beside its bar
_DASHES = '-', '--', ':', '-.'  # variants of one attack
_PAPER = dict(ls='', marker='D', color='k', label='published', zorder=3)


def accuracy_bars(rows: Sequence[Row]) -> figure.Figure:
  """Draws bars of the first metric, a panel a point; diamonds are published."""
  groups = facts.groups(rows)
  colors = panels.colors(rows)
  titles = [panels.title(group[0]) for group in groups]
  above = max(title.count('\n') for title in titles)
  names = [_name(row, group) for group in groups for row in group]
  bar = max(0.28, 0.14 * (1 + max(name.count('\n') for name in names)))
  bars = max(map(len, groups))
  tall = bar * bars + 0.9 + 0.12 * above
  fig, axes = panels.spread(len(groups), abreast=2, size=(6.4, tall))
  for ax, group, title in zip(axes, groups, titles):
    _bars(ax, group, colors)
    ax.set_ylim(bars - 0.4, -0.6)  # the first on top, all of one height
    ax.set_title(title, **panels.TITLE)
  return fig


def _name(row, group):
  return tables.fold(facts.attack(row, group), _COLUMNS)


def _bars(ax, group, colors):
  metric, group = _first_metric(group)
  means, stds = panels.to_percent(group, metric)
  at = np.arange(len(group))
  ax.barh(
    at,
    means,
    xerr=stds,
    color=[colors[row['attack']['name']] for row in group],
    error_kw=dict(ecolor='0.25', elinewidth=1, capsize=2.5),
    height=0.72,
  )
  for y, mean, std in zip(at, means, stds):
    right = min(mean + std, 100)  # a deviation may pass 100, a label must fit
    ax.text(right + 2, y, f'{mean:.1f}', va='center', fontsize=8)
  y, papers = _paper_points(group, at, metric)
  if len(papers):
    ax.plot(papers, y, mfc='w', ms=4.5, **_PAPER)
    ax.legend(fontsize=7, loc='lower right')
  ax.set_yticks(at, [_name(row, group) for row in group], fontsize=8)
  ax.set_xlim(0, 112)
  ax.set_xticks(range(0, 101, 20))
  panels.percent_axis(ax, 'x', metric)


def field_sweep(rows: Sequence[Row], field: str) -> Optional[figure.Figure]:
  """Draws the first metric over a fact of the setting, a line an attack.

  None where that fact was not swept.
  """
  groups = _sweep_groups(rows, field)
  if not groups:
    return None
  shape = dict(abreast=3, size=(5.6, 3.4), legend=0.5)
  fig, axes = panels.spread(len(groups), sharey=True, **shape)
  firsts = [group[0] for group in groups]
  colors = panels.colors(rows)
  for ax, group in zip(axes, groups):
    _draw_sweep(ax, group, field, colors)
    names = {tables.model_and_data(row) for row in group}
    name = names.pop() if len(names) == 1 else group[0]['setting']['data']
    title = [name, *panels.differences(group[0], firsts)]
    ax.set_title('\n'.join(title), **panels.TITLE)
  panels.legend(fig)
  return fig


def _sweep_groups(rows, field):
  """Groups rows that differ in the attack and in `field` alone."""
  moving = field, *SWEPT[field]
  groups = {}
  for row in rows:
    setting = facts.setting(row)
    if setting.get(field) is not None:
      # A fact that is None is one that an older row does not have.
      stated = {k: v for k, v in setting.items() if v is not None}
      fixed = {k: v for k, v in stated.items() if k not in moving}
      groups.setdefault(facts.identity(fixed), []).append(row)
  values = lambda group: {facts.setting(row)[field] for row in group}
  return [group for group in groups.values() if len(values(group)) > 1]


def _draw_sweep(ax, group, field, colors):
  metric, group = _first_metric(group)
  value = lambda row: facts.setting(row)[field]
  lines = {}
  for row in sorted(group, key=value):
    lines.setdefault(facts.attack(row, group), []).append(row)
  attacks = []
  for name, line in lines.items():
    attack = line[0]['attack']['name']
    dashes = _DASHES[attacks.count(attack) % len(_DASHES)]
    attacks.append(attack)
    x = list(map(value, line))
    style = dict(color=colors[attack], ls=dashes, label=name)
    _errorbar(ax, x, line, metric, style)
    x, papers = _paper_points(line, x, metric)
    if len(papers):
      ax.plot(x, papers, mfc='none', ms=7, **_PAPER)
  if field == 'step':
    ax.set_xscale('symlog', linthresh=10)
  elif field not in _LINEAR:
    ax.set_xscale('log', base=2)
  ticks = sorted(set(map(value, group)))
  ax.set_xticks(ticks, list(map(str, ticks)))
  ax.minorticks_off()
  ax.set_ylim(0, 105)
  ax.set_xlabel(field.replace('_', ' '))
  panels.percent_axis(ax, 'y', metric)


def gamma_sweep(rows: Sequence[Row]) -> Optional[figure.Figure]:
  """Draws backdoor rate and main accuracy over gamma (BLI paper, Figure 6).

  One line a point and attack, the deviation over trials as a bar; dashed is the
  training that nobody attacked.

  None where gamma was not swept.
  """
  metrics = 'backdoor_rate', 'main_accuracy'
  rows = [row for row in rows if {*metrics} <= {*row['metrics']}]
  lines = {}
  for row in rows:
    if 'gamma' in row['attack']:
      attack = {k: v for k, v in row['attack'].items() if k != 'gamma'}
      point = [spec.describe_point(row['point'])] if row['point'] else []
      name = ', '.join([spec.describe(attack), *point])
      lines.setdefault(name, []).append(row)
  lines = {name: line for name, line in lines.items() if len(line) > 1}
  if not lines:
    return None
  fig, axes = panels.spread(2, abreast=2, size=(4.5, 3.2), legend=0.6)
  free = [row for row in rows if row['attack']['name'] == 'none']
  for ax, metric in zip(axes, metrics):
    for (name, line), color in zip(
      lines.items(), itertools.cycle(panels.COLORS)
    ):
      line.sort(key=lambda row: row['attack']['gamma'])
      x = [row['attack']['gamma'] for row in line]
      _errorbar(ax, x, line, metric, dict(color=color, label=name))
    for level in panels.to_percent(free, metric)[0]:
      ax.axhline(level, color='0.6', ls='--', lw=1, label='not attacked')
    ax.set_xscale('log')
    ax.set_xlabel('gamma')
    panels.percent_axis(ax, 'y', metric)
  fig.suptitle(tables.model_and_data(rows[0]), fontsize=9)
  panels.legend(fig)
  return fig


def epoch_curves(rows: Sequence[Row]) -> Optional[figure.Figure]:
  """Draws what is known of a data set's labels after epochs of a training.

  A panel an attack whose answers change with the epochs, and a kind of link
  and data if there are several; a line a defense; dashed is what a guess has.

  None where no row is of several epochs.
  """
  rows = [row for row in rows if len(_epochs(row)) > 1]
  shown, guesses = {}, {}
  for row in rows:
    subject = tables.model_and_data(row), _link(row)
    alike = [r for r in rows if _link(r) == _link(row)]
    kind = guesses if row['attack']['name'] in facts.RANDOM else shown
    kind.setdefault((facts.attack(row, alike), *subject), []).append(row)
  shown = {k: shown[k] for k in sorted(shown) if any(map(_moves, shown[k]))}
  if not shown:
    return None
  _, *parts = (len(set(part)) > 1 for part in zip(*shown))
  shape = dict(abreast=3, size=(3.6, 3.2), sharey=True, legend=0.6)
  fig, axes = panels.spread(len(shown), **shape)
  looks = itertools.cycle(itertools.product(('-', ':'), panels.COLORS))
  styles = dict(zip(dict.fromkeys(map(_defense, rows)), looks))
  ticks = sorted({epoch for row in rows for epoch in _epochs(row)})
  for ax, ((name, *subject), lines) in zip(axes, shown.items()):
    for row in lines:
      ls, color = styles[_defense(row)]
      _epoch_line(ax, row, dict(ls=ls, color=color, label=_defense(row)))
    for key, others in guesses.items():
      if key[1:] == tuple(subject):
        level = 100 * others[0]['metrics']['label_accuracy']['mean']
        ax.axhline(level, color=panels.GREY, ls='--', lw=1)
    told = itertools.compress(subject, parts)
    ax.set_title(', '.join([name, *told]), **panels.TITLE)
    ax.set_xscale('log')
    ax.set_xticks(ticks, list(map(str, ticks)))
    ax.minorticks_off()
    ax.set_ylim(0, 105)
    ax.set_xlabel('epochs')
    panels.percent_axis(ax, 'y', 'label_accuracy')
  if not parts[0]:
    fig.suptitle(next(iter(shown))[1], fontsize=9)
  panels.legend(fig)
  return fig


def _epochs(row):
  """Returns the epochs after which a row has an accuracy."""
  prefix = 'after_'
  names = [name for name in row['metrics'] if name.startswith(prefix)]
  return sorted(int(name.removeprefix(prefix)) for name in names)


def _link(row):
  """Returns whether the attacker sees cut gradients, in words."""
  aggregate = row['setting']['extra'].get('aggregate', dict(name=''))['name']
  return {'': '', 'plaintext': 'in the clear'}.get(aggregate, 'sealed')


def _moves(row):
  """Returns whether an attack learns from more epochs."""
  return len({row['metrics'][f'after_{e}']['mean'] for e in _epochs(row)}) > 1


def _defense(row):
  defense = row['setting'].get('defense') or ()
  return ' on '.join(map(spec.describe, defense)) or 'none'


def _epoch_line(ax, row, style):
  pairs = [panels.to_percent([row], f'after_{epoch}') for epoch in _epochs(row)]
  means, stds = np.array(pairs)[..., 0].T
  ax.errorbar(_epochs(row), means, stds, marker='o', ms=4, capsize=3, **style)


def _errorbar(ax, x, line, metric, style):
  means, stds = panels.to_percent(line, metric)
  ax.errorbar(x, means, stds, marker='o', ms=4, capsize=3, **style)


def _paper_points(rows, places, metric):
  """Returns the places of rows that have a published number, and these in %."""
  papers = [(row['paper'] or {}).get(metric) for row in rows]
  pairs = [(at, 100 * p['mean']) for at, p in zip(places, papers) if p]
  return np.reshape(pairs, (-1, 2)).T


def _first_metric(group):
  """Returns the metric that papers report first, and the rows that have it."""
  metric = facts.attack_metrics(group[0])[0]
  return metric, [row for row in group if metric in row['metrics']]


def confusion(rows: Sequence[Row]) -> Optional[figure.Figure]:
  """Draws which class was restored as which, a panel a row (BLI, Figure 9).

  None where no row has a confusion matrix.
  """
  groups = facts.groups([row for row in rows if row.get('matrix')])
  if not groups:
    return None
  wide = max(map(len, groups))
  num = wide * len(groups)
  fig, axes = panels.spread(num, abreast=wide, size=(2.6, 2.9))
  firsts = [group[0] for group in groups]
  for line, group in zip(np.reshape(axes, (-1, wide)), groups):
    for ax, row in itertools.zip_longest(line, group):
      if row is None:
        ax.set_visible(False)
        continue
      image = ax.imshow(row['matrix'], vmin=0, vmax=1, cmap='Blues')
      ax.set_title(_name(row, group), fontsize=8)
      ax.tick_params(labelsize=6)
      ax.locator_params(integer=True)
    apart = panels.differences(group[0], firsts)
    line[0].set_ylabel('\n'.join([*apart, 'label']), fontsize=7)
  fig.supxlabel('restored as', fontsize=7)
  fig.colorbar(image, ax=axes, shrink=0.6, label='share of the class')
  return fig
