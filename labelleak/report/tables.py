"""Tables of rows: mean and standard deviation, the paper's number beside ours.

Rows hold rates in [0, 1]; tables show them in percent, as the papers do.
"""

import textwrap

from tabulate import tabulate

_WIDTH = 100  # columns of a terminal
# Metrics that are no rates: shown as they are, without the deviation.
_PLAIN = ('count_error', 'bytes')
_SHORT = dict(
  count_accuracy='accuracy',
  presence_precision='precision',
  presence_recall='recall',
  count_error='error',
  label_accuracy='accuracy',
  permuted_label_accuracy='permuted',
  top5_accuracy='top 5',
  main_accuracy='test',
  train_accuracy='train',
)
# Not shown: what the server holds, which runs the protocol and has the model,
# and what a party has, its own bottom.
_PUBLIC = ('lr', 'steps', 'clients', 'defense', 'apply')
_PUBLIC_VERTICAL = ('bottom',)
# Facts of a setting that a heading shows, beside model, data and defense.
_SHOWN = (
  'split',
  'top',
  'num_classes',
  'batch_size',
  'local_steps',
  'clients',
  'partition',
  'step',
  'aggregate',
  'accuracy',
)
NOTE = (
  '† published for another model or other data than ours: expected by label'
  ' statistics,\nwhich decide most attacks as long as a model is untrained.'
)


def points(rows: list[dict], style: str = 'simple') -> str:
  """One table for each sweep point: attacks by metrics, and what was published.

  Args:
    rows: as in `rows.jsonl`.
    style: tabulate's name of a format; 'simple' keeps to 100 columns.
  """
  parts = []
  for first, group in by_point(rows):
    names = list(first['metrics'])
    source = next((s for row in group if (s := _source(row))), None)
    header = ['attack', *(_SHORT.get(n, n.replace('_', ' ')) for n in names)]
    body = [
      [attack(row, short=True)]
      + [cell(row['metrics'][n], n) for n in names]
      + ([published(row)] if source else [])
      for row in group
    ]
    if source:
      header.append(source)
    if 'step_seconds' in first:
      header.append('s a step')
      body = [[*b, row['step_seconds']] for b, row in zip(body, group)]
    model, facts = heading(first).split('\n  ')
    lines = f'#### {model}, {facts}'
    if style != 'github':
      indent = dict(initial_indent='  ', subsequent_indent='  ')
      lines = f'{model}\n{textwrap.fill(facts, _WIDTH, **indent)}'
    widths = [30] if style == 'simple' else None
    table = tabulate(body, header, style, maxcolwidths=widths)
    parts.append(f'{lines}\n\n{table}\n')
  text = '\n'.join(parts)
  return text + (f'\n{NOTE}\n' if '†' in text else '')


def cell(summary: dict, metric: str = 'count_accuracy') -> str:
  """Mean ± standard deviation, in percent where the metric is a rate."""
  if metric in _PLAIN:
    return f'{summary["mean"]:.4g}'
  mean, std = summary['mean'], summary['std']
  return f'{100 * mean:.2f}' + ('' if std is None else f' ± {100 * std:.2f}')


def published(row: dict) -> str:
  """The paper's cell for a row, '' where it has none; † on substitutes."""
  for metric, paper in (row['paper'] or {}).items():
    return cell(paper, metric) + (' †' if paper['substitute'] else '')
  return ''


def label(point: dict) -> str:
  """A sweep point in one line, such as 'batch_size=64, lr=0.1'.

  >>> label({'batch_size': 64, 'lr': 0.1})
  'batch_size=64, lr=0.1'
  """
  text = ', '.join(f'{k}={v}' for k, v in point.items()) or 'default'
  return text.replace('/', '|')  # '/' separates the parts of a trials.npz name


def attack(row: dict, short: bool = False) -> str:
  """An attack with its arguments and what it was granted.

  What the server holds goes without saying; `+` names what was granted beyond,
  `-` (long form only) which of it was not: 'counts.llbg(confidence=aux)+x+y'.
  """
  name = short_name(row['attack']) if short else row['attack']
  args = ', '.join(f'{k}={v}' for k, v in sorted(row['attack_args'].items()))
  vertical = 'attacker' in row['setting']
  public = _PUBLIC_VERTICAL if vertical else _PUBLIC
  more = [f'+{k}' for k in row['known'] if k not in public]
  less = [f'-{k}' for k in public if k not in row['known']]
  less = [] if short else less
  return ''.join([name, f'({args})' if args else '', *more, *less])


def short_name(attack: str) -> str:
  """An attack without its module, where the rest says enough.

  >>> short_name('counts.llbg'), short_name('linear.full')
  ('llbg', 'linear.full')
  """
  module, _, name = attack.rpartition('.')
  return name if module in ('counts', 'scores') else attack


def heading(row: dict) -> str:
  """What was attacked, in two lines."""
  setting = row['setting']
  state = 'trained' if setting['trained'] else 'untrained'
  facts = [f'{k}={setting[k]}' for k in _SHOWN if setting.get(k) is not None]
  facts.append(f'defense={setting["defense"]}')
  return (
    f'{row["model"]} on {row["data"]}, {state}\n'
    f'  {", ".join(facts)}, {row["trials"]} trials'
  )


def by_point(rows: list[dict]) -> list[tuple[dict, list[dict]]]:
  """(first row, all rows) of each config and sweep point, in order."""
  groups = {}
  for row in rows:
    groups.setdefault((row['config'], label(row['point'])), []).append(row)
  return [(group[0], group) for group in groups.values()]


def _source(row):
  """Which table a row's published cells stand in."""
  return next((c['source'] for c in (row['paper'] or {}).values()), None)
