"""Inverting Gradients: images of fixed labels, by the cosine of updates."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import attacks, hfl, validate
from labelleak.attacks.reconstruction import guesses, matching
from labelleak.base import Attack, Reconstruction, attack
from labelleak.hfl import Known

_NAME = 'reconstruction.inverting_gradients'
_GRANTED = 'granted'
_DECAYS = 2.667, 1.6, 1.142  # parts of the schedule, each a tenth of the last


def inverting_gradients(
  *,
  labels: str | Mapping[str, Any] = 'counts.llbg',
  steps: int = 24_000,
  lr: float = 0.1,
  tv: float = 0.2,
  restarts: int = 1,
) -> Attack:
  """Builds Inverting Gradients with extracted labels, a `Reconstruction`.

  Needs `known.lr` where the view is an update of several steps.

  Args:
    labels: attack of `counts` that names the labels, with its arguments as a
      dict; they fill the slots in ascending order. 'granted' takes
      `known.labels`, which no attacker has: an upper bound.
    steps: iterations; the rate falls to a tenth after 37.5, 62.5 and 87.5 % of
      them, as published.
    lr: learning rate of Adam.
    tv: weight a of total variation.
    restarts: guesses optimised side by side; the lowest objective is kept.

  Raises:
    InputError: a value out of range, or no such attack. At trace time: a grant
      is missing, or the model takes no images.
  """
  validate.whole('steps', steps, 1)
  validate.positive('lr', lr)
  validate.at_least('tv', tv, 0)
  validate.whole('restarts', restarts, 1)
  extract = _extractor(labels)

  def infer(key, view, known):
    guesses.check(_NAME, known)
    label_key, key = jax.random.split(key)
    slots = assign(extract(label_key, view, known), known.num_examples)

    def run(key):
      x_key, key = jax.random.split(key)
      x = guesses.draw(x_key, known)
      return invert(key, x, view, known, slots, steps=steps, lr=lr, tv=tv)

    return guesses.restart(run, key, restarts)

  needs = ('model', 'labels') if labels == _GRANTED else ('model',)
  return attack(infer, name=_NAME, kind='horizontal', needs=needs)


def assign(counts: chex.Array, num: int) -> chex.Array:
  """Assigns labels [num], ascending, by label counts [K] with sum `num`."""
  chex.assert_rank(counts, 1)
  classes = jnp.arange(counts.shape[0])
  return jnp.repeat(classes, counts, total_repeat_length=num)


def schedule(lr: float, steps: int) -> optax.Schedule:
  """Returns a rate that falls to a tenth after 37.5, 62.5 and 87.5 %."""
  return optax.piecewise_constant_schedule(
    lr, {int(steps // part): 0.1 for part in _DECAYS}
  )


@jax.default_matmul_precision('highest')  # the cosine ends within 1e-6 of 1
def invert(
  key: chex.PRNGKey,
  x: chex.Array,
  view: hfl.View,
  known: Known,
  labels: chex.Array,
  *,
  steps: int,
  lr: float = 0.1,
  tv: float = 0.2,
) -> Reconstruction:
  """Inverts gradients from one guess x [B, H, W, C].

  Labels [B] are fixed, the other options those of `inverting_gradients`. Of all
  guesses that were visited the one of lowest objective is returned. (The
  released code returns the one that follows it.)
  """
  y = jax.nn.one_hot(labels, known.num_classes)
  distance = matching.cosine_distance(key, view, known)
  objective = lambda x: distance(x, y) + tv * matching.total_variation(x)
  tx = optax.chain(optax.scale_by_sign(), optax.adam(schedule(lr, steps)))
  clip = lambda x: guesses.clip_pixels(x, known)
  value, x = guesses.descend(objective, tx, x, steps, clip)
  return Reconstruction(x, labels, value)


def _extractor(labels):
  """Returns (key, view, known) -> label counts [K]."""
  if labels == _GRANTED:
    return lambda key, view, known: known.labels.sum(0).astype(jnp.int32)
  return attacks.build(labels).infer
