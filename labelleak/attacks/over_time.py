"""Attacks over time: what an attack of an instant says, kept by row.

A party sees each row once an epoch. An attack that remembers returns scores
[N, K] of all rows of the data set; `average` makes one of any attack that
scores a batch.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from labelleak import base
from labelleak.base import Attack, InputError
from labelleak.vfl import Known

_ATTACK = 2**32 - 3  # sets the attack's key apart from those of the pass


class Memory(NamedTuple):
  """What `average` keeps.

  Attributes:
    known: what the attack was granted.
    sums: [N, K] of the scores of each row.
    counts: [N] how often a row was seen.
  """

  known: Known
  sums: chex.Array
  counts: chex.Array


def average(attack: Attack) -> Attack:
  """Returns an attack that keeps the mean of its scores for each row.

  With several epochs a defense's noise is averaged, too. Rows never seen score
  0. What the attack draws follows from the key of the pass that it observes.

  Args:
    attack: of an instant, that returns scores [B, K]. Its views must say which
      rows they are of (`index`), its `Known` how many there are (`num_rows`).

  Raises:
    InputError: (init) `num_rows` was not granted.
  """

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
    own = attack.observe(attack.init(memory.known), view)
    scores = attack.infer(key, own, memory.known)
    return memory._replace(
      sums=memory.sums.at[view.index].add(scores),
      counts=memory.counts.at[view.index].add(1.0),
    )

  def infer(key, memory, known):
    return memory.sums / jnp.maximum(memory.counts, 1.0)[:, None]

  return base.Attack(infer, observe, init, attack.needs)


def remembers(attack: Attack) -> bool:
  """Whether an attack keeps more than the last view."""
  return attack.observe is not base.keep_last
