"""Labels that attackers infer before they replace them."""

from collections.abc import Callable, Sequence
from typing import Optional

import chex
import jax
import numpy as np

from labelleak import sweep, vfl
from labelleak.base import Batch, InputError
from labelleak.experiments import grants
from labelleak.experiments.vfl import batch_inference
from labelleak.experiments.vfl.joint import Joint
from labelleak.spec import Spec

_OTHER = 10**6  # seeds of trainings that are watched, not attacked

# (key, state, batch) -> (state after the step, classes [B] that it showed)
Observer = Callable[
  [chex.PRNGKey, vfl.State, Batch], tuple[vfl.State, chex.Array]
]


def observer(
  joint: Joint,
  inference: Optional[Spec],
  known: Sequence[str],
  *,
  per_class: int,
) -> Optional[Observer]:
  """Returns what watches a training step by an attack; None without one.

  Args:
    joint, per_class: see `batch_inference.scorer`.
    inference: an attack on labels.
    known: what it is granted.

  Raises:
    InputError: it is no attack on labels, lacks a grant, or `batch_size` is not
      that of the training.
  """
  if not inference:
    return None
  if joint.draws.batch_size != joint.training.batch_size:
    raise InputError(
      f'batch_size={joint.draws.batch_size} must be that of the training,'
      f' {joint.training.batch_size}, whose steps are watched; change it.'
    )
  attackers = grants.load_attacks(
    [inference],
    known,
    kind='vertical',
    fields=batch_inference.GRANTS,
    baseline=inference.get('name'),
  )
  score = batch_inference.scorer(joint, attackers, per_class=per_class)

  def observe(key, state, batch):
    (scores,), _ = score(key, batch, state)
    return joint.protocol.step(state, batch)[0], scores.argmax(-1)

  key, batch = sweep.key(0, 'trace'), _batch(joint, 1, 0)
  state = jax.eval_shape(joint.protocol.init, key, batch.xs)
  jax.eval_shape(observe, key, state, batch)
  return jax.jit(observe)


def infer_labels(
  joint: Joint, observe: Observer, rows: np.ndarray, seed: int
) -> np.ndarray:
  """Returns classes [N] of `rows`, as an epoch of another training shows them.

  That training is watched, not changed: it has an initialisation and an order
  of its own. Rows of a short last batch stay unknown. All others are -1.
  """
  classes = np.full(len(joint.source.y), -1)
  seed += _OTHER
  state = joint.init(seed)
  for number in range(1, num_steps(joint) + 1):
    batch = _batch(joint, number, seed)
    key = jax.random.fold_in(sweep.key(seed, 'observer'), number)
    state, seen = observe(key, state, batch)
    classes[batch.index] = np.asarray(seen)
  poisoned = np.full(len(classes), -1)
  poisoned[rows] = classes[rows]
  return poisoned


def num_steps(joint: Joint) -> int:
  """Counts the steps that are watched: the full batches of an epoch."""
  return len(joint.source.y) // joint.training.batch_size


def _batch(joint, number, seed):
  batch = joint.epochs(np.array([number]), seed)
  return jax.tree.map(lambda a: a[0], batch)
