"""Loading by name: a config's 'counts.llbg' becomes a function of the package.

Names resolve by import, so that adding a file is all that an attack, a defense,
a model or a data set needs: 'counts.llbg' of 'attacks' is
`labelleak.attacks.counts.llbg`, and a name whose first part is no module of the
package is an absolute import path, so that extensions may live elsewhere. The
module may be left out where one module alone defines the name: 'gaussian' of
'defenses' is 'noise.gaussian'.

A package that declares `KINDS`, such as `attacks.KINDS = (Attack, ...)`, lists
and loads constructors that are annotated to return one of them, and nothing
else: a name in a config is code. What a package re-exports from modules below
it goes by the shorter name.
"""

from collections.abc import Iterator, Mapping
import difflib
import importlib
import inspect
import pkgutil
import re
import types
from typing import Any, Protocol

from labelleak import annotation
from labelleak.base import InputError
from labelleak.spec import Spec

_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_KEYWORDS = inspect.Parameter.VAR_KEYWORD
_NAME = re.compile(r'[A-Za-z]\w*(\.[A-Za-z_]\w*)*')


class Constructor(Protocol):
  """Makes one of its package's `KINDS` of keywords that a config can hold."""

  def __call__(self, **hyper: Any) -> Any: ...


def load(package: str, /, name: str, **hyper: Any) -> Any:
  """Builds `name` of `labelleak.<package>` with keyword arguments.

  Raises:
    InputError: no such name (lists the names that exist), an argument that it
      does not take, one that it needs, or one of another type than it is
      annotated to have.
  """
  constructor = find(package, name)
  check_arguments(name, constructor, hyper)
  return constructor(**hyper)


def build(package: str, spec: Spec, /, **given: Any) -> Any:
  """Builds what a spec of a config names: `load`, with more arguments.

  Args:
    package: as in `load`.
    spec: a name and arguments.
    **given: arguments that are not the config's to set.

  Raises:
    InputError: as `load`; a spec that is no dict with a name, or has an
      argument that is given.
  """
  annotation.check(package, spec, Spec)
  for argument in given:
    if argument in spec:
      raise InputError(
        f'{spec["name"]} is given {argument!r} by what runs it; remove it from'
        ' beside its name.'
      )
  return load(package, **spec, **given)


def check_arguments(
  name: str, function: Constructor, arguments: Mapping[str, Any]
) -> None:
  """Refuses arguments that a function lacks, needs or wants of another type.

  Args:
    name: of the function, as a config has it.
    function: to be called with them, by keyword.
    arguments: by their names.
  """
  parameters = inspect.signature(function).parameters
  open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
  for argument in arguments:
    known = argument in parameters or (open_ended and isinstance(argument, str))
    if not known:
      raise InputError(
        f'{name} takes no {argument!r}; it takes: '
        f'{", ".join(parameters) or "nothing"}.'
      )
  hints = _annotations(function)
  for argument, p in parameters.items():
    required = p.default is p.empty and p.kind not in (
      p.VAR_POSITIONAL,
      p.VAR_KEYWORD,
    )
    if required and argument not in arguments:
      raise InputError(f'{name} needs {argument!r}; add it beside its name.')
    if argument in arguments and argument in hints:
      path = f'{name}: {argument}'
      annotation.check(path, arguments[argument], hints[argument])


def _annotations(function):
  """Returns annotations; none where names in them are not imported."""
  try:
    return inspect.get_annotations(function, eval_str=True)
  except NameError:
    return {}


def find(package: str, name: str) -> Any:
  """Returns the constructor that a name stands for, without calling it.

  Raises:
    InputError: no such name (lists the names that exist), a name without its
      module that several modules define (lists those), or what is no
      constructor of the package's kinds.
  """
  annotation.check(f'{package}: name', name, str)
  if not _NAME.fullmatch(name):
    raise _unknown(package, name)
  root = f'labelleak.{package}'
  full = name if '.' in name else _qualify(package, name)
  module, _, attribute = full.rpartition('.')
  for path in (f'{root}.{module}' if module else root, module):
    constructor = getattr(_import(path), attribute, None)
    if callable(constructor) and not attribute.startswith('_'):
      if not _makes(constructor, kinds(package)):
        raise InputError(
          f'{name} must be annotated to return'
          f' {" or ".join(k.__name__ for k in kinds(package))} to be one'
          f' of {package}; annotate it, or use another.'
        )
      return constructor
  raise _unknown(package, name)


