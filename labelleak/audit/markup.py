"""Parts of a page of HTML that asks for nothing else.

No script, no font, no file: tables whose bars are inline SVG, readable from 390
pixels on, light or dark as the reader's system is.
"""

from collections.abc import Iterable, Sequence
import html
import string
from typing import Optional

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


def document(parts: Iterable[str]) -> str:
  """Makes the page of its parts, which are HTML; empty ones are left out."""
  return _PAGE.substitute(style=_STYLE, body='\n'.join(filter(None, parts)))


def draw_bar(
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


def tabulate(
  titles: Sequence[str],
  rows: Iterable[Sequence[str]],
  bars: int = 0,
) -> str:
  """Makes a table of cells that are HTML; column `bars` is wide."""
  head = ''.join(f'<th>{escape(title)}</th>' for title in titles)
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


def bullets(sentences: Iterable[str]) -> str:
  """Makes a list of sentences."""
  items = ''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)
  return f'<ul>{items}</ul>'


def paragraph(text: str, kind: str = '') -> str:
  """Makes a paragraph, of a kind that the style knows."""
  name = f' class="{kind}"' if kind else ''
  return f'<p{name}>{escape(text)}</p>'


def escape(value: object) -> str:
  """Makes text of a value, in which nothing is markup."""
  return html.escape(str(value))
