"""Attacks over time, made of attacks of an instant.

A party sees each row once an epoch. An attack that remembers returns scores
[N, K] of all rows of the data set; `average` makes one of any attack that
scores a batch. A server sees a client once a round; `mean_update` makes an
attack on all rounds of any attack on one.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from labelleak import attacks, base, contract, hfl
from labelleak.base import Attack, InputError
from labelleak.vfl import Known

_MEAN_UPDATE = 'over_time.mean_update'
_SUM_COUNTS = 'over_time.sum_counts'
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
    known: of their mean, as that of one round.
    total: view of the sums of the updates, and of what the server sent; None
      before the first.
    rounds: [] how many there were.
  """

  known: hfl.Known
  total: Optional[hfl.View] = None
  rounds: chex.Array | float = 0.0


def mean_update(attack: Attack | str | Mapping[str, Any]) -> Attack:
  """Builds an attack on the mean update of all rounds that were observed.

  `Known.rounds` says of how many. While a client holds the same examples, their
  labels are in every update and what a defense adds is new in each: the mean of
  R has its noise over sqrt(R). Under `Known.shifting` each round is of other
  examples, and the mean of R of them is that of R times as many clients: the
  labels of all rounds are counted together, and what is likely of a client's
  labels is learned from them all.

  The model moves from round to round: the attack is told the mean of what the
  server sent.

  Args:
    attack: of an instant, on an `hfl.View`; or its name, with arguments as a
      dict.

  Raises:
    InputError: no such attack, one of vertical FL, or one that remembers by
      itself. (observe) A view of another shape. (infer) No round, or not as
      many as were granted.
  """
  attack = _load_instant(attack, 'horizontal')

  def observe(memory, view):
    view, _ = view.check(_MEAN_UPDATE, memory.known)
    view = view._replace(variables=contract.widen(view.variables))
    if memory.total is None:
      return Updates(memory.known, view, jnp.ones(()))
    for field, new in view._asdict().items():
      old = getattr(memory.total, field)
      contract.check_like(_MEAN_UPDATE, field, new, old)
      contract.check_like(_MEAN_UPDATE, field, old, new)
    total = jax.tree.map(jnp.add, memory.total, view)
    return memory._replace(total=total, rounds=memory.rounds + 1)

  def infer(key, memory, known):
    if not isinstance(memory, Updates) or memory.total is None:
      raise InputError(
        f'{_MEAN_UPDATE} has observed no round; make its memory by'
        ' init(known), and observe(memory, view) each round.'
      )
    _check_rounds(_MEAN_UPDATE, memory.rounds, known)
    mean = jax.tree.map(lambda total: total / memory.rounds, memory.total)
    return attack.infer(key, mean, known.of_mean())

  init = lambda known: Updates(known.of_mean())
  return attack._replace(infer=infer, observe=observe, init=init)


class Counts(NamedTuple):
  """What `sum_counts` keeps.

  Attributes:
    known: of one round.
    total: [K] counts of all rounds.
    rounds: [] how many there were.
  """

  known: hfl.Known
  total: chex.Array
  rounds: chex.Array | float = 0.0


def sum_counts(attack: Attack | str | Mapping[str, Any]) -> Attack:
  """Builds an attack that counts every round by itself, and sums the counts.

  It is what publications do whose rounds are of other examples
  (`Known.shifting`); `mean_update` learns from all rounds together. What the
  attack draws follows from the round's number.

  Args:
    attack: of an instant, that returns counts [K]; or its name, with arguments
      as a dict.

  Raises:
    InputError: as `mean_update`. (init) Rounds that are of the same examples.
  """
  attack = _load_instant(attack, 'horizontal')

  def init(known):
    if known.rounds > 1 and not known.shifting:
      raise InputError(
        f'{_SUM_COUNTS} would count the same examples in each of'
        f' rounds={known.rounds}; use {_MEAN_UPDATE}, or shifting=True.'
      )
    one = dataclasses.replace(known, rounds=1, shifting=False)
    return Counts(one, jnp.zeros(known.num_classes, int), jnp.zeros(()))

  def observe(memory, view):
    key = jax.random.key(_ATTACK)
    key = jax.random.fold_in(key, memory.rounds.astype(int))
    counts = attack.infer(key, view, memory.known)
    total, rounds = memory.total + counts, memory.rounds + 1
    return memory._replace(total=total, rounds=rounds)

  def infer(key, memory, known):
    del key
    _check_rounds(_SUM_COUNTS, memory.rounds, known)
    return memory.total

  return attack._replace(infer=infer, observe=observe, init=init)


def _check_rounds(name, observed, known):
  """Refuses another number of rounds than was granted."""
  told = known.rounds > 1 or known.shifting
  if told and not contract.is_traced(observed) and observed != known.rounds:
    raise InputError(
      f'Known: rounds={known.rounds} contradicts the {float(observed):g} that'
      f' {name} has observed; grant as many.'
    )


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
