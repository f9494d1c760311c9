"""An assessment as one page of HTML that asks for nothing else.

No script, no font, no file: tables whose bars are inline SVG, readable from 390
pixels on, light or dark as the reader's system is.
"""

from collections.abc import Iterable, Sequence
import html
import string
from typing import Optional

from labelleak.audit import summary
from labelleak.audit.assessment import Assessment

_MOST_CLASSES = 50

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2330;
  --muted: #5d6675; --line: #dfe3ea; --track: #eef1f6; --bar: #3b6fd4;
  --base: #9aa4b5; --mark: #d9541e; --warn: #fff4df; --edge: #c98a12 }
@media (prefers-color-scheme: dark) { :root { --paper: #12161d;
  --ink: #e6eaf1; --muted: #9aa4b4; --line: #2b323e; --track: #1e2530;
  --bar: #6d9df2; --base: #66738a; --mark: #ff9a6b; --warn: #2c2414;
  --edge: #d9a441 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
li, dd { overflow-wrap: anywhere }
main { max-width: 54rem; margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--muted); margin: 0 }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .5rem }
p, ul { margin: .4rem 0; max-width: 42rem }
ul { padding-left: 1.2rem }
.figure { font-size: 4.5rem; font-weight: 650; line-height: 1.15;
  letter-spacing: -.02em }
.note { color: var(--muted); font-size: .9rem }
.warnings { background: var(--warn); border-left: 4px solid var(--edge);
  padding: .75rem 1rem; margin-top: 1.5rem }
.warnings h2 { margin: 0 }
table { border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums }
th { font-size: .8rem; font-weight: 500; color: var(--muted);
  text-align: right; vertical-align: bottom }
td { text-align: right; border-top: 1px solid var(--line) }
th, td { padding: .35rem 0 .35rem .75rem }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
td + td { white-space: nowrap } td.wide { width: 56% }
svg { display: block; width: 100%; height: .8rem; margin: .15rem 0 }
.track { fill: var(--track) } .bar { fill: var(--bar) }
.base { fill: var(--base) }
line { vector-effect: non-scaling-stroke; stroke-width: 2;
  stroke: var(--ink) }
line.mark { stroke: var(--mark); stroke-width: 3 }
dl { display: grid; grid-template-columns: max-content 1fr;
  gap: .1rem 1rem; margin: .4rem 0 }
dt { color: var(--muted) } dd { margin: 0 }
@media (max-width: 40rem) { body { font-size: 15px }
  main { padding: 1.25rem 1rem 3rem }
  .figure { font-size: 3.5rem } td.wide { width: auto; min-width: 4rem }
  td.wide:first-child { width: 62% } th, td { padding-left: .5rem } }
