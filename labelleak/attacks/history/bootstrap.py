"""The attack that teaches its own classifier by what it reads of a training.

What a step's equations say of its rows is added up, N K numbers however long
the training. It teaches a classifier of the own features (`surrogate`), whose
word of a row is where the equations of the row's next step begin.
"""

from typing import NamedTuple, Optional

import jax
import jax.numpy as jnp
import numpy as np

from labelleak.attacks.history import surrogate, words
from labelleak.base import Attack, InputError, attack
from labelleak.vfl import Known

_NAME = 'history.classifier'
_STEPS = 4  # before a classifier is taught
_MORE = 1.5  # times as many rows are read until it is taught anew
_TEACH = 2**32 - 5  # sets its key apart from those of the pass


class Memory(NamedTuple):
  """What is kept of a training.

  Attributes:
    known: what the attack was granted.
    weigh: reads a step.
    odds: [N, K] of all steps.
    seen: [N] whether a row was in any.
    visits: rows of all steps.
    taught: visits when the classifier was taught.
    log_prior: [N, K] its word; None before the first.
  """

  known: Known
  weigh: words.Weigh
  odds: np.ndarray
  seen: np.ndarray
  visits: int = 0
  taught: int = 0
  log_prior: Optional[np.ndarray] = None


def classifier() -> Attack:
  """Builds the attack that teaches its own classifier by what it reads.

  Scores are log probabilities of the labels of all rows of the pool, [N, K]:
  of what all steps say of a row, and of a classifier that has not seen that.
  Rows that were in no step are named by the classifier. Runs on the host.

  Raises:
    InputError: (init) See `words.check_pool`. (observe) See
      `words.select_rows`; what a step says is not finite. (infer) No step was
      observed.
  """

  def init(known):
    words.check_pool(_NAME, known)
    size = known.pool.size
    zeros = np.zeros((size, known.num_classes), np.float32)
    seen = np.zeros(size, bool)
    return Memory(known, words.make_weigh(known), zeros, seen)

  def observe(memory, view):
    index, view = words.select_rows(_NAME, view, memory.known)
    if not len(index):
      return memory
    prior = memory.log_prior
    prior = None if prior is None else jnp.asarray(prior[index])
    odds, seen = memory.odds.copy(), memory.seen.copy()
    new = np.asarray(memory.weigh(view, prior))
    if not np.isfinite(new).all():
      raise InputError(
        f'{_NAME}: what a step says of its rows is not finite; its features or'
        ' gradients are beyond float32, scale them or leave it out.'
      )
    np.add.at(odds, index, new)
    seen[index] = True
    visits = memory.visits + len(index)
    memory = memory._replace(odds=odds, seen=seen, visits=visits)
    least = _STEPS * memory.known.batch_size
    if visits < max(least, _MORE * memory.taught):
      return memory
    return _teach(jax.random.fold_in(view.key, _TEACH), memory)

  def infer(key, memory, known):
    del known
    if not memory.visits:
      raise InputError(
        f'{_NAME} has observed no step; call observe(memory, view) each step.'
      )
    memory = _teach(key, memory)
    return jax.nn.log_softmax(memory.odds + memory.log_prior)

  return attack(
    infer,
    name=_NAME,
    kind='vertical',
    needs=('pool',),
    observe=observe,
    init=init,
  )


def _teach(key, memory):
  x, odds = memory.known.pool.all(), jnp.asarray(memory.odds)
  log_prior = surrogate.name_rows(key, x, odds, memory.seen)
  return memory._replace(log_prior=np.asarray(log_prior), taught=memory.visits)
