"""An assessment as one page of HTML that asks for nothing else."""

from labelleak.audit import attempts, markup, summary
from labelleak.audit.assessment import (
  AnyAssessment,
  VerticalAssessment,
)

_MOST_CLASSES = 50


def render(assessment: AnyAssessment) -> str:
  """Renders the page, warnings first."""
  leaked = assessment.leaked
  figure = '?' if leaked is None else f'{leaked:.0%}'
  sections = (
    (_show_attempts, _show_labels)
    if isinstance(assessment, VerticalAssessment)
    else (_show_classes, _show_scores, _show_rates, _show_remedies)
  )
  return markup.document(
    [
      '<h1>Label leakage audit</h1>',
      f'<p class="figure">{figure}</p>',
      markup.paragraph(summary.headline(assessment)),
      markup.draw_bar(leaked or 0.0, mark=assessment.guessing),
      _warn(assessment.warnings),
      *(show(assessment) for show in sections),
      '<h2>What was read</h2>',
      markup.bullets(summary.describe_source(assessment)),
      _show_assumptions(assessment),
      '<h2>What this does not show</h2>',
      markup.bullets(assessment.limits),
      markup.paragraph(f'labelleak {assessment.version}', 'note'),
    ]
  )


def _warn(warnings) -> str:
  if not warnings:
    return ''
  listed = markup.bullets(warnings)
  return f'<section class="warnings"><h2>Warnings</h2>{listed}</section>'


def _show_classes(assessment) -> str:
  """Shows the histogram of labels with intervals."""
  listed, hidden = summary.select_classes(assessment, _MOST_CLASSES)
  truth = any(e.truth is not None for _, e in listed)
  ends = [max(e.count, e.high, e.truth or 0) for _, e in listed]
  top = max(ends, default=0) or 1
  rows = [
    [
      markup.escape(i),
      markup.draw_bar(
        e.count / top,
        ends=(e.low / top, e.high / top),
        mark=None if e.truth is None else e.truth / top,
      ),
      f'{e.count:.0f}',
      f'{e.low}..{e.high}',
      f'{e.present:.0%}',
      *([markup.escape(e.truth)] if truth else []),
    ]
    for i, e in listed
  ]
  titles = ['class', '', 'count', 'interval', 'present', 'truth'][: 5 + truth]
  legend = (
    f'A bar is the count of a class, the line the interval that holds it with'
    f' {assessment.level:.0%}{", the orange mark the truth" if truth else ""}.'
  )
  if hidden:
    legend += f' {hidden} further classes, of no more labels, are not shown.'
  table = markup.tabulate(titles, rows, bars=1)
  return f'<h2>Labels</h2>{markup.paragraph(legend, "note")}{table}'


def _show_scores(assessment) -> str:
  """Shows each attack beside guessing."""
  truth = any(s.accuracy is not None for s in assessment.scores)
  guessing = assessment.scores[0].expected
  rows = [
    [
      markup.escape(s.name)
      + markup.draw_bar(s.expected, mark=guessing, base=i < 2),
      f'{s.expected:.0%}',
      f'{s.agreement:.0%}',
      *([f'{s.accuracy:.0%}'] if truth else []),
    ]
    for i, s in enumerate(assessment.scores)
  ]
  titles = ['', 'expected', 'as calibrated', 'in truth'][: 3 + truth]
  text = (
    'How many of the labels each attack names. Guessing takes all classes for'
    ' alike (the orange mark); classes alone shares the labels evenly among'
    ' those that are there.'
  )
  table = markup.tabulate(titles, rows)
  return f'<h2>Attacks</h2>{markup.paragraph(text, "note")}{table}'


def _show_rates(assessment) -> str:
  """Shows how much the answer moves with the learning rate."""
  if not assessment.learning_rates:
    return ''
  rows = [
    [markup.escape(s.name) + markup.draw_bar(s.agreement), f'{s.agreement:.0%}']
    for s in assessment.learning_rates
  ]
  table = markup.tabulate(['', 'as at the middle'], rows)
  return f'<h2>How much the learning rate matters</h2>{table}'


def _show_remedies(assessment) -> str:
  """Shows what defenses would leave beside guessing."""
  if not assessment.remedies:
    return ''
  rows = [
    [
      markup.escape(r.name)
      + markup.draw_bar(r.accuracy, mark=r.guessing, base=not i),
      f'{r.accuracy:.0%}',
      f'{r.guessing:.0%}',
    ]
    for i, r in enumerate(assessment.remedies)
  ]
  text = (
    "How many of one client's labels are named in simulated rounds, under each"
    ' defense alone. The orange mark is guessing.'
  )
  table = markup.tabulate(['', 'named', 'guessing'], rows)
  return f'<h2>What would help</h2>{markup.paragraph(text, "note")}{table}'


def _show_assumptions(assessment) -> str:
  """Shows what was told, and what was assumed instead."""
  parts = []
  for title, told_so in ('What you told', True), ('What was assumed', False):
    pairs = ''.join(
      f'<dt>{markup.escape(a.field)}</dt>'
      f'<dd>{markup.escape(summary.format_value(a.value))}</dd>'
      for a in assessment.assumed
      if a.told == told_so
    )
    if pairs:
      parts.append(f'<h2>{title}</h2><dl>{pairs}</dl>')
  return '\n'.join(parts)


def _show_attempts(assessment) -> str:
  """Shows what each attack names, and what it was granted."""
  truth = any(a.accuracy is not None for a in assessment.attempts)
  mark = assessment.guessing
  rows = [
    [
      markup.escape(a.name).replace('_', '_<wbr>')  # or telephones overflow
      + markup.draw_bar(_share(a), mark=mark, base=a.guess)
      + (
        '' if a.guess else markup.paragraph(attempts.describe_grants(a), 'note')
      ),
      attempts.format_share(a.confidence),
      *(
        [attempts.format_share(a.accuracy), attempts.format_share(a.renamed)]
        if truth
        else []
      ),
    ]
    for a in assessment.attempts
  ]
  titles = ['', 'confidence', 'in truth', 'renamed'][: 2 + 2 * truth]
  table = markup.tabulate(titles, rows)
  text = markup.paragraph(attempts.LEGEND, 'note')
  return f'<h2>Attacks</h2>{text}{table}'


def _share(attempt) -> float:
  """Returns how much of the labels an attack names, as far as is known."""
  known = attempt.accuracy if attempt.named else attempt.renamed
  return attempt.confidence or 0.0 if known is None else known


def _show_labels(assessment) -> str:
  """Shows how many rows of each class the best attack names."""
  best = attempts.select(assessment)
  truth = assessment.truth
  top = max(1, *best.counts, *(truth or ()))
  order = sorted(range(len(best.counts)), key=lambda i: (-best.counts[i], i))[
    :_MOST_CLASSES
  ]
  rows = [
    [
      markup.escape(i),
      markup.draw_bar(
        best.counts[i] / top, mark=truth[i] / top if truth else None
      ),
      markup.escape(best.counts[i]),
      *([markup.escape(truth[i])] if truth else []),
    ]
    for i in sorted(order)
  ]
  kind = 'class' if best.named else 'group'
  titles = [kind, '', 'rows', 'truth'][: 3 + bool(truth)]
  table = markup.tabulate(titles, rows, bars=1)
  text = markup.paragraph(attempts.describe_labels(assessment), 'note')
  return f'<h2>Labels</h2>{text}{table}'
