"""Attacks: one family a file or folder, loaded by name.

>>> from labelleak import attacks
>>> attack = attacks.load('counts.llbg', confidence=0.7)
>>> attack = attacks.counts.llbg(confidence=0.7)  # the same

An attack is a file here, or anywhere, with a function of keywords that is
annotated to return one of `KINDS`.
"""

from collections.abc import Mapping
from typing import Any

from labelleak import lazy, registry
from labelleak.base import Attack, Completion, InputError, Tampering

KINDS = Attack, Completion, Tampering

__getattr__, __dir__ = lazy.modules(__name__)


def load(name: str, **hyper: Any) -> Attack | Completion | Tampering:
  """Builds an attack by its name, `load('counts.llbg')`: `registry.load`."""
  return registry.load('attacks', name, **hyper)


def names() -> list[str]:
  """Lists what `load` builds."""
  return registry.names('attacks')


def build(spec: str | Mapping[str, Any] | Attack) -> Attack:
  """Builds the attack that another one asks for.

  Args:
    spec: a name, a name with arguments as a dict, or the attack itself.

  Raises:
    InputError: a dict without a name, no such attack, or none that infers.
  """
  if isinstance(spec, str):
    spec = dict(name=spec)
  if isinstance(spec, Mapping):
    if 'name' not in spec:
      raise InputError(f"{dict(spec)} lacks a name, such as 'counts.llbg'.")
    spec = load(**spec)
  if not isinstance(spec, Attack):
    raise InputError(f'{spec!r} infers nothing; name another attack.')
  return spec
