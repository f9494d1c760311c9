"""Labels that attackers infer before they replace them."""

from collections.abc import Callable
from typing import Optional

import jax
from ml_collections import ConfigDict
import numpy as np

from labelleak import data
from labelleak.base import InputError
from labelleak.experiments.vfl import batch_inference as attacked
from labelleak.experiments.vfl import fitting, joint

_OTHER = 10**6  # seeds of trainings that are watched, not attacked


def observer(
  config: ConfigDict, model: joint.Joint, source: data.Source
) -> Optional[Callable]:
  """(key, state, batch) -> (state after the step, classes [B] that it showed).

  By the attack on labels `poison.inference`; None without one.

  Raises:
    InputError: it is no such attack, lacks a grant, or `batch_size` is not
      that of the training.
  """
  if not config.poison.inference:
    return None
  if config.batch_size != config.train.batch_size:
    raise InputError(
      f'batch_size={config.batch_size} must be that of the training,'
      f' {config.train.batch_size}, whose steps are watched; change it.'
    )
  spec = dict(config.poison.inference)
  scores = attacked.scorer(config, model, [spec], source.num_classes)

  def observe(key, state, batch):
    (found,) = scores(key, batch, state)
    return model.protocol.step(state, batch)[0], found.argmax(-1)

  batch = _batch(config, model, source, 1, config.seed)
  state = jax.eval_shape(model.protocol.init, jax.random.key(0), batch.xs)
  jax.eval_shape(observe, jax.random.key(0), state, batch)
  return jax.jit(observe)


def labels(
  config: ConfigDict,
  model: joint.Joint,
  source: data.Source,
  observe: Callable,
  rows: np.ndarray,
  seed: int,
) -> np.ndarray:
  """Classes of `rows` as the first epoch of another training shows them, [N].

  That training is watched, not changed: it has an initialisation and an order
  of its own. Rows of a short last batch stay unknown. All others are -1.
  """
  found = np.full(len(source.y), -1)
  seed += _OTHER
  state = fitting.start(config, model, source, seed)
  for number in range(1, len(source.y) // config.train.batch_size + 1):
    batch = _batch(config, model, source, number, seed)
    key = jax.random.fold_in(jax.random.key(seed), number)
    state, named = observe(key, state, batch)
    found[batch.index] = np.asarray(named)
  known = np.full(len(source.y), -1)
  known[rows] = found[rows]
  return known


def _batch(config, model, source, number, seed):
  batch = fitting.epochs(config, model, source, np.array([number]), seed)
  return jax.tree.map(lambda a: a[0], batch)
