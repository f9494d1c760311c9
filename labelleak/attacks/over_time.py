"""Attacks over time, made of attacks of an instant.

A party sees each row once an epoch. An attack that remembers returns scores
[N, K] of all rows of the data set; `average` makes one of any attack that
scores a batch. A server sees a client once a round; `mean_update` makes an
attack on all rounds of any attack on one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from labelleak import attacks, base, contract, hfl
from labelleak.base import Attack, InputError
from labelleak.vfl import Known

_MEAN_UPDATE = 'over_time.mean_update'
_ATTACK = 2**32 - 3  # sets the attack's key apart from those of the pass


class Memory(NamedTuple):
  """What `average` keeps."""

  known: Known  # what the attack was granted
  sums: chex.Array  # [N, K] of the scores of each row
  counts: chex.Array  # [N] views that a row was in


def average(attack: Attack | str | Mapping[str, Any]) -> Attack:
  """Builds an attack that keeps the mean of its scores for each row.

  With several epochs a defense's noise is averaged, too. Rows that no view was
  of score 0. What the attack draws follows from the key of the pass that it
  observes. Memory is [N, K], however many views there are.

  Args:
    attack: of an instant, that returns scores [B, K]; or its name, with
      arguments as a dict. Its views must say which rows they are of (`index`),
      its `Known` how many there are (`num_rows`).

  Raises:
    InputError: no such attack, or one that remembers by itself. (init)
      `num_rows` was not granted.
  """
  attack = _load_instant(attack, 'vertical')

  def init(known):
    if known.num_rows is None:
      raise InputError(
        'an average over views needs num_rows, the rows of the data set; add'
        ' it to Known.'
      )
    shape = known.num_rows, known.num_classes
    return Memory(known, jnp.zeros(shape), jnp.zeros(shape[0]))

  def observe(memory, view):
    key = jax.random.fold_in(view.key, _ATTACK)
    scores = attack.infer(key, view, memory.known)
    # Padding, at -1, is of no row.
    rows = jnp.where(view.index < 0, len(memory.counts), view.index)
    return memory._replace(
      sums=memory.sums.at[rows].add(scores, mode='drop'),
      counts=memory.counts.at[rows].add(1.0, mode='drop'),
    )

  def infer(key, memory, known):
    del key, known
    return memory.sums / jnp.maximum(memory.counts, 1.0)[:, None]

  return base.Attack(infer, observe, init, attack.needs, attack.kind)


class Updates(NamedTuple):
  """What `mean_update` keeps.

  Attributes:
    known: what the attack was granted.
    total: of the updates, like them; None before the first.
    variables: what the server sent in the first round.
    rounds: [] how many there were.
  """

  known: hfl.Known
  total: Optional[chex.ArrayTree] = None
  variables: Optional[chex.ArrayTree] = None
  rounds: chex.Array | float = 0.0


def mean_update(attack: Attack | str | Mapping[str, Any]) -> Attack:
  """Builds an attack on the mean update of all rounds that were observed.

  While a client holds the same examples, their labels are in every update and
  what a defense adds is new in each. The model moves little from round to
  round; the attack is told the one that the first round began with. A granted
  `Known.defense` stays that of one round, whose noise is more than the mean's.

  Args:
    attack: of an instant, on an `hfl.View`; or its name, with arguments as a
      dict.

  Raises:
    InputError: no such attack, one of vertical FL, or one that remembers by
      itself. (observe) An update of another shape. (infer) No round.
  """
  attack = _load_instant(attack, 'horizontal')

  def observe(memory, view):
    view, _ = view.check(_MEAN_UPDATE, memory.known)
    if memory.total is None:
      return Updates(memory.known, view.grads, view.variables, jnp.ones(()))
    contract.check_like(_MEAN_UPDATE, 'grads', view.grads, memory.total)
    contract.check_like(_MEAN_UPDATE, 'grads', memory.total, view.grads)
    total = jax.tree.map(jnp.add, memory.total, view.grads)
    return memory._replace(total=total, rounds=memory.rounds + 1)

  def infer(key, memory, known):
    if not isinstance(memory, Updates) or memory.total is None:
      raise InputError(
        f'{_MEAN_UPDATE} has observed no round; make its memory by'
        ' init(known), and observe(memory, view) each round.'
      )
    mean = jax.tree.map(lambda g: g / memory.rounds, memory.total)
    return attack.infer(key, hfl.View(mean, memory.variables), known)

  return attack._replace(infer=infer, observe=observe, init=Updates)


def _load_instant(attack, kind):
  """Returns an attack of an instant; refuses one that remembers."""
  attack = attacks.build(attack)
  base.check_kind('this attack', attack.kind, kind)
  if remembers(attack):
    raise InputError(
      'a mean over views is of an attack of an instant, and this one remembers'
      ' by itself; use it as it is.'
    )
  return attack


def remembers(attack: Attack) -> bool:
  """Returns whether an attack keeps more than the last view."""
  return attack.observe is not base.keep_last
