"""Tables of rows: mean and standard deviation, the paper's number beside ours.

Rows hold rates in [0, 1]; tables show them in percent, as the papers do.
"""

from tabulate import tabulate

# Metrics that are no rates: shown as they are, without the deviation.
_PLAIN = ('count_error',)
_SHORT = dict(
  count_accuracy='accuracy',
  presence_precision='precision',
  presence_recall='recall',
  count_error='error',
)
# Granted wherever the server runs the protocol and holds the model: not shown.
_PUBLIC = ('lr', 'steps', 'clients', 'defense', 'apply')
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
    lines = heading(first)
    if style == 'github':
      lines = '#### ' + lines.replace('\n  ', ', ')
    widths = [30] if style == 'simple' else None
    table = tabulate(body, header, style, maxcolwidths=widths)
    parts.append(f'{lines}\n\n{table}\n')
  text = '\n'.join(parts)
  return text + (f'\n{NOTE}\n' if '†' in text else '')


def cell(summary: dict, metric: str = 'count_accuracy') -> str:
  """Mean ± standard deviation, in percent where the metric is a rate."""
  if metric in _PLAIN:
    return f'{summary["mean"]:.4g}'
  return f'{100 * summary["mean"]:.2f} ± {100 * summary["std"]:.2f}'


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
  name = row['attack'].rpartition('.')[2] if short else row['attack']
  args = ', '.join(f'{k}={v}' for k, v in sorted(row['attack_args'].items()))
  more = [f'+{k}' for k in row['known'] if k not in _PUBLIC]
  less = [f'-{k}' for k in _PUBLIC if k not in row['known']]
  less = [] if short else less
  return ''.join([name, f'({args})' if args else '', *more, *less])


def heading(row: dict) -> str:
  """What was attacked, in two lines."""
  setting = row['setting']
  state = 'trained' if setting['trained'] else 'untrained'
  shown = ('batch_size', 'local_steps', 'clients', 'partition', 'accuracy')
  facts = [f'{k}={setting[k]}' for k in shown if setting.get(k) is not None]
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
