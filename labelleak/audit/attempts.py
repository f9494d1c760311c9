"""What attacks on a log name, in plain words for a terminal of 100 columns."""

import textwrap
from typing import Optional

from labelleak.audit.assessment import Attempt, VerticalAssessment

_WIDTH = 100
_MOST_CLASSES = 20
_BAR = 40  # characters of the largest count
LEGEND = (
  'How many of the labels each attack names: by its own confidence, if the'
  ' description holds, and in truth where that was told. Renamed is after the'
  ' best renaming of classes, which only the truth can choose.'
)


def headline(assessment: VerticalAssessment) -> str:
  """Says what a passive party names, or that nothing is claimed."""
  rows = f'{assessment.num_rows} rows'
  if assessment.leaked is None:
    start = (
      f'No attack claims to name the labels of the {rows} in this log, which is'
      ' no proof that none can.'
    )
  else:
    known = 'in truth' if assessment.truth else 'if the description holds'
    best = select(assessment).name
    start = (
      f'Who receives this names {assessment.leaked:.0%} of the labels of'
      f' {rows}, {known} ({best}).'
    )
  return (
    f'{start} Who guesses among {assessment.num_classes} classes names'
    f' {assessment.guessing:.0%}.'
  )


def describe_log(assessment: VerticalAssessment) -> tuple[str, ...]:
  """Says what was read, one sentence each."""
  source = assessment.source
  files = ' and '.join(source.files) or 'The log'
  arrays = ', '.join(f'{n} {list(v)}' for n, v in source.shapes.items())
  return (
    f'{files}: {source.lines} lines of {source.steps} steps, of'
    f' {assessment.num_rows} rows.',
    f'Its arrays are {arrays}.',
    *source.notes,
  )


def describe_grants(attempt: Attempt) -> str:
  """Says what an attack knows beside the log."""
  return f'Granted: {"; ".join(attempt.granted) or "nothing"}.'


def describe_labels(assessment: VerticalAssessment) -> str:
  """Says whose labels are counted, and by which names."""
  best = select(assessment)
  names = '' if best.named else ', whose groups have no names'
  mark = ', and how many there are in truth' if assessment.truth else ''
  return f'How many rows {best.name} gives each class{names}{mark}.'


def select(assessment: VerticalAssessment) -> Attempt:
  """Selects the attack that names most, as far as is known; else the first."""
  attacks = [a for a in assessment.attempts if not a.guess]
  known = lambda a: (
    a.named,
    -1.0 if a.accuracy is None else a.accuracy,
    -1.0 if a.confidence is None else a.confidence,
  )
  return max(attacks, key=known)


def format_share(share: Optional[float]) -> str:
  """Formats a share in percent, a dash where it is not known."""
  return '-' if share is None else f'{share:.1%}'


def tabulate(assessment: VerticalAssessment) -> list[str]:
  """Tabulates attacks beside guessing, and what they were granted."""
  truth = any(a.accuracy is not None for a in assessment.attempts)
  lines = ['How many labels are named']
  titles = ['confidence', 'in truth', 'renamed'][: 1 + 2 * truth]
  lines.append(f'  {"":24}' + ''.join(f'{title:>12}' for title in titles))
  for a in assessment.attempts:
    shares = [a.confidence, a.accuracy, a.renamed][: len(titles)]
    cells = ''.join(f'{format_share(share):>12}' for share in shares)
    lines.append(f'  {a.name:24}{cells}')
    if a.granted:
      lines += wrap(describe_grants(a), '      ')
  return lines


def draw_labels(assessment: VerticalAssessment) -> list[str]:
  """Draws how many rows of each class the best attack names."""
  best, truth = select(assessment), assessment.truth
  largest = max(best.counts) or 1
  order = sorted(range(len(best.counts)), key=lambda i: (-best.counts[i], i))
  lines = [describe_labels(assessment)]
  for i in sorted(order[:_MOST_CLASSES]):
    bar = '#' * round(_BAR * best.counts[i] / largest)
    true = f'{truth[i]:8d}' if truth else ''
    lines.append(f'  {i:5d} {best.counts[i]:7d}{true}  {bar}'.rstrip())
  if len(order) > _MOST_CLASSES:
    hidden = len(order) - _MOST_CLASSES
    lines.append(f'  {hidden} further classes, of no more rows, are not shown.')
  return lines


def wrap(text: str, bullet: str) -> list[str]:
  """Wraps a sentence below a bullet."""
  return textwrap.wrap(
    text,
    _WIDTH,
    initial_indent=bullet,
    subsequent_indent=' ' * len(bullet),
    break_on_hyphens=False,
  )
