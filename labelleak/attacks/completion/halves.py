"""A bottom and the head on it: run together, or as one tree."""

from typing import Optional

import chex
from flax import linen as nn

from labelleak import base

Variables = chex.ArrayTree  # Flax's collections


def init_head(
  party: base.Party,
  head: Optional[nn.Module],
  key: chex.PRNGKey,
  variables: Variables,
  x: chex.Array,
) -> Variables:
  """Draws variables of a head on this bottom, for x [B, ...]; {} of none."""
  if head is None:
    return {}
  h, _ = party.apply(variables, x, train=False, key=None)
  return head.init(key, h)


def forward(
  party: base.Party,
  head: Optional[nn.Module],
  bottom: Variables,
  top: Variables,
  x: chex.Array,
  key: chex.PRNGKey,
  **inputs: chex.ArrayTree,
) -> tuple[chex.Array, Variables, Variables]:
  """Runs bottom and head on x [B, ...] in training mode.

  Without a head the bottom's outputs are the logits. What else the bottom
  takes, such as `bert.Mix`, comes as `inputs`.

  Returns:
    logits [B, K], new variables of bottom and head.
  """
  h, bottom = party.apply(bottom, x, train=True, key=key, **inputs)
  if head is None:
    return h, bottom, top
  frozen = [name for name in top if name != 'params']
  logits, updated = head.apply(top, h, train=True, mutable=frozen)
  return logits, bottom, {**top, **updated}


def logits_of(
  party: base.Party,
  head: Optional[nn.Module],
  bottom: Variables,
  top: Variables,
  x: chex.Array,
) -> chex.Array:
  """Returns the logits of x [n, ...] in evaluation mode, [n, K]."""
  h, _ = party.apply(bottom, x, train=False, key=None)
  return h if head is None else head.apply(top, h, train=False)


def join_trees(bottom: Variables, top: Variables) -> tuple[Variables, dict]:
  """Joins variables of bottom and head to one dict of collections, and {}."""
  names = dict.fromkeys([*bottom, *top])
  trained = {
    name: dict(bottom=bottom.get(name, {}), head=top.get(name, {}))
    for name in names
  }
  return trained, {}


def split_tree(trained: Variables, frozen: dict) -> tuple[Variables, Variables]:
  """Splits what `join_trees` joined into bottom and head."""
  del frozen
  return tuple(
    {name: both[part] for name, both in trained.items() if both[part]}
    for part in ('bottom', 'head')
  )
