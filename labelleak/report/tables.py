"""Tables of rows: mean and standard deviation, the paper's number beside ours.

Rows hold rates in [0, 1]; tables show them in percent, as the papers do.
"""

from tabulate import tabulate

# Metrics that are no rates, shown as they are.
_PLAIN = ('count_error',)
_PUBLIC = ('lr', 'steps', 'clients')  # shared in the published protocol
_NOTE = (
    '† published for other data than ours: expected by label statistics, which'
    '\n  decide this attack as long as the model is untrained.'
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
    metric = names[0]
    header = [
        'attack',
        *(n.replace('_', ' ') for n in names),
        'published',
    ]
    body = [
        [
            attack(row, short=True),
            *(cell(row['metrics'][n], n) for n in names),
            _published(row, metric),
        ]
        for row in group
    ]
    heading = ('### ' if style == 'github' else '') + heading_of(first)
    parts.append(f'{heading}\n\n{tabulate(body, header, style)}\n')
  text = '\n'.join(parts)
  return text + (f'\n{_NOTE}\n' if '†' in text else '')


def cell(summary: dict, metric: str = 'count_accuracy') -> str:
  """Mean ± standard deviation, in percent where the metric is a rate."""
  scale = 1 if metric in _PLAIN else 100
  digits = 4 if metric in _PLAIN else 2
  mean, std = scale * summary['mean'], scale * summary['std']
  return f'{mean:.{digits}f} ± {std:.{digits}f}'


def label(point: dict) -> str:
  """A sweep point in one line, such as 'batch_size=64, lr=0.1'.

  >>> label({'batch_size': 64, 'lr': 0.1})
  'batch_size=64, lr=0.1'
  """
  text = ', '.join(f'{k}={v}' for k, v in point.items()) or 'default'
  return text.replace('/', '|')  # '/' separates the parts of a trials.npz name


def attack(row: dict, short: bool = False) -> str:
  """An attack with its arguments and what it was granted.

  The numbers of the protocol go without saying; `+` names what was granted
  beyond them, `-` which of them was not: 'counts.llbg(confidence=aux) +x +y'.
  """
  name = row['attack'].rpartition('.')[2] if short else row['attack']
  args = ', '.join(f'{k}={v}' for k, v in sorted(row['attack_args'].items()))
  more = [f'+{k}' for k in row['known'] if k not in _PUBLIC]
  less = [f'-{k}' for k in _PUBLIC if k not in row['known']]
  return ' '.join([name + (f'({args})' if args else ''), *more, *less])


def heading_of(row: dict) -> str:
  """What was attacked, in one line of at most about 100 columns."""
  setting = row['setting']
  parts = [f'{setting["model"]} on {row["data"]}']
  parts.append('trained' if setting['trained'] else 'untrained')
  shown = ('batch_size', 'local_steps', 'clients', 'partition', 'accuracy')
  parts += [f'{k}={setting[k]}' for k in shown if setting.get(k) is not None]
  if setting.get('defense', 'none') != 'none':
    parts.append(setting['defense'])
  return ', '.join(parts) + f', {row["trials"]} trials'


def _published(row, metric):
  paper = (row.get('paper') or {}).get(metric)
  if not paper:
    return ''
  mark = ' †' if paper.get('substitute') else ''
  return f'{cell(paper, metric)}{mark} ({paper["source"]})'


def by_point(rows: list[dict]) -> list[tuple[dict, list[dict]]]:
  """(first row, all rows) of each config and sweep point, in order."""
  groups = {}
  for row in rows:
    groups.setdefault((row['config'], label(row['point'])), []).append(row)
  return [(group[0], group) for group in groups.values()]
