"""Tables of rows: mean and standard deviation, the paper's number beside ours.

Rows hold rates in [0, 1]; tables show them in percent, as the papers do.
"""

from collections.abc import Sequence
import re
import textwrap
from typing import Optional

from tabulate import tabulate

from labelleak.metrics import significance

WIDTH = 100  # columns of a terminal
# Metrics that are no rates: shown as they are, without the deviation.
_PLAIN = (
  'count_error',
  'bytes',
  'entropy',
  'true_mass',
  'max_mass',
  'distinct',
  'norm_shift',
)
# Digits of metrics that are no rates and have a deviation: those of images.
_DIGITS = dict(mse=4, psnr=2, ssim=3, cw_ssim=3, lpips=3, objective=4)
_SHORT = dict(
  count_accuracy='accuracy',
  presence_precision='precision',
  presence_recall='recall',
  count_error='error',
  label_accuracy='accuracy',
  permuted_label_accuracy='permuted',
  top5_accuracy='top 5',
  test_accuracy='test rows',
  test_top5_accuracy='test top 5',
  test_f1='test f1',
  best_accuracy='oracle',
  best_test_accuracy='oracle test',
  main_accuracy='test',
  main_top5_accuracy='main top 5',
  main_f1='main f1',
  relative_accuracy='relative',
  train_accuracy='train',
)
# Not shown: what the server holds, which runs the protocol and has the model,
# and what a party has, its own bottom.
_PUBLIC = ('lr', 'steps', 'clients', 'defense', 'model')
_WAS = 'apply'  # what rows of old call the model
_PUBLIC_VERTICAL = ('bottom',)
_OWN = ('party', 'pool')  # no grant either: its own model and rows
# Facts of a setting that a heading shows, beside model, data and defense.
_SHOWN = (
  'split',
  'depth',
  'top',
  'num_classes',
  'batch_size',
  'labelled',
  'local_steps',
  'clients',
  'queries',
  'partition',
  'trigger',
  'poison',
  'step',
  'observed',
  'aggregate',
  'main_task',
  'accuracy',
)
# Metrics of the model that a run trained, whatever attacked it.
_MODEL = (
  'main_accuracy',
  'main_top5_accuracy',
  'main_f1',
  'relative_accuracy',
  'train_accuracy',
)
_SAID = 'counts', 'scores', 'reconstruction'  # modules that go without saying
_ARGUMENT = re.compile(r'(\w+)=((?:[^,()]|\([^()]*\))+)')
_LINK = re.compile(r'([\w.]+)(\((?:[^()]|\([^()]*\))*\))?')
NOTES = {
  '†': (
    '† published for another model or other data than ours: expected by label'
    ' statistics,\nwhich decide most attacks as long as a model is untrained.'
  ),
  '‡': (
    '‡ missed more often than by guessing, which is leakage: a read-out that is'
    ' turned around\nrecovers labels. Under 2/3 of 1/K and by three standard'
    ' errors.'
  ),
}


def points(rows: list[dict], style: str = 'simple') -> str:
  """One table for each sweep point: attacks by metrics, and what was published.

  Args:
    rows: as in `rows.jsonl`.
    style: tabulate's name of a format; 'simple' keeps to 100 columns.
  """
  parts = []
  for first, group in by_point(rows):
    names = of_attack(first)
    papers = [paper for row in group if (paper := _paper(row)[1])]
    header = ['attack', *(_SHORT.get(n, n.replace('_', ' ')) for n in names)]
    body = [
      [attack(row, among=group)]
      + [measured(row, n) for n in names]
      + ([published(row)] if papers else [])
      for row in group
    ]
    if papers:
      header.append(papers[0]['source'])
    if 'step_seconds' in first:
      header.append('s a step')
      body = [[*b, row['step_seconds']] for b, row in zip(body, group)]
    model, facts = heading(first).split('\n  ')
    lines = f'#### {model}, {facts}'
    if style != 'github':
      indent = dict(initial_indent='  ', subsequent_indent='  ')
      lines = f'{model}\n{textwrap.fill(facts, WIDTH, **indent)}'
    widths = [30] if style == 'simple' else None
    table = tabulate(body, header, style, maxcolwidths=widths)
    verdicts = [_verdict(row, group) for row in group if row.get('gain')]
    parts.append('\n'.join([f'{lines}\n\n{table}\n', *verdicts]))
  return with_notes('\n'.join(parts))


