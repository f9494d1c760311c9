"""Labels from the directions of cut gradients, over a whole training.

Below a top model that is trained, a row's cut gradient is J^T (s - y) whatever
the width D, so that rows of one class point one way (Liu et al.,
"Similarity-based Label Inference Attack against Training and Inference of Split
Learning", IEEE TIFS 2024). `scores.similarity` compares rows of a batch. Here a
row has a direction in every epoch: all of them together, each weighed by the
root of its length, for what a trained model is right about is short and points
nowhere.

That root was found on seeds 100 to 102 of `configs/split_top.py`.
"""

from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import contract, validate
from labelleak.attacks.scores import directions as groups
from labelleak.attacks.scores import readout
from labelleak.base import Attack, InputError
from labelleak.vfl import Known, View

_ROUNDS = 50  # of k-means from labelled rows
_RESTARTS = 50  # of k-means without any


class Cut(NamedTuple):
  """Cut gradients of a step: the rows [n] and their vectors [n, D]."""

  index: np.ndarray
  vectors: np.ndarray


class Memory(NamedTuple):
  """What was granted, and the steps so far."""

  known: Known
  cuts: tuple[Cut, ...] = ()


def directions(*, visits: Optional[int] = None, refine: bool = True) -> Attack:
  """Builds the attack that names directions by labelled rows.

  Scores [N, K] are cosines with the mean direction of each class, of a row that
  no step held 0. The threat model grants `labelled` rows of the `pool`, one of
  each class or more, which are scored with the others.

  Args:
    visits: how many of the last epochs are read; None: all.
    refine: whether classes take in the rows that are near, k-means begun at the
      labelled rows.

  Raises:
    InputError: fewer than one visit. (init) `num_rows` was not granted.
      (observe) A sealed view, or one that names no rows. (infer) A class
      without a labelled row.
  """
  name = 'history.directions'
  if visits is not None:
    validate.whole('visits', visits, 1)

  def infer(key, memory, known):
    del key
    vectors = _stack(memory, visits)
    x, y = known.labelled
    pool = known.pool.all()
    rows = y.T @ readout.match_rows(pool, np.asarray(x)).T.astype(np.float32)
    if not rows.any(1).all():
      raise InputError(
        f'{name} needs a labelled row of every class among those of the pool,'
        f' and has none of class {int((~rows.any(1)).argmax())}; grant one.'
      )
    means = readout.normalise(rows @ vectors)
    if refine:
      means = _refine(vectors, means)
    return vectors @ means.T

  return _build(infer, name, ('labelled', 'pool'))


def direction_groups(*, visits: Optional[int] = None) -> Attack:
  """Builds the attack that groups rows by direction, and names no group.

  Scores [N, K] are one-hot groups, whose numbers mean nothing: their
  `permuted_label_accuracy` is that of who names them by the best map.

  Args:
    visits: as of `directions`.

  Raises:
    InputError: as `directions`.
  """
  if visits is not None:
    validate.whole('visits', visits, 1)

  def infer(key, memory, known):
    vectors = _stack(memory, visits)
    seen = np.asarray(vectors).any(1)
    found = groups.cluster(
      key, vectors[seen], known.num_classes, restarts=_RESTARTS
    )
    scores = np.zeros((len(vectors), known.num_classes), np.float32)
    scores[seen] = np.eye(known.num_classes, dtype=np.float32)[found]
    return jnp.asarray(scores)

  return _build(infer, 'history.direction_groups', ())


def _build(infer, name, needs):
  """Builds an attack that keeps the cut gradients of every step."""

  def init(known):
    if known.num_rows is None:
      raise InputError(
        f'{name} needs num_rows, the rows of the data set; add it to Known.'
      )
    return Memory(known)

  def observe(memory, view: View):
    contract.check_untraced(name, view)
    view, _ = view.check(name, memory.known)
    cut = readout.cut_gradient(name, view)
    if view.index is None:
      raise InputError(
        f'{name} keeps rows over a training, and this view names none; give it'
        ' index.'
      )
    index = np.asarray(view.index)
    step = Cut(index[index >= 0], np.asarray(cut)[index >= 0])
    return memory._replace(cuts=(*memory.cuts, step))

  return Attack(infer, observe, init, needs, 'vertical', below_tops=True)


def _stack(memory: Memory, visits: Optional[int]) -> chex.Array:
  """Returns the directions of all rows, of unit length or 0, [N, visits D]."""
  size = memory.known.num_rows
  place = np.zeros(size, int)  # visits of a row so far
  epochs = []
  for index, vectors in memory.cuts:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled = vectors / np.sqrt(np.where(length > 0, length, 1.0))
    for visit in np.unique(place[index]):
      if visit == len(epochs):
        epochs.append(np.zeros((size, vectors.shape[1]), np.float32))
      now = place[index] == visit
      epochs[visit][index[now]] = scaled[now]
    place[index] += 1
  if not epochs:
    raise InputError('no step was observed; nothing can be said of any row.')
  kept = epochs[-visits:] if visits else epochs
  return readout.normalise(jnp.asarray(np.concatenate(kept, 1)))


@jax.jit
def _refine(vectors, means):
  """Returns the mean directions [K, D] of k-means that begins at `means`."""

  def move(_, means):
    near = jax.nn.one_hot((vectors @ means.T).argmax(-1), len(means))
    near *= vectors.any(-1, keepdims=True)
    sums = readout.normalise(near.T @ vectors)
    return jnp.where(near.any(0)[:, None], sums, means)

  return jax.lax.fori_loop(0, _ROUNDS, move, means)
