"""Optimizers by their name in optax."""

import inspect
from typing import Any

import optax

from labelleak import annotation, registry
from labelleak.base import InputError


def optimizer(
  name: str,
  lr: optax.ScalarOrSchedule,
  *,
  weight_decay: float = 0.0,
  **hyper: Any,
) -> optax.GradientTransformation:
  """Builds `optax.<name>`, with L2 decay where it has none of its own.

  Args:
    name: such as 'adam', 'adamw' or 'sgd'.
    lr: learning rate, or a schedule of it.
    weight_decay: the optimizer's own, else added to the gradient (L2).
    **hyper: the optimizer's own, such as momentum.

  Raises:
    InputError: unknown optimizer or hyperparameter.
  """
  known = sorted(
    key
    for key, value in vars(optax).items()
    if inspect.isfunction(value)
    and 'learning_rate' in inspect.signature(value).parameters
  )
  if name not in known:
    raise InputError(
      f'optax has no optimizer {name!r}; known: {", ".join(known)}.'
    )
  make = getattr(optax, name)
  annotation.check('weight_decay', weight_decay, float)
  hyper['learning_rate'] = lr
  decays = 'weight_decay' in inspect.signature(make).parameters
  if decays:
    hyper['weight_decay'] = weight_decay
  registry.check_arguments(f'optimizer {name}', make, hyper)
  if decays:
    return make(**hyper)
  return optax.chain(optax.add_decayed_weights(weight_decay), make(**hyper))
