"""The threat model of a config: which attacks run, and what each is granted."""

from collections.abc import Sequence
import functools

from ml_collections import ConfigDict

from labelleak import registry, sweep
from labelleak.base import InputError, Known


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
  canonical = functools.partial(registry.canonical, 'defenses')
  links = [dict(link, name=canonical(link['name'])) for link in links]
  full = '+'.join(sweep.describe(link) for link in links)
  return full or 'none', '+'.join(link['name'] for link in links) or 'none'


def identity(config: ConfigDict, spec: dict) -> dict:
  """Row fields of one attack."""
  return dict(
    attack=spec['name'],
    attack_args=hyper(spec),
    known=list(grant(config, spec)),
  )


def known(
  config: ConfigDict, spec: dict, num_classes: int, given: dict
) -> Known:
  """What an attack knows: its grant of what could be `given`.

  Who is granted the forward pass `apply` knows the `shape` of its input, and of
  images the `box` that pixels lie in; who holds a `pool` of rows knows their
  number.
  """
  fields = grant(config, spec)
  fields += ('shape', 'box') if 'apply' in fields else ()
  fields += ('held',) if 'pool' in fields else ()
  return Known(
    num_classes=num_classes,
    batch_size=config.batch_size,
    **{field: given[field] for field in fields},
  )
