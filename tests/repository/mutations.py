"""Mutations of a module's source, and the test modules that mirror it."""

import ast
from collections.abc import Iterator
import pathlib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = 'labelleak'
_SWAP = {ast.Add: '-', ast.Sub: '+', ast.Mult: '/', ast.Div: '*'}
_REDUCE = (
  'sum', 'mean', 'max', 'min', 'argmax', 'argmin', 'all', 'any', 'std',
  'argsort', 'sort', 'cumsum', 'take_along_axis',
)  # fmt: skip
# What is said to a person, or to a type checker, is no computation.
_SILENT = ast.Raise, ast.JoinedStr, ast.AnnAssign, ast.arguments


class Mutation(NamedTuple):
  """One changed expression."""

  file: str  # from the root
  line: int
  old: str
  new: str
  start: int  # where `old` stands, in bytes
  kind: str  # sign, term, index or axis

  def apply(self, source: bytes) -> bytes:
    """Returns the changed source."""
    end = self.start + len(self.old.encode())
    return source[: self.start] + self.new.encode() + source[end:]

  def __str__(self):
    old, new = (' '.join(text.split()) for text in (self.old, self.new))
    return f'{self.file}:{self.line}: {self.kind}: {old}  ->  {new}'


def mutations(file: str, source: bytes) -> Iterator[Mutation]:
  """Yields the mutations of a module's source, in its order.

  The sign of an index or axis is none of them: -1 is 1 in a matrix.
  """
  starts = [0]
  for line in source.splitlines(keepends=True):
    starts.append(starts[-1] + len(line))
  text = source.decode()
  place = lambda line, column: starts[line - 1] + column
  whole = set()  # indices and axes
  for node in _walk(ast.parse(text)):
    for part, kind, new in () if node in whole else _changes(node, text):
      if kind in ('index', 'axis'):
        whole.add(part)
      start = place(part.lineno, part.col_offset)
      old = source[start : place(part.end_lineno, part.end_col_offset)].decode()
      yield Mutation(file, part.lineno, old, new, start, kind)


def mirrors(file: str) -> list[str]:
  """Lists the test modules of a module, its own first.

  Without one of its own it is tested by all of the nearest folder that has any.
  """
  path = 'tests' / pathlib.Path(file).relative_to(PACKAGE)
  folder = path.parent
  names = [path.with_name(f'{path.stem}_test.py')]
  names += [folder.with_name(f'{folder.name}_test.py')]
  if any((ROOT / name).exists() for name in names):
    names.append(folder / f'{folder.name}_test.py')
  else:
    while not any((ROOT / folder).glob('*_test.py')):
      folder = folder.parent
    tests = sorted((ROOT / folder).glob('*_test.py'))
    names = [folder / f'{folder.name}_test.py']
    names += [test.relative_to(ROOT) for test in tests]
  return [str(n) for n in dict.fromkeys(names) if (ROOT / n).exists()]


def wider(file: str) -> list[str]:
  """Lists test modules that mirror no module, of the folders of a module."""
  path = 'tests' / pathlib.Path(file).relative_to(PACKAGE)
  found = []
  for folder in path.parents[:-2]:  # below tests/
    package = ROOT / PACKAGE / folder.relative_to('tests')
    for test in sorted((ROOT / folder).glob('*_test.py')):
      module = package / test.stem.removesuffix('_test')
      is_mirror = module.is_dir() or module.with_suffix('.py').exists()
      if not is_mirror and module.name != folder.name:
        found.append(str(test.relative_to(ROOT)))
  return [test for test in found if test not in mirrors(file)]


def _walk(node):
  """Yields the expressions that compute something."""
  for child in ast.iter_child_nodes(node):
    if not isinstance(child, _SILENT):
      yield child
      yield from _walk(child)


def _changes(node, text):
  """Yields (what is replaced, kind, by what) of one expression."""
  code = lambda part: f'({ast.get_source_segment(text, part)})'
  if isinstance(node, ast.BinOp) and _is_arithmetic(node):
    swapped = _SWAP[type(node.op)]
    yield node, 'sign', f'({code(node.left)} {swapped} {code(node.right)})'
    if isinstance(node.op, ast.Add | ast.Sub):
      yield node, 'term', code(node.left)
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    yield node, 'sign', code(node.operand)
  if isinstance(node, ast.Subscript) and _is_whole(node.slice):
    yield node.slice, 'index', '0' if _value(node.slice) else '-1'
  if isinstance(node, ast.Call):
    axes = [k.value for k in node.keywords if k.arg == 'axis']
    if isinstance(node.func, ast.Attribute) and node.func.attr in _REDUCE:
      axes += node.args[-1:]
    for axis in axes:
      if _is_whole(axis):
        yield axis, 'axis', '-1' if _value(axis) == 0 else '0'


def _is_arithmetic(node):
  sides = node.left, node.right
  return type(node.op) in _SWAP and not any(map(_is_text, sides))


def _is_text(node):
  return isinstance(node, ast.JoinedStr) or (
    isinstance(node, ast.Constant) and isinstance(node.value, str)
  )


def _is_whole(node):
  return type(_value(node)) is int


def _value(node):
  """Returns the number that is written, None for what is none."""
  try:
    return ast.literal_eval(node)
  except ValueError:
    return None
