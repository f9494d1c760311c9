"""Ranking: defenses of one setting by what they hide and what they cost.

Rows are compared that differ in nothing but what defends them and that carry
the accuracy of a model trained under that defense: `main_accuracy`, or
`relative_accuracy`, its difference to an undefended one, or the `accuracy` of
their setting.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from tabulate import tabulate

from labelleak.metrics import significance
from labelleak.report import facts, tables
from labelleak.report.facts import Row
from labelleak.spec import Spec

# Of what an attack recovers, the first that a row has.
_LEAKAGE = 'label_accuracy', 'count_accuracy', 'backdoor_rate'
BASELINES = (*facts.RANDOM, 'none')
# Facts of a setting that state a defense, or what follows from it.
_DEFENDS = 'defense', 'accuracy', 'epsilon'
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

  defense: Sequence[Spec]  # all that defends, as in a setting
  # Mean and std of the accuracy of a model trained under it
  main: Mapping[str, Optional[float]]
  rows: dict[str, Row]  # attack as a table shows it -> row


class Comparison(NamedTuple):
  """Defenses of one model on one data set against the same attacks."""

  first: Row  # a row, for the setting
  relative: bool  # whether `main` is a difference to the undefended model
  points: list[Point]  # in the order of the rows
  attacks: list[str]  # names of those that do not guess


class Score(NamedTuple):
  """A point with its scores; none where no model was trained undefended."""

  point: Point  # what is scored
  dcs: dict[str, float]  # attack -> DCS
  counted: tuple[str, ...]  # attacks in T-DCS, the strongest variant of each
  total: float  # T-DCS, 0 without a score
  rank: int  # 1 is the best


def comparisons(rows: Sequence[Row]) -> list[Comparison]:
  """Groups rows under two defenses at least; no defense counts as one."""
  groups = {}
  for row in rows:
    if leakage(row):
      setting = facts.setting(row).items()
      shared = {k: v for k, v in setting if k not in _DEFENDS}
      stands_for = row['setting']['stands_for']
      groups.setdefault(facts.identity(shared, stands_for), []).append(row)
  compared = map(_comparison, groups.values())
  return [c for c in compared if c.attacks and _several_defenses(c.points)]


def _several_defenses(points):
  return any(point.defense != points[0].defense for point in points)


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
    if row['attack']['name'] not in BASELINES
  )
  return Comparison(rows[0], relative, points, list(attacks))


def _place(points, row, main, among):
  """Adds a row to its point; the same attack again makes another one."""
  name, defense = facts.attack(row, among), row['setting']['defense']
  for point in points:
    same = point.defense == defense and point.main == main
    if same and name not in point.rows:
      break
  else:
    points.append(point := Point(defense, main, {}))
  point.rows[name] = row


def _main(row, relative):
  """Returns a summary of the model's accuracy, None where the row has none."""
  if relative:
    free = None if row['setting']['defense'] else dict(mean=0.0, std=None)
    return row['metrics'].get('relative_accuracy', free)
  if main := row['metrics'].get('main_accuracy'):
    return main
  accuracy = facts.setting(row).get('accuracy')
  return None if accuracy is None else dict(mean=accuracy, std=None)


def leakage_metric(row: Row) -> Optional[str]:
  """Returns the metric of what an attack recovered; None without an attack."""
  return next((name for name in _LEAKAGE if name in row['metrics']), None)


def leakage(row: Row) -> Optional[Mapping[str, float]]:
  """Returns a summary of what an attack recovered; None without an attack."""
  return row['metrics'].get(leakage_metric(row))


def ideal(comparison: Comparison) -> Optional[float]:
  """Returns MP*: main accuracy without a defense; None where that was not run.

  Where attacks change the model, that of the best one: not attacked, mostly.
  """
  if comparison.relative:
    return 0.0
  means = [p.main['mean'] for p in comparison.points if not p.defense]
  return max(means, default=None)


def judge(comparison: Comparison) -> list[Score]:
  """Scores points, the best T-DCS first; as they came where there is none."""
  best = ideal(comparison)
  scores = []
  for point in comparison.points:
    dcs = {
      name: float(
        significance.dcs(leakage(row)['mean'], point.main['mean'], best)
      )
      for name, row in point.rows.items()
      if best is not None and name in comparison.attacks
    }
    counted = _strongest_variants(point, dcs)
    values = [dcs[name] for name in counted]
    total = significance.t_dcs(values) if values else 0.0
    scores.append(Score(point, dcs, counted, total, rank=0))
  scores.sort(key=lambda score: -score.total)
  totals = [score.total for score in scores]
  return [s._replace(rank=1 + totals.index(s.total)) for s in scores]


def _strongest_variants(point, dcs):
  """Returns, of the variants of each attack, the one with the lowest DCS."""
  variants = {}
  for name in sorted(dcs, key=dcs.get):
    variants.setdefault(point.rows[name]['attack']['name'], name)
  return tuple(variants.values())


def table(comparison: Comparison) -> str:
  """Returns a table of one line a point, the best first."""
  names = comparison.attacks
  main = 'relative' if comparison.relative else 'main'
  header = ['#', 'defense', main, 'T-DCS', 'worst', *names]
  lines = [
    [
      score.rank if score.dcs else '',
      facts.defense(score.point.defense),
      tables.cell(score.point.main),
      _total(score),
      _number(min(score.dcs.values())) if score.dcs else '',
      *(_cell(score.point.rows.get(n), score.dcs.get(n)) for n in names),
    ]
    for score in judge(comparison)
  ]
  return tabulate(lines, header, 'github', disable_numparse=True)


def _cell(row, dcs):
  """Returns '96.91 ± 1.08 (.593)'; ‡ marks a leak."""
  if row is None:
    return ''
  score = '' if dcs is None else f' ({_number(dcs)})'
  return f'{tables.cell(leakage(row))}{score}{_mark([row])}'


def _total(score):
  """Returns T-DCS; ‡ where it counts a leak below chance as protection."""
  if not score.dcs:
    return ''
  rows = [score.point.rows[name] for name in score.counted]
  return _number(score.total) + _mark(rows)


def _mark(rows):
  return ' ‡' if any(map(facts.misses_below_chance, rows)) else ''


def _number(value):
  return f'{value:.3f}'.removeprefix('0')


def markdown(compared: Sequence[Comparison]) -> str:
  """Returns `ranking.md`: a table for each comparison, the marks explained."""
  parts = ['# Defenses, ranked\n', _LEGEND]
  for comparison in compared:
    parts.append(f'## {", ".join(tables.heading(comparison.first, _APART))}\n')
    parts.append(f'{table(comparison)}\n')
  return tables.add_notes('\n'.join(parts))