def _verdict(row, group):
  """One line on the paired differences of a row, in points."""
  found = row['gain']
  points = lambda name: f'{100 * found[name]:+.2f}' if found[name] else '?'
  return (
    f'{attack(row, among=group)}: {points("mean")} points over'
    f' {found["over"]}, 95 % interval {points("low")} to {points("high")},'
    f' {found["seeds"]} seeds: {found["verdict"]}\n'
  )


def with_notes(text: str) -> str:
  """A text with the footnotes of the marks that occur in it."""
  notes = [note for mark, note in NOTES.items() if mark in text]
  return '\n'.join([text, *(f'{note}\n' for note in notes)])


def cell(summary: dict, metric: str = 'count_accuracy') -> str:
  """Mean ± standard deviation, in percent where the metric is a rate."""
  if metric in _PLAIN:
    return f'{summary["mean"]:.4g}'
  digits, scale = (_DIGITS[metric], 1) if metric in _DIGITS else (2, 100)
  mean, *std = (
    f'{scale * summary[k]:.{digits}f}'
    for k in ('mean', 'std')
    if summary[k] is not None
  )
  return ' ± '.join([mean, *std])


def measured(row: dict, metric: str) -> str:
  """A row's own cell, '' where it lacks the metric; ‡ marks a leak."""
  if metric not in row['metrics']:
    return ''
  mark = ' ‡' if metric == 'label_accuracy' and leaks(row) else ''
  return cell(row['metrics'][metric], metric) + mark


def leaks(row: dict) -> bool:
  """Whether an attack on labels misses more of them than a guess would.

  Not where the best renaming of classes is short of a guess, too: rows that
  were not named count as missed, and hide nothing.
  """
  own, setting = row['metrics'].get('label_accuracy'), row['setting']
  if own is None:
    return False
  renamed = row['metrics'].get('permuted_label_accuracy', dict(mean=1.0))
  steps = (setting.get('observed') or dict(steps=1))['steps']
  same = setting.get('draw') == 'first'  # all trials attack the same rows
  return renamed['mean'] >= 1 / setting[
    'num_classes'
  ] and significance.below_chance(
    own['mean'],
    own['stderr'],
    setting['num_classes'],
    rows=setting['batch_size'] * steps * (1 if same else row['trials']),
  )


def published(row: dict) -> str:
  """The paper's cell for a row, '' where it has none; † on substitutes."""
  metric, paper = _paper(row)
  if paper is None:
    return ''
  return cell(paper, metric) + (' †' if paper['substitute'] else '')


def _paper(row):
  """(metric, published cell) of what an attack recovered, or two None."""
  papers = row['paper'] or {}
  found = ((name, papers[name]) for name in of_attack(row) if name in papers)
  return next(found, (None, None))


def of_attack(row: dict) -> list[str]:
  """Metrics of what was attacked, not of the model; all where nothing was."""
  all_own = _trains(row)
  return [name for name in row['metrics'] if all_own or name not in _MODEL]


def _trains(row):
  """Whether a row has a model of its own: an attack on it, or none at all."""
  return row['attack'] == 'none' or 'backdoor_rate' in row['metrics']


def label(point: dict) -> str:
  """A sweep point in one line, such as 'batch_size=64, lr=0.1'.

  >>> label({'batch_size': 64, 'lr': 0.1})
  'batch_size=64, lr=0.1'
  """
  text = ', '.join(f'{k}={v}' for k, v in point.items()) or 'default'
  return text.replace('/', '|')  # '/' separates the parts of a trials.npz name


def entry(row: dict, name: str) -> str:
  """Where `trials.npz` holds an array of a row."""
  return f'{label(row["point"])}/{attack(row)}/{name}'


