"""An assessment in plain words, for a terminal of 100 columns."""

from collections.abc import Iterator, Sequence

from labelleak.audit import attempts
from labelleak.audit.assessment import (
  AnyAssessment,
  Assessment,
  Estimate,
  VerticalAssessment,
)

_MOST_CLASSES = 20
_BAR = 40  # characters of the largest count


def render(assessment: AnyAssessment) -> str:
  """Renders the summary, warnings first."""
  sections = (
    [attempts.tabulate(assessment), attempts.draw_labels(assessment)]
    if isinstance(assessment, VerticalAssessment)
    else [
      [_title_classes(assessment), *_draw_classes(assessment)],
      ['How many labels are named', *_tabulate_scores(assessment)],
      _tabulate_rates(assessment),
      _tabulate_remedies(assessment),
    ]
  )
  parts = [
    [*attempts.wrap(headline(assessment), '')],
    _list('Warnings', assessment.warnings, '! '),
    _list('What was read', describe_source(assessment)),
    _list('What was assumed', describe_assumptions(assessment)),
    *sections,
    _list('What this does not show', assessment.limits),
  ]
  return '\n\n'.join('\n'.join(part) for part in parts if part)


def headline(assessment: AnyAssessment) -> str:
  """Says in one or two sentences how much leaks."""
  if isinstance(assessment, VerticalAssessment):
    return attempts.headline(assessment)
  return (
    f'Who sees this update names {assessment.leaked:.0%} of the'
    f' {assessment.num_examples} labels behind it, in expectation. Who guesses'
    f' that all {assessment.num_classes} classes are alike names'
    f' {assessment.guessing:.0%}.'
  )


def describe_source(assessment: AnyAssessment) -> tuple[str, ...]:
  """Says what was read, one sentence each."""
  if isinstance(assessment, VerticalAssessment):
    return attempts.describe_log(assessment)
  source = assessment.source
  files = ' and '.join(source.files) or 'The capture'
  head = ' and '.join(
    f'{name} {list(source.shapes[leaf])}' for leaf, name in source.names.items()
  )
  return (
    f'{files}: {source.tensors} tensors, which moved by {source.norm:.3g} in'
    ' all (Euclidean norm).',
    f'The head is {head}.',
    *source.notes,
  )


def describe_assumptions(assessment: AnyAssessment) -> tuple[str, ...]:
  """Says what was told, and what was assumed instead; one sentence each."""
  say = lambda by_user: ', '.join(
    f'{a.field} {format_value(a.value)}'
    for a in assessment.assumed
    if a.told == by_user
  )
  parts = ('You told', say(True)), ('Assumed, as you did not', say(False))
  return tuple(f'{start}: {listed}.' for start, listed in parts if listed)


def format_value(value: object) -> str:
  """Formats the value of a field for people."""
  if value is None:
    return 'none'
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, float):
    return f'{value:.4g}'
  if isinstance(value, dict):
    arguments = ', '.join(
      f'{k} {format_value(v)}' for k, v in value.items() if k != 'name'
    )
    return f'{value["name"]} ({arguments})' if arguments else str(value['name'])
  if isinstance(value, list):
    return '[' + ', '.join(map(format_value, value)) + ']'
  return str(value)


def select_classes(
  assessment: Assessment, limit: int
) -> tuple[list[tuple[int, Estimate]], int]:
  """Selects the classes to show: all, or those of the largest counts.

  Returns:
    (class, estimate) in the order of classes, and how many are left out.
  """
  listed = list(enumerate(assessment.classes))
  if len(listed) > limit:
    weight = lambda pair: (-pair[1].count, -pair[1].present, pair[0])
    listed = sorted(sorted(listed, key=weight)[:limit])
  return listed, len(assessment.classes) - len(listed)


def _title_classes(assessment):
  return f'Labels, with intervals of {assessment.level:.0%}'


def _draw_classes(assessment) -> Iterator[str]:
  """Draws the histogram of labels."""
  listed, hidden = select_classes(assessment, _MOST_CLASSES)
  largest = max((e.count for _, e in listed), default=0) or 1
  truth = any(e.truth is not None for _, e in listed)
  yield f'  class   count  interval    present{"   truth" if truth else ""}'
  for i, e in listed:
    bar = '#' * round(_BAR * e.count / largest)
    true = f'{e.truth:8d}' if truth else ''
    interval = f'{e.low}..{e.high}'
    yield (
      f'  {i:5d} {e.count:7.0f}  {interval:<10} {e.present:8.0%}{true}  {bar}'
    ).rstrip()
  if hidden:
    yield f'  {hidden} further classes, of no more labels, are not shown.'


def _tabulate_scores(assessment) -> Iterator[str]:
  """Tabulates attacks beside guessing."""
  truth = any(s.accuracy is not None for s in assessment.scores)
  yield (
    '  '
    + f'{"":24}{"expected":>10}{"as calibrated":>15}'
    + (f'{"in truth":>10}' if truth else '')
  )
  for s in assessment.scores:
    true = '' if s.accuracy is None else f'{s.accuracy:10.1%}'
    yield f'  {s.name:24}{s.expected:10.1%}{s.agreement:15.1%}{true}'


def _tabulate_rates(assessment) -> Sequence[str]:
  """Tabulates how much the answer moves with the learning rate."""
  rows = [
    f'  {s.name:24} {s.agreement:.1%} of the labels as at the middle'
    for s in assessment.learning_rates
  ]
  return ['How much the learning rate matters', *rows] if rows else []


def _tabulate_remedies(assessment) -> Sequence[str]:
  """Tabulates what defenses would leave."""
  rows = [
    f'  {r.name:66}{r.accuracy:8.0%}   guessing {r.guessing:.0%}'
    for r in assessment.remedies
  ]
  title = "What would help: one client's labels named in simulated rounds"
  return [title, *rows] if rows else []


def _list(title, sentences, bullet='  ') -> list[str]:
  """Lists sentences below a title, if there are any."""
  lines = [line for s in sentences for line in attempts.wrap(s, bullet)]
  return [title, *lines] if lines else []
