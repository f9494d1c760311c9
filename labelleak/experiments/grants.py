"""The threat model of a config: which attacks run, and what each is granted."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from labelleak import sweep
from labelleak.base import Attack, Completion, InputError, check_needs


def specs(
  config: ConfigDict,
  fields: Sequence[str],
  *,
  links: Sequence[dict] = (),
  baseline: str,
) -> list[dict]:
  """Attacks of a config as plain dicts, the random baseline among them.

  Args:
    config: of the point.
    fields: what `config.known` and an attack's own `known` may grant; the class
      count and the batch size always are.
    links: the config's defenses, whose entries are checked alike.
    baseline: name of the attack that guesses, added where it is not listed.

  Raises:
    InputError: an entry without a name, or an unknown grant.
  """
  for spec in (*config.attacks, *links):
    if not isinstance(spec, dict) or 'name' not in spec:
      raise InputError(
        f'{spec!r} is no attack or defense; write dicts with a name, such as'
        f" {{'name': '{baseline}'}}."
      )
  found = [dict(spec) for spec in config.attacks]
  for spec in found:
    for field in grant(config, spec):
      if field not in fields:
        raise InputError(
          f'known grants {field!r}, which is none of: {", ".join(fields)}.'
        )
  if all(spec['name'] != baseline for spec in found):
    found.append(dict(name=baseline))
  return found


def grant(config: ConfigDict, spec: dict) -> tuple[str, ...]:
  """Fields of `Known` that an attack gets: its own `known`, or the config's."""
  return tuple(spec.get('known', config.known))


def hyper(spec: dict) -> dict:
  """Arguments of an attack's constructor."""
  return {k: v for k, v in spec.items() if k not in ('name', 'known')}


def chain(links: Sequence[dict]) -> tuple[str, str]:
  """Defenses as a row shows them: in full, and their names alone."""
  full = '+'.join(sweep.describe(link) for link in links)
  return full or 'none', '+'.join(link['name'] for link in links) or 'none'


def identity(config: ConfigDict, spec: dict) -> dict:
  """Row fields of one attack."""
  return dict(
    attack=spec['name'],
    attack_args=hyper(spec),
    known=list(grant(config, spec)),
  )


def check(config: ConfigDict, spec: dict, attack: Attack | Completion) -> None:
  """Refuses an attack that lacks a grant, before anything is traced.

  Raises:
    InputError: something that it needs is not granted, or the labels of the
      victim are, and it is no upper bound, which would need them.
  """
  name, fields = spec['name'], grant(config, spec)
  if 'labels' in fields and 'labels' not in attack.needs:
    raise InputError(
      f"{name} is granted 'labels', which are of upper bounds alone; remove"
      ' them from known.'
    )
  check_needs(name, attack.needs, fields)


def granted(
  config: ConfigDict, spec: dict, given: dict[str, Any]
) -> dict[str, Any]:
  """Returns of what could be `given`, fields of `Known`, what is granted."""
  return {field: given[field] for field in grant(config, spec)}
