"""Measures the shape of the code; `house_test.py` holds it to its bounds.

  python -m tests.repository.house [WORD]

prints a table: what is measured, how much of it there is now, and the goal,
where there is one. With a word it lists the places behind each measure whose
name holds it, such as `splats`. Lines are those of files in `labelleak/` and
`configs/`; the rest is read from syntax trees, of `launch.py` too.
"""

import ast
from collections.abc import Iterable, Sequence
import pathlib
import sys
from typing import NamedTuple, Optional, Union

from tabulate import tabulate

from tests.repository import trees, words

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Measure(NamedTuple):
  """One line of the table.

  Attributes:
    name: What is measured, with its unit where that is not one.
    now: How much of it there is; a summary as text has no goal.
    goal: The most that there should be, or the least where `floor`.
    floor: Whether more is better.
    places: What counts against it, each as file:line.
  """

  name: str
  now: Union[float, str]
  goal: Optional[float] = None
  floor: bool = False
  places: Sequence[str] = ()


class Module(NamedTuple):
  """A file of the checkout: its path from the root, text and syntax tree."""

  path: str
  text: str
  tree: ast.Module

  def place(self, node: ast.AST) -> str:
    """Returns where a node of the tree stands, as file:line."""
    return f'{self.path}:{node.lineno}'


def measures() -> list[Measure]:
  """Measures the checkout that this file is part of."""
  modules = [*_read('labelleak/**/*.py'), *_read('configs/**/*.py')]
  script = _read('launch.py')
  return [
    *_count([*modules, *script]),
    *_share([*modules, *script]),
    *_size(modules),
  ]


def _count(modules) -> Iterable[Measure]:
  """Measures what there should be none or little of."""
  fixed = trees.fixed_parameters(m.tree for m in modules)
  config, bare, splats = [], [], []
  for m in modules:
    if m.path.startswith('labelleak/experiments/'):
      doors = trees.find_config(m.tree)
      config += [m.place(n) for n in doors if not _is_entry(m.tree, n)]
    bare += map(m.place, trees.find_bare(m.tree))
    splats += map(m.place, trees.find_splats(m.tree, fixed))
  yield Measure('functions that take config', len(config), 5, places=config)
  yield Measure('bare Callable', len(bare), 0, places=bare)
  yield Measure('needless splats', len(splats), 0, places=splats)


def _is_entry(module, node) -> bool:
  """Returns whether it is the one function by which an experiment is run."""
  return node in module.body and getattr(node, 'name', '') == 'experiment'


def _share(modules) -> Iterable[Measure]:
  """Measures how functions and locals are named and docstrings begin."""
  functions = [
    (m.place(f), f) for m in modules for f in trees.functions(m.tree)
  ]
  texts = [(p, text) for p, f in functions if (text := ast.get_docstring(f))]
  local = [(p, name) for p, f in functions for name in trees.local_names(f)]
  participles = [p for p, f in functions if words.is_participle(f.name)]
  nouns = [p for p, text in texts if not words.begins_with_verb(text)]
  single = [p for p, f in functions if '_' not in f.name.strip('_')]
  filler = [p for p, name in local if name in words.FILLER]
  yield Measure(
    'functions named by a participle, %',
    _percent(participles, functions),
    goal=0.9,
    places=participles,
  )
  yield Measure(
    'docstrings that begin with a verb, %',
    round(100 - _percent(nouns, texts), 1),
    goal=60.1,
    floor=True,
    places=nouns,
  )
  yield Measure(
    'functions of one word, %', _percent(single, functions), places=single
  )
  yield Measure('filler locals, %', _percent(filler, local), places=filler)


def _size(modules) -> Iterable[Measure]:
  """Measures lines, and public names."""
  lines = {m.path: len(m.text.splitlines()) for m in modules}
  report = [
    n for path, n in lines.items() if path.startswith('labelleak/report/')
  ]
  functions = [f for m in modules for f in trees.functions(m.tree)]
  lengths = [f.end_lineno - f.lineno + 1 for f in functions]
  public = [len(trees.public_names(m.tree)) for m in modules]
  yield Measure('lines', sum(lines.values()))  # grows with what it does
  yield Measure('lines of the report', sum(report), 1900)
  yield Measure('lines of a module', _spread(lines.values()))
  yield Measure('lines of a function', _spread(lengths))
  yield Measure('public names of a module', _spread(public))


def _read(pattern) -> list[Module]:
  modules = []
  for file in sorted(ROOT.glob(pattern)):
    text = file.read_text()
    path = file.relative_to(ROOT).as_posix()
    modules.append(Module(path, text, ast.parse(text)))
  return modules


def _percent(part, whole) -> float:
  return round(100 * len(part) / len(whole), 1)


def _spread(values) -> str:
  """Returns 'median / ninth decile / largest'."""
  values = sorted(values)
  ranks = (len(values) // 2, len(values) * 9 // 10, -1)
  return ' / '.join(str(values[rank]) for rank in ranks)


def main(argv):
  if argv[1:]:
    matches = [m for m in measures() if argv[1] in m.name]
    print('\n'.join(place for m in matches for place in m.places))
    return
  rows = [(m.name, m.now, '' if m.goal is None else m.goal) for m in measures()]
  headers = ('measure', 'now', 'goal')
  print(tabulate(rows, headers, tablefmt='plain', disable_numparse=True))


if __name__ == '__main__':
  main(sys.argv)
