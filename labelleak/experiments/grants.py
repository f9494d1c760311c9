"""The threat model of a config: which attacks run, and what each is granted."""

from collections.abc import Callable

from ml_collections import ConfigDict

from labelleak.base import InputError, Known
from labelleak.data import Source

# What `config.known` and an attack's own `known` may grant; the class count and
# the batch size always are.
GRANTS = ('lr', 'steps', 'clients', 'defense', 'apply', 'x', 'y')


def specs(config: ConfigDict) -> list[dict]:
  """Attacks of a config as plain dicts, the random baseline among them.

  Raises:
    InputError: an entry without a name, or an unknown grant.
  """
  for spec in (*config.attacks, *config.defense, *config.step_defense):
    if not isinstance(spec, dict) or 'name' not in spec:
      raise InputError(
        f'{spec!r} is no attack or defense; write dicts with a name, such as'
        " {'name': 'counts.llg'}."
      )
  found = [dict(spec) for spec in config.attacks]
  for spec in found:
    for field in grant(config, spec):
      if field not in GRANTS:
        raise InputError(
          f'known grants {field!r}, which is none of: {", ".join(GRANTS)}.'
        )
  if all(spec['name'] != 'counts.random' for spec in found):
    found.append(dict(name='counts.random'))
  return found


def grant(config: ConfigDict, spec: dict) -> tuple[str, ...]:
  """Fields of `Known` that an attack gets: its own `known`, or the config's."""
  return tuple(spec.get('known', config.known))


def hyper(spec: dict) -> dict:
  """Arguments of an attack's constructor."""
  return {k: v for k, v in spec.items() if k not in ('name', 'known')}


def known(
  config: ConfigDict, spec: dict, source: Source, apply: Callable, aux: dict
) -> Known:
  """What an attack knows, by its grant.

  Args:
    config: of the point.
    spec: the attack's entry in the config.
    source: the attacked split; only its shape and class count are read.
    apply: the model's forward pass.
    aux: x [M, ...] and y [M, K] of the attacker, where anyone is granted them.
  """
  given = dict(
    steps=config.local_steps,
    clients=config.clients,
    lr=config.lr,
    defense=_strengths(config.step_defense),
    apply=apply,
    **aux,
  )
  fields = grant(config, spec)
  granted = {field: given[field] for field in fields}
  if 'apply' in fields:
    granted['shape'] = source.shape
  return Known(
    num_classes=source.num_classes, batch_size=config.batch_size, **granted
  )


def _strengths(links):
  """(name, strength) of each transform that has one number, as in `Known`."""
  pairs = []
  for link in links:
    numbers = [v for k, v in link.items() if k != 'name']
    pairs.append((link['name'], numbers[0] if numbers else None))
  return tuple(pairs)
