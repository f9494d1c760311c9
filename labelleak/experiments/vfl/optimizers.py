"""Optimizers of vertical configs: schedules by epoch, rates by part."""

from collections.abc import Mapping
import functools
from typing import Any, Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import registry, spec, train, validate
from labelleak.base import InputError, MakeOptimizer


def build(
  options: Mapping[str, Any],
  steps_per_epoch: int,
  malicious: Optional[MakeOptimizer] = None,
) -> optax.GradientTransformation:
  """Returns an optimizer of optax or, by its import path, of any module.

  Args:
    options: its `name`, `lr` and hyperparameters. `decay` 'epoch' is VFLAIR's
      schedule, a tuple of epochs Fu et al.'s. `rates` has other rates for the
      modules whose names begin so, at any level: {'head': 5e-4} where all else
      learns at `lr`.
    steps_per_epoch: what schedules count by.
    malicious: takes the named optimizer's place.

  Raises:
    InputError: a rate that is not positive, an unknown schedule or optimizer.
  """
  options = dict(options)
  lr, decay = options.pop('lr', None), options.pop('decay', None)
  rates, name = options.pop('rates', {}), options.pop('name')
  named = {'lr': lr} | {f'rates.{k}': v for k, v in rates.items()}
  for field, rate in named.items():
    validate.positive(f'optimizer.{field}', rate)

  def make(rate):
    schedule = _schedule(rate, decay, steps_per_epoch)
    if malicious:
      return malicious(name=name, learning_rate=schedule, **options)
    if '.' in name:
      return registry.load('train', name, learning_rate=schedule, **options)
    return train.optimizer(name, schedule, **options)

  if not rates:
    return make(lr)
  groups = {'': make(lr)} | {k: make(rate) for k, rate in rates.items()}
  return optax.multi_transform(groups, functools.partial(_group, tuple(rates)))


def _group(prefixes: tuple[str, ...], params: chex.ArrayTree) -> chex.ArrayTree:
  """Returns the longest prefix of a module on the path of each leaf, or ''."""

  def longest(path, _):
    names = [step.key for step in path[:-1]]
    fits = [p for p in prefixes if any(name.startswith(p) for name in names)]
    return max(fits, key=len, default='')

  groups = jax.tree.map_with_path(longest, params)
  for prefix in {*prefixes} - {*jax.tree.leaves(groups)}:
    raise InputError(
      f'optimizer.rates.{prefix} is of no module; those of the model are'
      f' {", ".join(params)}.'
    )
  return groups


def _schedule(lr, decay, steps_per_epoch):
  """Returns a rate, or its schedule over the steps."""
  if decay is None:
    return lr
  if decay == 'epoch':
    epoch = lambda step: jnp.maximum(step // steps_per_epoch, 1)
    return lambda step: lr / jnp.sqrt(epoch(step).astype(jnp.float32))
  if isinstance(decay, tuple):
    for epoch in decay:
      validate.whole('optimizer.decay', epoch, 0, remedy='it is an epoch')
    drops = {epoch * steps_per_epoch: 0.1 for epoch in decay}
    return optax.piecewise_constant_schedule(lr, drops)
  raise InputError(
    f"optimizer.decay={spec.plain(decay)!r} is unknown; use 'epoch' (lr over"
    ' the square root of the epoch), a tuple of epochs after which lr is a'
    ' tenth, or None.'
  )
