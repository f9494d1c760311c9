"""Modules that are imported when they are first used.

`import labelleak as ll` takes no time, and `ll.attacks.counts.llbg()` works
without further imports: a package gets its `__getattr__` and `__dir__` here.
"""

from collections.abc import Callable
import importlib
import sys
from types import ModuleType


def modules(
  package: str,
) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
  """Returns `__getattr__` and `__dir__` of a package, by its `__name__`."""

  def get(name):
    if name in names():
      return importlib.import_module(f'{package}.{name}')
    raise AttributeError(f'module {package!r} has no attribute {name!r}')

  def names():
    import pkgutil  # ten times what all else here takes

    path = sys.modules[package].__path__
    return [module.name for module in pkgutil.iter_modules(path)]

  return get, lambda: sorted({*vars(sys.modules[package]), *names()})