def canonical(package: str, name: str) -> str:
  """Returns the one spelling of a name that rows use: the shortest.

  >>> canonical('defenses', 'noise.gaussian')
  'gaussian'

  A name of another package is an absolute import path and stays as it is.

  Raises:
    InputError: no such name, or a short one that several modules define.
  """
  find(package, name)
  name = name.removeprefix(f'labelleak.{package}.')
  short = name.rpartition('.')[2]
  return short if _spellings(package, short) == [name] else name


def _spellings(package, short):
  """Lists the full names of the constructors that are called `short`."""
  return [n for n in names(package) if n.rpartition('.')[2] == short]


def _qualify(package, short):
  """Returns the full name of the only constructor that is called `short`."""
  full = _spellings(package, short)
  if len(full) > 1:
    raise InputError(
      f'{package} has {short!r} in several modules; write one of:'
      f' {", ".join(full)}.'
    )
  if not full:
    raise _unknown(package, short)
  return full[0]


def _unknown(package, name):
  """Makes the error for a name that stands for nothing."""
  known = names(package)
  short = [] if '.' in name else [n.rpartition('.')[2] for n in known]
  close = difflib.get_close_matches(name, [*known, *short], 1)
  hint = f'did you mean {close[0]!r}? ' if close else ''
  return InputError(
    f'{package} has no {name!r}; {hint}known: {", ".join(known)}.'
  )


def names(package: str) -> list[str]:
  """Lists the constructors that `load(package, ...)` accepts, by module."""
  root = importlib.import_module(f'labelleak.{package}')
  paths = {}  # a package comes before its modules, so that its name counts
  for module in _modules(root):
    for name, value in vars(module).items():
      if _is_constructor(name, value, module) and _makes(value, kinds(package)):
        paths.setdefault(value, f'{module.__name__}.{name}')
  return sorted(
    path.removeprefix(f'{root.__name__}.') for path in paths.values()
  )


def kinds(package: str) -> tuple[Any, ...]:
  """Returns what constructors of a package make; () where it does not say."""
  return getattr(importlib.import_module(f'labelleak.{package}'), 'KINDS', ())


def _import(path: str) -> types.ModuleType | None:
  """Returns a module, None where there is none of this path."""
  if not path:
    return None
  parents = {path.rsplit('.', i)[0] for i in range(path.count('.') + 1)}
  try:
    return importlib.import_module(path)
  except ModuleNotFoundError as e:
    if e.name in parents:
      return None
    raise InputError(
      f'{path} needs the module {e.name}, which is not installed; install it.'
    ) from e
  except Exception as e:  # whatever the module does
    reason = f'{type(e).__name__}: {" ".join(str(e).split())}'
    raise InputError(
      f'{path} cannot be imported ({reason}); mend it or name another.'
    ) from e


def _modules(root: types.ModuleType) -> Iterator[types.ModuleType]:
  """Yields a package and all modules below it."""
  yield root
  paths = getattr(root, '__path__', ())
  for info in pkgutil.walk_packages(paths, f'{root.__name__}.'):
    yield importlib.import_module(info.name)


def _is_constructor(name: str, value: Any, module: types.ModuleType) -> bool:
  """Whether a module, or one below it, defines a function of keywords alone.

  Public, and under its own name: aliases load, and are not listed.
  """
  if not inspect.isfunction(value) or name != value.__name__:
    return False
  inside = f'{value.__module__}.'.startswith(f'{module.__name__}.')
  modes = {p.kind for p in inspect.signature(value).parameters.values()}
  return inside and name[0] != '_' and modes <= {_KEYWORD, _KEYWORDS}


def _makes(constructor: Any, kinds: tuple[Any, ...]) -> bool:
  """Whether a constructor is annotated to return one of `kinds`, if any."""
  if not kinds:
    return True
  if not inspect.isfunction(constructor):
    return False
  made = _annotations(constructor).get('return')
  if made in kinds:
    return True
  return inspect.isclass(made) and any(
    issubclass(made, kind) for kind in kinds if _is_plain_class(kind)
  )


def _is_plain_class(kind: Any) -> bool:
  """Whether `issubclass` can ask for it: no protocol, no alias."""
  return inspect.isclass(kind) and not getattr(kind, '_is_protocol', False)
