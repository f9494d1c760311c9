"""How the clients of a horizontal config train: S slices, or as described."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from flax import linen as nn
from ml_collections import ConfigDict
import optax

from labelleak import hfl, models, registry, spec, validate
from labelleak.base import InputError


class Training(NamedTuple):
  """What clients do with the model that they are sent.

  Attributes:
    update: of one client.
    steps: S.
    lr: by which an update is divided.
    facts: that identify it in a setting.
    client: its description; None of S slices of SGD.
  """

  update: hfl.LocalUpdate
  steps: int
  lr: float
  facts: Mapping[str, Any]
  client: Optional[hfl.Client] = None


def slices(
  model: nn.Module,
  *,
  batch_size: int,
  lr: float,
  steps: int,
  step_defense: Optional[optax.GradientTransformation],
) -> Training:
  """Returns clients of papers: a step of SGD on each of S slices.

  Args:
    model: that is trained, in evaluation mode.
    batch_size: B.
    lr: learning rate.
    steps: S; of a single one without a defense the gradient is sent itself.
    step_defense: on the gradient of each step; None: nothing acts there.

  Raises:
    InputError: a learning rate out of range, slices without examples.
  """
  validate.within('lr', lr, '(0, inf)', 'a step must move the model')
  hfl.step_sizes(batch_size, steps)
  loss = hfl.cross_entropy(lambda variables, x: model.apply(variables, x))
  update = hfl.fedsgd(loss)
  if steps > 1 or step_defense:
    update = hfl.fedavg(loss, lr=lr, steps=steps, step_defense=step_defense)
  return Training(update, steps, lr, dict(local_steps=steps))


def described(
  fields: Mapping[str, Any],
  model: nn.Module,
  *,
  batch_size: int,
  lr: Optional[float],
  steps: Optional[int],
  step_defense: Optional[optax.GradientTransformation],
) -> Training:
  """Returns clients that `config.client` describes.

  Args:
    fields: of `hfl.Client`; those that are None are left out, and those of its
      optimizer, too.
    model: that is trained.
    batch_size: B.
    lr, steps: of the config, None both, as the description says them.
    step_defense: on the gradient of each step; None: nothing acts there.

  Raises:
    InputError: a field that no client has, or that is said twice.
  """
  for name, value in dict(lr=lr, local_steps=steps).items():
    if value is not None:
      raise InputError(
        f'{name}={value!r} contradicts client, which says it itself; set {name}'
        ' to None.'
      )
  given = {k: _drop_none(v) for k, v in fields.items() if v is not None}
  registry.check_arguments('client', hfl.Client, given)
  client = hfl.Client(**given)
  update = hfl.local_training(
    client, models.forward(model), step_defense=step_defense
  )
  num_steps = len(client.step_sizes(batch_size))
  facts = dict(client=spec.plain(given))
  return Training(update, num_steps, client.lr, facts, client)


def check_grants(
  client: Optional[hfl.Client], grants: Sequence[Sequence[str]]
) -> None:
  """Refuses to tell attacks of a client what is not so.

  Args:
    client: its description, if there is one.
    grants: of each attack.

  Raises:
    InputError: a description is granted, and there is none; the defense is, and
      the clipping of each example, which is one, is not.
  """
  for granted in grants:
    if 'client' in granted and client is None:
      raise InputError(
        "known grants 'client', and none is described; set client, or remove it"
        ' from known.'
      )
    clips = client is not None and client.clip_per_example is not None
    if clips and 'defense' in granted and 'client' not in granted:
      raise InputError(
        "known grants 'defense' without 'client', whose clip_per_example="
        f'{client.clip_per_example} is one; grant both, or neither.'
      )


def _drop_none(value):
  """Returns a dict of a config without what is None; any other value."""
  if not isinstance(value, Mapping | ConfigDict):
    return value
  return {k: v for k, v in value.items() if v is not None}
