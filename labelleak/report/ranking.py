"""Ranking: defenses of one setting by what they hide and what they cost.

Rows are compared that differ in nothing but what defends them and that carry
the accuracy of a model trained under that defense: `main_accuracy`, or
`relative_accuracy`, its difference to an undefended one, or the `accuracy` of
their setting.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional

from tabulate import tabulate

from labelleak.metrics import significance
from labelleak.report import tables

_LEAKED = ('label_accuracy', 'count_accuracy', 'backdoor_rate')
# Attacks that guess, or no attack at all.
GUESSES = ('counts.random', 'scores.random', 'none')
# What a setting says of a defense, or of the model that it cost.
_DEFENDS = ('defense', 'code', 'penalty', 'accuracy')
_APART = ('defense', 'accuracy', 'test', 'train', 'relative')  # of a heading
_LEGEND = """Attack accuracy in percent, in brackets the defense capability
score DCS = 1 / (1 + D), D² = (attack² + lost main accuracy²) / 2, of means.
T-DCS is its mean over the attacks that were run, and ranks. Of an attack's
variants the strongest counts: who knows the defense takes the one that fits it.
As published, an attack that misses all labels counts as one that learns
nothing. `worst` is the lowest DCS.
"""


class Point(NamedTuple):
  """One defense at one strength."""

  defense: str  # as `tables.defense` describes it
  main: dict  # mean and std of the accuracy of a model trained under it
  rows: dict  # attack as a table shows it -> row


class Comparison(NamedTuple):
  """Defenses of one model on one data set against the same attacks."""

  first: dict  # a row, for the setting
  relative: bool  # whether `main` is a difference to the undefended model
  points: list[Point]
  attacks: list[str]  # without the one that guesses


class Judged(NamedTuple):
  """A point with its scores; none where no model was trained undefended."""

  point: Point
  dcs: dict  # attack -> DCS
  counted: tuple  # attacks in T-DCS: the strongest variant of each
  total: float  # T-DCS, 0 without a score
  rank: int


def comparisons(rows: Sequence[dict]) -> list[Comparison]:
  """Groups of rows under two defenses at least; no defense counts as one."""
  groups = {}
  for row in rows:
    if leaked(row):
      groups.setdefault(_setting(row), []).append(row)
  found = [_comparison(group) for group in groups.values()]
  several = lambda c: len({point.defense for point in c.points}) > 1
  return [c for c in found if c.attacks and several(c)]


def _comparison(rows):
  relative = any('relative_accuracy' in row['metrics'] for row in rows)
  points = []
  for row in rows:
    if main := _main(row, relative):
      _place(points, row, main, among=rows)
  attacks = dict.fromkeys(
    name
    for point in points
    for name, row in point.rows.items()
    if row['attack'] not in GUESSES
  )
  return Comparison(rows[0], relative, points, list(attacks))


def _place(points, row, main, among):
  """Adds a row to its point; the same attack again makes another one."""
  name, defense = tables.attack(row, among), tables.defense(row)
  for point in points:
    same = point.defense == defense and point.main == main
    if same and name not in point.rows:
      break
  else:
    points.append(point := Point(defense, main, {}))
  point.rows[name] = row


def _setting(row):
  """Equal for rows that differ in what defends them alone."""
  facts = {k: v for k, v in row['setting'].items() if k not in _DEFENDS}
  if tables.guarded(facts.get('top')):
    facts['top'] = 'sum'
  return row['model'], row['data'], str(sorted(facts.items()))


def _main(row, relative):
  """Summary of the model's accuracy, None where the row has none."""
  if relative:
    same = dict(mean=0.0, std=None) if tables.defense(row) == 'none' else None
    return row['metrics'].get('relative_accuracy', same)
  if main := row['metrics'].get('main_accuracy'):
    return main
  accuracy = row['setting'].get('accuracy')
  return None if accuracy is None else dict(mean=accuracy, std=None)


def metric(row: dict) -> Optional[str]:
  """Metric of what an attack recovered; None of a row without an attack."""
  return next((name for name in _LEAKED if name in row['metrics']), None)


def leaked(row: dict) -> Optional[dict]:
  """Summary of what an attack recovered; None of a row without an attack."""
  return row['metrics'].get(metric(row))