"""

_PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'">
<title>Label leakage audit</title>
<style>$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")


def render(assessment: Assessment) -> str:
  """Renders the page, warnings first."""
  parts = [
    '<h1>Label leakage audit</h1>',
    f'<p class="figure">{assessment.leaked:.0%}</p>',
    _paragraph(summary.headline(assessment)),
    _draw_bar(assessment.leaked, mark=assessment.scores[0].expected),
    _warn(assessment.warnings),
    _show_classes(assessment),
    _show_scores(assessment),
    _show_rates(assessment),
    _show_remedies(assessment),
    '<h2>What was read</h2>',
    _list(summary.describe_source(assessment)),
    _show_assumptions(assessment),
    '<h2>What this does not show</h2>',
    _list(assessment.limits),
    _paragraph(f'labelleak {assessment.version}', 'note'),
  ]
  return _PAGE.substitute(style=_STYLE, body='\n'.join(filter(None, parts)))


def _warn(warnings) -> str:
  if not warnings:
    return ''
  return (
    f'<section class="warnings"><h2>Warnings</h2>{_list(warnings)}</section>'
  )


def _show_classes(assessment) -> str:
  """Shows the histogram of labels with intervals."""
  listed, hidden = summary.select_classes(assessment, _MOST_CLASSES)
  truth = any(e.truth is not None for _, e in listed)
  ends = [max(e.count, e.high, e.truth or 0) for _, e in listed]
  top = max(ends, default=0) or 1
  rows = [
    [
      _escape(i),
      _draw_bar(
        e.count / top,
        ends=(e.low / top, e.high / top),
        mark=None if e.truth is None else e.truth / top,
      ),
      f'{e.count:.0f}',
      f'{e.low}..{e.high}',
      f'{e.present:.0%}',
      *([_escape(e.truth)] if truth else []),
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
  table = _tabulate(titles, rows, bars=1)
  return f'<h2>Labels</h2>{_paragraph(legend, "note")}{table}'


def _show_scores(assessment) -> str:
  """Shows each attack beside guessing."""
  truth = any(s.accuracy is not None for s in assessment.scores)
  guessing = assessment.scores[0].expected
  rows = [
    [
      _escape(s.name) + _draw_bar(s.expected, mark=guessing, base=i < 2),
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
  table = _tabulate(titles, rows)
  return f'<h2>Attacks</h2>{_paragraph(text, "note")}{table}'


def _show_rates(assessment) -> str:
  """Shows how much the answer moves with the learning rate."""
  if not assessment.learning_rates:
    return ''
  rows = [
    [_escape(s.name) + _draw_bar(s.agreement), f'{s.agreement:.0%}']
    for s in assessment.learning_rates
  ]
  table = _tabulate(['', 'as at the middle'], rows)
  return f'<h2>How much the learning rate matters</h2>{table}'


def _show_remedies(assessment) -> str:
  """Shows what defenses would leave beside guessing."""
  if not assessment.remedies:
    return ''
  rows = [
    [
      _escape(r.name) + _draw_bar(r.accuracy, mark=r.guessing, base=not i),
      f'{r.accuracy:.0%}',
      f'{r.guessing:.0%}',
    ]
    for i, r in enumerate(assessment.remedies)
  ]
  text = (
    "How many of one client's labels are named in simulated rounds, under each"
    ' defense alone. The orange mark is guessing.'
  )
  table = _tabulate(['', 'named', 'guessing'], rows)
  return f'<h2>What would help</h2>{_paragraph(text, "note")}{table}'


def _show_assumptions(assessment) -> str:
  """Shows what was told, and what was assumed instead."""
  parts = []
  for title, told_so in ('What you told', True), ('What was assumed', False):
    pairs = ''.join(
      f'<dt>{_escape(a.field)}</dt>'
      f'<dd>{_escape(summary.format_value(a.value))}</dd>'
      for a in assessment.assumed
      if a.told == told_so
    )
    if pairs:
      parts.append(f'<h2>{title}</h2><dl>{pairs}</dl>')
  return '\n'.join(parts)


def _draw_bar(
  share: float,
  *,
  ends: Optional[tuple[float, float]] = None,
  mark: Optional[float] = None,
  base: bool = False,
) -> str:
  """Draws a bar of [0, 1], with an interval and a mark; numbers stand beside.

  Args:
    share: length of the bar.
    ends: of a line across it.
    mark: place of a vertical mark.
    base: whether to draw it in the colour of what others are compared with.
  """
  kind = 'base' if base else 'bar'
  shapes = [
    '<rect class="track" width="100" height="12"></rect>',
    f'<rect class="{kind}" width="{100 * share:.2f}" height="12"></rect>',
  ]
  if ends:
    low, high = (100 * end for end in ends)
    shapes.append(f'<line x1="{low:.2f}" x2="{high:.2f}" y1="6" y2="6"></line>')
  if mark is not None:
    x = f'{100 * mark:.2f}'
    shapes.append(
      f'<line class="mark" x1="{x}" x2="{x}" y1="0" y2="12"></line>'
    )
  return (
    '<svg viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
    f'{"".join(shapes)}</svg>'
  )


def _tabulate(
  titles: Sequence[str],
  rows: Iterable[Sequence[str]],
  bars: int = 0,
) -> str:
  """Makes a table of cells that are HTML; column `bars` is wide."""
  head = ''.join(f'<th>{_escape(title)}</th>' for title in titles)
  body = '\n'.join(
    '<tr>'
    + ''.join(
      f'<td{" class=wide" if i == bars else ""}>{cell}</td>'
      for i, cell in enumerate(row)
    )
    + '</tr>'
    for row in rows
  )
  return f'<table>\n<tr>{head}</tr>\n{body}\n</table>'


def _list(sentences) -> str:
  items = ''.join(f'<li>{_escape(sentence)}</li>' for sentence in sentences)
  return f'<ul>{items}</ul>'


def _paragraph(text, kind='') -> str:
  name = f' class="{kind}"' if kind else ''
  return f'<p{name}>{_escape(text)}</p>'


def _escape(value) -> str:
  return html.escape(str(value))
