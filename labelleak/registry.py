"""Loading by name: a config's 'counts.llbg' becomes a function of the package.

Names resolve by import, so that adding a file is all that an attack, a defense,
a model or a data set needs: 'counts.llbg' of 'attacks' is
`labelleak.attacks.counts.llbg`, and a name whose first part is no module of the
package is an absolute import path, so that extensions may live elsewhere.
"""

from collections.abc import Iterator
import difflib
import importlib
import inspect
import pkgutil
import types
from typing import Any

from labelleak.base import InputError

_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_KEYWORDS = inspect.Parameter.VAR_KEYWORD


def load(package: str, name: str, **hyper: Any) -> Any:
  """Builds `name` of `labelleak.<package>` with keyword arguments.

  Raises:
    InputError: no such name (lists the names that exist), an argument that it
      does not take, or one that it needs.
  """
  constructor = find(package, name)
  parameters = inspect.signature(constructor).parameters
  open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
  for argument in hyper:
    if argument not in parameters and not open_ended:
      raise InputError(
        f'{name} takes no {argument!r}; it takes: '
        f'{", ".join(parameters) or "nothing"}.'
      )
  for argument, p in parameters.items():
    required = p.default is p.empty and p.kind not in (
      p.VAR_POSITIONAL,
      p.VAR_KEYWORD,
    )
    if required and argument not in hyper:
      raise InputError(f'{name} needs {argument!r}; add it beside its name.')
  return constructor(**hyper)


def find(package: str, name: str) -> Any:
  """Returns the constructor that a name stands for, without calling it.

  Raises:
    InputError: no such name; lists the names that exist.
  """
  root = f'labelleak.{package}'
  module, _, attribute = name.rpartition('.')
  for path in (f'{root}.{module}' if module else root, module):
    constructor = getattr(_import(path), attribute, None)
    if callable(constructor) and not attribute.startswith('_'):
      return constructor
  known = names(package)
  close = difflib.get_close_matches(name, known, 1)
  hint = f'did you mean {close[0]!r}? ' if close else ''
  raise InputError(
    f'{package} has no {name!r}; {hint}known: {", ".join(known)}.'
  )


def names(package: str) -> list[str]:
  """Lists the constructors that `load(package, ...)` accepts, by module."""
  root = importlib.import_module(f'labelleak.{package}')
  return sorted(
    f'{module.__name__}.{name}'.removeprefix(f'{root.__name__}.')
    for module in _modules(root)
    for name, value in vars(module).items()
    if _is_constructor(value, module)
  )


def _import(path: str) -> types.ModuleType | None:
  """Returns a module, None where there is none of this path."""
  if not path:
    return None
  parents = {path.rsplit('.', i)[0] for i in range(path.count('.') + 1)}
  try:
    return importlib.import_module(path)
  except ModuleNotFoundError as e:
    if e.name not in parents:
      raise  # the module exists but lacks a dependency of its own
    return None


def _modules(root: types.ModuleType) -> Iterator[types.ModuleType]:
  """Yields a package and all modules below it."""
  yield root
  for info in pkgutil.iter_modules(getattr(root, '__path__', ())):
    path = f'{root.__name__}.{info.name}'
    yield from _modules(importlib.import_module(path))


def _is_constructor(value: Any, module: types.ModuleType) -> bool:
  """Whether a module itself defines a public function of keywords alone."""
  if not inspect.isfunction(value) or value.__module__ != module.__name__:
    return False
  kinds = {p.kind for p in inspect.signature(value).parameters.values()}
  return not value.__name__.startswith('_') and kinds <= {_KEYWORD, _KEYWORDS}
