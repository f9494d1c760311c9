"""What `house.py` counts on a syntax tree."""

import ast
from collections.abc import Iterable, Iterator
from typing import Optional

_TAKES = (ast.FunctionDef, ast.Lambda)
_MANY = (ast.GeneratorExp, ast.ListComp)


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
  """Lists all functions, nested ones and methods too."""
  return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]


def public_names(tree: ast.Module) -> list[str]:
  """Lists the public functions and classes of a module."""
  defined = (ast.FunctionDef, ast.ClassDef)
  names = [n.name for n in tree.body if isinstance(n, defined)]
  return [name for name in names if not name.startswith('_')]


def find_config(tree: ast.AST) -> list[ast.AST]:
  """Finds functions, nested ones and lambdas too, that take `config`."""
  return [
    n
    for n in ast.walk(tree)
    if isinstance(n, _TAKES) and 'config' in _parameters(n.args)
  ]


def find_bare(tree: ast.AST) -> list[ast.AST]:
  """Finds each `Callable` that says nothing of its arguments and result.

  `Callable[..., Any]` is one, and so is the right side of an alias.
  """
  spelled = {
    n.value
    for n in ast.walk(tree)
    if isinstance(n, ast.Subscript) and ast.unparse(n.slice) != '(..., Any)'
  }
  names = [n for n in ast.walk(tree) if _name(n) == 'Callable']
  return [n for n in names if n not in spelled]


def fixed_parameters(trees: Iterable[ast.AST]) -> set[str]:
  """Names the functions and NamedTuples that take no `*args`."""
  fixed, variadic = set(), set()
  for node in (n for tree in trees for n in ast.walk(tree)):
    if isinstance(node, ast.FunctionDef):
      (variadic if node.args.vararg else fixed).add(node.name)
    elif isinstance(node, ast.ClassDef):
      fixed |= {node.name} if 'NamedTuple' in map(_name, node.bases) else set()
  return fixed - variadic


def find_splats(tree: ast.AST, fixed: set[str]) -> list[ast.AST]:
  """Finds each `*a` in a call that should be arguments.

  Either `a` is a tuple packed for that alone, or it fills parameters of a
  function in `fixed`, where nobody sees which; a comprehension, `map` and the
  caller's own `*args` may.
  """
  packed = {use for f in functions(tree) for use in _packed(f)}
  takes = [n.args.vararg for n in ast.walk(tree) if isinstance(n, _TAKES)]
  passed_on = {argument.arg for argument in takes if argument}
  splats = []
  for call, value in _splats(tree):
    literal = isinstance(value, (ast.Tuple, ast.List)) or value in packed
    mapped = isinstance(value, _MANY) or _name(_called(value)) == 'map'
    blind = _name(call.func) in fixed and _name(value) not in passed_on
    if literal or (blind and not mapped):
      splats.append(value)
  return splats


def local_names(function: ast.FunctionDef) -> set[str]:
  """Names what a function binds, without parameters and inner functions."""
  return {
    n.id
    for n in _body(function)
    if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
  }


def _parameters(arguments: ast.arguments) -> list[str]:
  kinds = (arguments.posonlyargs, arguments.args, arguments.kwonlyargs)
  return [a.arg for kind in kinds for a in kind]


def _packed(function) -> Iterator[ast.Name]:
  """Yields the uses of locals that are bound to a tuple and only splatted."""
  splatted = {value for _, value in _splats(function)}
  loads = [
    n
    for n in ast.walk(function)
    if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
  ]
  for node in _body(function):
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
      uses = {n for n in loads if n.id == getattr(node.targets[0], 'id', None)}
      if uses <= splatted:
        yield from uses


def _splats(tree) -> Iterator[tuple[ast.Call, ast.AST]]:
  """Yields each call with each value that it splats by `*`."""
  for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
    for argument in call.args:
      if isinstance(argument, ast.Starred):
        yield call, argument.value


def _body(function) -> Iterator[ast.AST]:
  """Walks a function without the functions and classes inside it."""
  nodes = list(function.body)
  while nodes:
    node = nodes.pop()
    if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
      yield node
      nodes += ast.iter_child_nodes(node)


def _name(node) -> Optional[str]:
  """Returns `c` of `c` and of `a.b.c`, None of anything else."""
  return getattr(node, 'id', None) or getattr(node, 'attr', None)


def _called(node):
  return node.func if isinstance(node, ast.Call) else None