def ideal(comparison: Comparison) -> Optional[float]:
  """MP*: main accuracy without a defense; None where that was not run.

  Where attacks change the model, that of the best one: not attacked, mostly.
  """
  if comparison.relative:
    return 0.0
  means = [p.main['mean'] for p in comparison.points if p.defense == 'none']
  return max(means) if means else None


def judge(comparison: Comparison) -> list[Judged]:
  """Points from the best to the worst T-DCS; as they came without one."""
  best = ideal(comparison)
  found = []
  for point in comparison.points:
    dcs = {
      name: float(
        significance.dcs(leaked(row)['mean'], point.main['mean'], best)
      )
      for name, row in point.rows.items()
      if best is not None and name in comparison.attacks
    }
    names = _strongest(point, dcs)
    total = significance.t_dcs([dcs[name] for name in names]) if names else 0.0
    found.append((point, dcs, names, total))
  found.sort(key=lambda judged: -judged[-1])
  totals = [total for *_, total in found]
  return [Judged(*judged, 1 + totals.index(judged[-1])) for judged in found]


def _strongest(point, dcs):
  """Of the variants of each attack the one with the lowest DCS."""
  found = {}
  for name in sorted(dcs, key=dcs.get):
    found.setdefault(point.rows[name]['attack'], name)
  return tuple(found.values())


def table(comparison: Comparison, style: str = 'simple') -> str:
  """One line a point, the best first.

  Args:
    comparison: of `comparisons`.
    style: tabulate's name of a format; 'simple' keeps to 100 columns and goes
      on below with the attacks that do not fit.
  """
  judged, names = judge(comparison), comparison.attacks
  if style != 'simple':
    return _lines(comparison, judged, names, style)
  parts = []
  while names:
    for num in range(len(names), 0, -1):
      part = _lines(comparison, judged, names[:num], style, bool(parts))
      if max(map(len, part.splitlines())) <= tables.WIDTH:
        break
    parts.append(part)
    names = names[num:]
  return '\n\n'.join(parts)


def _lines(comparison, judged, names, style, continued=False):
  """Rank, defense and attacks, and what sums up unless `continued`."""
  narrow = style == 'simple'
  fold = lambda name: name.replace('(', '\n(').replace('=', '=\n')
  main = 'relative' if comparison.relative else 'main'
  header = ['#', 'defense', *([] if continued else [main, 'T-DCS', 'worst'])]
  widths = [None] * len(header) + [16] * len(names)
  header += map(fold, names) if narrow else names
  body = []
  for j in judged:
    defense = j.point.defense
    line = [
      j.rank if j.dcs else '',
      tables.folded(defense) if narrow else defense,
    ]
    if not continued:
      worst = _score(min(j.dcs.values())) if j.dcs else ''
      line += [tables.cell(j.point.main), _total(j), worst]
    line += [_cell(j.point.rows.get(n), j.dcs.get(n), narrow) for n in names]
    body.append(line)
  wrap = dict(maxheadercolwidths=widths) if narrow else {}
  return tabulate(body, header, style, disable_numparse=True, **wrap)


def _cell(row, dcs, narrow):
  """'96.91 ± 1.08 (.593)', on a terminal '96.9 (.593)'; ‡ marks a leak."""
  if row is None:
    return ''
  own = leaked(row)
  text = f'{100 * own["mean"]:.1f}' if narrow else tables.cell(own)
  brackets = '' if dcs is None else f' ({_score(dcs)})'
  return text + brackets + (' ‡' if tables.leaks(row) else '')


def _total(judged):
  """T-DCS; ‡ where it counts a leak below chance as protection."""
  leak = any(tables.leaks(judged.point.rows[name]) for name in judged.counted)
  return (_score(judged.total) if judged.dcs else '') + (' ‡' if leak else '')


def _score(value):
  return f'{value:.3f}'.removeprefix('0')


def markdown(found: Sequence[Comparison]) -> str:
  """`ranking.md`: a table for each comparison, the marks explained."""
  parts = ['# Defenses, ranked\n', _LEGEND]
  for comparison in found:
    heading = tables.heading(comparison.first, _APART)
    model, facts = heading.split('\n  ')
    parts.append(f'## {model}, {facts}\n')
    parts.append(f'{table(comparison, "github")}\n')
  return tables.with_notes('\n'.join(parts))
