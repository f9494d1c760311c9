"""The threat model of a config: which attacks run, and what each is granted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from labelleak import annotation, base, registry, spec
from labelleak.base import InputError
from labelleak.spec import Spec


class Attacker(NamedTuple):
  """An attack of a config, loaded.

  Attributes:
    spec: its name and arguments, as rows show them.
    attack: what its constructor returned.
    known: fields of `Known` that it is granted.
  """

  spec: Spec
  attack: Any
  known: tuple[str, ...]


def load_attacks(
  specs: Sequence[Spec],
  known: Sequence[str],
  *,
  kind: str,
  fields: Sequence[str],
  baseline: str,
) -> list[Attacker]:
  """Loads the attacks of a config, the one that guesses among them.

  Args:
    specs: dicts with a name, arguments and, where they differ from the
      config's, grants of its own as `known`.
    known: grants of all others.
    kind: of FL, 'horizontal' or 'vertical'.
    fields: what an experiment can grant beyond the class count and the batch
      size, which every attack knows.
    baseline: name of the attack that guesses, added where it is not listed.

  Raises:
    InputError: an entry without a name, an attack or an argument that does not
      exist, one of the other kind of FL, what infers nothing, an unknown grant,
      an attack that lacks one, or one that is granted the victim's labels and
      is no upper bound, which would need them.
  """
  loaded = [_load_attack(entry, known, kind, fields) for entry in specs]
  if all(attacker.spec['name'] != baseline for attacker in loaded):
    loaded.append(_load_attack(dict(name=baseline), known, kind, fields))
  return loaded


def load_attack(entry: Spec, kind: str) -> Any:
  """Returns what the constructor of an attack makes.

  Raises:
    InputError: no spec, an attack or argument that does not exist, or one of
      the other kind of FL than `kind`.
  """
  if not isinstance(entry, Mapping) or 'name' not in entry:
    raise InputError(
      f'{entry!r} is no attack; write dicts with a name, such as'
      " {'name': 'counts.llbg'}."
    )
  attack = registry.build(
    'attacks', dict(name=entry['name'], **spec.arguments(entry))
  )
  base.check_kind(entry['name'], getattr(attack, 'kind', 'vertical'), kind)
  return attack


def _load_attack(entry, known, kind, fields):
  """Loads one attack of a config."""
  attack = load_attack(entry, kind)
  name, hyper = entry['name'], spec.arguments(entry)
  grants = entry.get('known', known)
  annotation.check('known', grants, Sequence[str])
  grants = tuple(grants)
  for field in grants:
    if field not in fields:
      raise InputError(
        f'known grants {field!r}, which is none of: {", ".join(fields)}.'
      )
  if isinstance(attack, base.Tampering):
    raise InputError(f'{name} infers nothing; name an attack that does.')
  if 'labels' in grants and 'labels' not in attack.needs:
    raise InputError(
      f"{name} is granted 'labels', which are of upper bounds alone; remove"
      ' them from known.'
    )
  base.check_needs(name, attack.needs, grants)
  return Attacker(dict(name=name, **hyper), attack, grants)


def select(attacker: Attacker, given: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of `Known` that an attack gets, of what is given."""
  return {field: given[field] for field in attacker.known}