def attack(row: dict, among: list[dict] | None = None) -> str:
  """An attack with its arguments and what it was granted.

  What the server holds goes without saying; `+` names what was granted beyond,
  `-` which of it was not: 'counts.llbg(confidence=aux)+labelled'.

  Args:
    row: of `rows.jsonl`.
    among: the rows that it is shown with, for the short form: without a module
      that goes without saying, and with `-` only where that tells rows apart.
  """
  name = row['attack'] if among is None else short_name(row['attack'])
  args = ', '.join(f'{k}={v}' for k, v in sorted(row['attack_args'].items()))
  vertical = 'attacker' in row['setting']
  public = _PUBLIC_VERTICAL if vertical else _PUBLIC
  if any(_WAS in r['known'] for r in (row, *(among or ()))):
    public = tuple(_WAS if field == 'model' else field for field in public)
  more = [f'+{k}' for k in row['known'] if k not in (*public, *_OWN)]
  lacks = lambda r: [f'-{k}' for k in public if k not in r['known']]
  kind = lambda r: (r['attack'], r['attack_args'])
  alike = among is not None and all(
    lacks(r) == lacks(row) for r in among if kind(r) == kind(row)
  )
  less = [] if alike else lacks(row)
  return ''.join([name, f'({args})' if args else '', *more, *less])


def short_name(attack: str) -> str:
  """An attack without its module, where the rest says enough.

  >>> short_name('counts.llbg'), short_name('linear.full')
  ('llbg', 'linear.full')
  """
  module, _, name = attack.rpartition('.')
  return name if module in _SAID else attack


def heading(row: dict, without: Sequence[str] = ()) -> str:
  """What was attacked, in two lines, `without` some of the facts."""
  setting, metrics = row['setting'], row['metrics']
  state = 'trained' if setting['trained'] else 'untrained'
  facts = {k: setting.get(k) for k in _SHOWN} | dict(defense=defense(row))
  if seen := facts['observed']:
    facts['observed'] = f'{seen["steps"]} steps, {seen["epochs"]} epochs'
  if poison := facts['poison']:
    facts['poison'] = f'({poison})'
  if not _trains(row):
    facts |= {_SHORT[m]: cell(metrics[m]) for m in _MODEL if m in metrics}
  facts = [
    f'{k}={v}' for k, v in facts.items() if k not in without and v is not None
  ]
  return (
    f'{row["model"]} on {row["data"]}, {state}\n'
    f'  {", ".join(facts)}, {row["trials"]} trials'
  )


def defense(row: dict) -> str:
  """All that defends a point: 'smoothing(alpha=0.5)+gaussian(stddev=0.1)'.

  The label code, the penalty of the active party's loss, a bottleneck for a
  top, the transforms of the gradient; 'none' where there is none of them.
  """
  setting = row['setting']
  parts = [setting.get('code'), setting.get('penalty')]
  parts += [setting['top']] if guarded(setting.get('top')) else []
  parts.append(setting['defense'])
  parts = [part for part in parts if part and part != 'none']
  return '+'.join(parts).replace('labelleak.', '') or 'none'


def guarded(top: Optional[str]) -> bool:
  """Whether a top model is a defense: it is of `models.bottleneck`."""
  return bool(top) and top.startswith('bottleneck.')


def links(defense: str) -> list[tuple[str, dict]]:
  """Parses a defense into (name, arguments) of its links.

  >>> links('clip(max_norm=0.2)+laplace(scale=0.1)')
  [('clip', {'max_norm': '0.2'}), ('laplace', {'scale': '0.1'})]
  """
  return [
    (name, dict(_ARGUMENT.findall(arguments)))
    for name, arguments in _LINK.findall(defense)
  ]


def folded(defense: str) -> str:
  """A defense with a line for each link."""
  return '+\n'.join(link.group() for link in _LINK.finditer(defense))


def by_point(rows: list[dict]) -> list[tuple[dict, list[dict]]]:
  """(first row, all rows) of each config and sweep point, in order."""
  groups = {}
  for row in rows:
    key = row['config'], label(row['point']), heading(row)
    groups.setdefault(key, []).append(row)
  return [(group[0], group) for group in groups.values()]
