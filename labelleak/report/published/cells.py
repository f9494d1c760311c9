"""Reads the published tables from the CSV files beside this module.

One file a paper, one header. A line with a `mean` is one printed number:

  table, row, column  its labels, in the printed order
  mean, std           as printed; `std` is blank where the paper gives none
  unit                '%' is served as a rate; 'dB' and 'nats' stay as they are
  source              where it is printed, where that is not `table`
  attack, args        who obtained it; blank: it is of the model
  metric              of our rows; blank: no row measures it
  setting             facts that a row must equal, as JSON
  note                what a reader should know, such as a deviation

A line without a `mean` states facts of the numbers below it. A blank label
stands for all of that kind, so that a line without any holds for the whole
file. Of two lines that state one fact the later wins; `args` and `setting` add
up. `tables.csv` lists the tables in the order of RESULTS.md.
"""

from collections.abc import Iterator
import csv
from importlib import resources
from importlib.resources.abc import Traversable
import json
from typing import Any, NamedTuple, Optional

from labelleak.spec import Spec

_LABELS = 'table', 'row', 'column'


class Cell(NamedTuple):
  """One published number with the setting it belongs to."""

  source: str  # where it is printed, such as 'llbg Table 1'
  setting: dict[str, Any]  # facts that a row's `setting` must equal
  attack: Optional[Spec]  # spec of it; None: of the model, whatever attacked it
  metric: Optional[str]  # what rows call it; None: no row measures it
  mean: float  # a rate, or in the unit of the metric
  std: Optional[float]  # deviation over trials; None where the paper gives none


class Table(NamedTuple):
  """Published numbers that are shown together."""

  title: str  # as in RESULTS.md
  # (row label, column label) -> Cell, in the printed order
  cells: dict[tuple[str, str], Cell]
  # Attacks of ours on the same updates, the one that guesses last
  beside: tuple[str, ...]


def read() -> dict[str, Table]:
  """Reads all tables by the name that the CSV files give them, in order."""
  folder = resources.files(__package__)
  papers = {f.name: f for f in folder.iterdir() if f.name.endswith('.csv')}
  tables = {
    line['table']: Table(line['title'], {}, tuple(line['beside'].split()))
    for line in _lines(papers.pop('tables.csv'))
  }
  for file in papers.values():
    for (name, *labels), cell in _numbers(_lines(file)):
      tables[name].cells[tuple(labels)] = cell
  return tables


def _lines(file: Traversable) -> list[dict[str, str]]:
  text = file.read_text(encoding='utf-8')
  return list(csv.DictReader(text.splitlines(), strict=True))


def _numbers(lines: list[dict]) -> Iterator[tuple[tuple[str, ...], Cell]]:
  """Yields the labels and the cell of each number, in order."""
  facts = []
  for line in lines:
    if not line['mean']:
      facts.append(line)
      continue
    labels = tuple(line[label] for label in _LABELS)
    yield labels, _cell([*(f for f in facts if _covers(f, line)), line])


def _covers(fact: dict, line: dict) -> bool:
  return all(fact[label] in ('', line[label]) for label in _LABELS)


def _cell(lines: list[dict]) -> Cell:
  """Makes a cell of all lines that hold for it, the number last."""
  stated = {k: v for line in lines for k, v in line.items() if v}
  args, setting = {}, {}
  for line in lines:
    args |= json.loads(line['args'] or '{}')
    setting |= json.loads(line['setting'] or '{}')
  unit = stated.get('unit')
  return Cell(
    source=stated.get('source', stated['table']),
    setting=setting,
    attack=dict(name=stated['attack'], **args) if 'attack' in stated else None,
    metric=stated.get('metric'),
    mean=_number(stated['mean'], unit),
    std=_number(stated['std'], unit) if 'std' in stated else None,
  )


def _number(text: str, unit: Optional[str]) -> float:
  return round(float(text) / 100, 6) if unit == '%' else float(text)
