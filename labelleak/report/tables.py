"""Tables of rows: mean and standard deviation, the paper's number beside ours.

Rows hold rates in [0, 1]; tables show them in percent, as the papers do.
"""

from collections.abc import Sequence
import textwrap
from typing import Any, Optional

from tabulate import tabulate

from labelleak import spec
from labelleak.report import facts
from labelleak.report.facts import Row

_WIDTH = 100  # columns of a terminal
_COLUMN = 30  # of them for an attack
# Metrics that are no rates: shown as they are, without the deviation.
PLAIN = (
  'count_error',
  'bytes',
  'entropy',
  'true_mass',
  'max_mass',
  'distinct',
  'norm_shift',
  'interval_width',
)
# Digits of metrics that are no rates and have a deviation: those of images.
_DIGITS = dict(mse=4, psnr=2, ssim=3, cw_ssim=3, lpips=3, objective=4)
_SHORT = dict(
  count_accuracy='accuracy',
  presence_precision='precision',
  presence_recall='recall',
  count_error='error',
  interval_width='width',
  label_accuracy='accuracy',
  permuted_label_accuracy='permuted',
  top5_accuracy='top 5',
  calibration_error='ECE',
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
# Facts that a heading shows elsewhere, or that follow from what it shows.
_HIDDEN = (
  *('data', 'model', 'trained', 'defense'),
  *('attacker', 'draw', 'parties', 'share', 'shared', 'epsilon'),
)
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
  '§': (
    '§ ours and the published mean are more than two standard deviations of the'
    ' difference\nof two trials apart, and more than 1 %.'
  ),
}


def points(rows: Sequence[Row], style: str = 'simple') -> str:
  """Returns a table for each sweep point: attacks by metrics, and the paper's.

  The style is tabulate's name of a format; 'simple' keeps to 100 columns.
  """
  parts = [_point(group, style) for group in facts.groups(rows)]
  return add_notes('\n'.join(parts))


def _point(group, style):
  metrics = dict.fromkeys(
    metric for row in group for metric in facts.attack_metrics(row)
  )
  header = ['attack', *map(metric_name, metrics)]
  names = [facts.attack(row, group) for row in group]
  columns = [[fold(n, _COLUMN) for n in names] if style == 'simple' else names]
  columns += [[own_cell(row, metric) for row in group] for metric in metrics]
  if papers := [paper for row in group if (paper := _paper(row)[1])]:
    header.append(papers[0]['source'])
    columns.append([paper_cell(row) for row in group])
  if any('step_seconds' in row for row in group):
    header.append('s a step')
    columns.append([row.get('step_seconds', '') for row in group])
  table = tabulate(zip(*columns), header, style)
  model, details = heading(group[0])
  lines = f'#### {model}, {details}'
  if style != 'github':
    indent = dict(initial_indent='  ', subsequent_indent='  ')
    lines = f'{model}\n{textwrap.fill(details, _WIDTH, **indent)}'
  gains = [_gain(row, group) for row in group if row.get('gain')]
  return '\n'.join([f'{lines}\n\n{table}\n', *gains])


def _gain(row, group):
  """Returns a line on the paired differences of a row, in points."""
  gain = row['gain']
  mean, low, high = (
    f'{100 * gain[k]:+.2f}' if gain[k] else '?' for k in ('mean', 'low', 'high')
  )
  return (
    f'{facts.attack(row, group)}: {mean} points over {gain["over"]}, 95 %'
    f' interval {low} to {high}, {gain["seeds"]} seeds: {gain["verdict"]}\n'
  )


def add_notes(text: str) -> str:
  """Returns a text with the footnotes of the marks that occur in it."""
  notes = [note for mark, note in NOTES.items() if mark in text]
  return '\n'.join([text, *(f'{note}\n' for note in notes)])


def heading(row: Row, without: Sequence[str] = ()) -> tuple[str, str]:
  """Returns what was attacked and, `without` some of them, its facts."""
  setting, metrics = facts.setting(row), row['metrics']
  stated = {k: v for k, v in setting.items() if k not in _HIDDEN}
  stated['defense'] = setting['defense']
  if not facts.trains_model(row):
    models = [m for m in facts.OF_MODEL if m in metrics]
    stated |= {metric_name(m): cell(metrics[m], m) for m in models}
  state = 'trained' if setting['trained'] else 'untrained'
  details = [
    fact(k, v) for k, v in stated.items() if k not in without and v is not None
  ]
  return (
    f'{model_and_data(row)}, {state}',
    ', '.join([*details, f'{row["trials"]} trials']),
  )


def model_and_data(row: Row) -> str:
  """Returns what was run on what, such as 'mlp.mlp2(width=64) on digits'.

  Where there is no model, such as of a label code alone, it is the defense.
  """
  setting = row['setting']
  subject = spec.describe(setting['model'])
  if subject == 'none':
    subject = facts.defense(setting['defense'])
  return f'{subject} on {setting["data"]}'


def fact(name: str, value: Any) -> str:
  """Returns a fact of a setting, such as 'observed=(epochs=1, steps=3)'."""
  if name == 'defense':
    return f'{name}={facts.defense(value)}'
  nameless = isinstance(value, dict) and 'name' not in value
  text = spec.describe(value)
  return f'{name}=({text})' if nameless else f'{name}={text}'


def fold(text: str, width: int) -> str:
  """Breaks the description of a spec before arguments that pass `width`."""
  lines = [text] if len(text) <= width else text.replace('(', '\n(').split('\n')
  return '\n'.join(textwrap.fill(line, width) for line in lines)


def metric_name(metric: str) -> str:
  """Returns a metric as the header of a column."""
  return _SHORT.get(metric, metric.replace('_', ' '))


def cell(summary: Row, metric: Optional[str] = 'count_accuracy') -> str:
  """Returns mean ± standard deviation, in percent where it is a rate."""
  if metric in PLAIN:
    return f'{summary["mean"]:.4g}'
  digits, scale = (_DIGITS[metric], 1) if metric in _DIGITS else (2, 100)
  numbers = [summary[k] for k in ('mean', 'std') if summary[k] is not None]
  return ' ± '.join(f'{scale * number:.{digits}f}' for number in numbers)


def own_cell(row: Row, metric: str) -> str:
  """Returns a row's own cell, '' where it lacks the metric; ‡ marks a leak."""
  if metric not in row['metrics']:
    return ''
  leak = metric == 'label_accuracy' and facts.misses_below_chance(row)
  return cell(row['metrics'][metric], metric) + (' ‡' if leak else '')


def paper_cell(row: Row) -> str:
  """Returns the published cell of a row, '' without one; see `NOTES`."""
  metric, paper = _paper(row)
  if paper is None:
    return ''
  rate = metric not in PLAIN
  far = rate and facts.differ(row['metrics'][metric], paper)
  return cell(paper, metric) + (' †' * paper['substitute'] + ' §' * far)


def _paper(row):
  """Returns (metric, published cell) of what an attack recovered, or Nones."""
  papers = row['paper'] or {}
  metrics = (m for m in facts.attack_metrics(row) if m in papers)
  metric = next(metrics, None)
  return metric, papers.get(metric)
