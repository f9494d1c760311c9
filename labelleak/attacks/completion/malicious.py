"""The malicious local optimizer of the active attack, in each of its readings.

Fu et al., "Label Inference Attacks Against Vertical Federated Learning" (USENIX
Security 2022), Algorithm 1: a passive party accelerates the training of its own
bottom, so that the top model comes to rely on it. Every element's step is
scaled by r = clip(1 + gamma v / v_last, r_min, r_max), with v_last its previous
step: up where the sign persists, not at all where it turned.

What v and the step are, the paper and the released code do not agree on, nor
the code with itself under two versions of PyTorch. With g the gradient, weight
decay added, beta the momentum and u the step (u_0 = v_0):

  printed         v = beta u_last + (1 - beta) g, u = r u_last: never turns,
                  never shrinks, and diverges, as r >= 1
  release         v = 2 beta g, u = r v (v_0 = g): under torch < 2 the momentum
                  buffer shares its memory with the gradient, which is zeroed at
                  every step; published runs must have been this
  release_torch2  v = beta u_last + g, u = r v: the buffer survives, scaled;
                  diverges
  clean           m = beta m_last + g, v = m, u = r m: the momentum unscaled

In `release` the attack takes the momentum away, too. Its gain alone, without
acceleration, is r_max=1: the ablation that tells both apart. VFLAIR scales the
steps of Adam in the same way (`adam`).
"""

import functools
import inspect
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import validate
from labelleak.base import InputError, MakeOptimizer

READINGS = ('printed', 'release', 'release_torch2', 'clean')
_TINY = 1e-7  # the release adds it to the signed divisor


class State(NamedTuple):
  """What the optimizer remembers of every element."""

  count: chex.Array  # [] steps done
  last: chex.ArrayTree  # u of the previous step, like the parameters
  momentum: chex.ArrayTree  # m of `clean`; () otherwise


def accelerate(
  *,
  reading: str = 'release',
  momentum: float = 0.9,
  gamma: float = 1.0,
  r_min: float = 1.0,
  r_max: float = 5.0,
) -> optax.GradientTransformation:
  """Builds the steps u, before the learning rate; elementwise on any pytree.

  The first step is not scaled. Where 0 is divided by 0, r = 1; in `printed`,
  whose step is a multiple of the last one, an element whose last step was 0
  begins anew.

  Args:
    reading: one of `READINGS`; see the module.
    momentum: beta.
    gamma: weight of the ratio, the paper's `resetting parameter'.
    r_min, r_max: bounds of the scale r; r_max=1 is a gain without acceleration.

  Raises:
    InputError: no such reading, or bounds in the wrong order.
  """
  validate.one_of('reading', reading, READINGS)
  if not 0 < r_min <= r_max:
    raise InputError(
      f'r_min={r_min} and r_max={r_max} must be positive and in this order;'
      ' change them.'
    )

  def scale(v, last):
    divisor = last if reading == 'printed' else last + _TINY
    ratio = jnp.where((v == 0) & (divisor == 0), 0.0, v / divisor)
    return jnp.clip(1.0 + gamma * ratio, r_min, r_max)

  def start(g):
    return (1 - momentum) * g if reading == 'printed' else g

  def later(g, last, m):
    """Returns one leaf's step u after the first one."""
    if reading == 'printed':
      v = momentum * last + (1 - momentum) * g
      return jnp.where(last == 0, v, scale(v, last) * last)
    if reading == 'release':
      v = 2 * momentum * g
    else:
      v = m if reading == 'clean' else momentum * last + g
    return scale(v, last) * v

  def init(params):
    zeros = optax.tree.zeros_like(params)
    first = zeros if reading == 'clean' else ()
    return State(jnp.zeros((), jnp.int32), zeros, first)

  def update(updates, state, params=None):
    del params
    m, ms = state.momentum, updates
    if reading == 'clean':
      m = jax.tree.map(lambda g, m: momentum * m + g, updates, m)
      ms = m
    starts = state.count == 0
    steps = jax.tree.map(
      lambda g, last, m: jnp.where(starts, start(g), later(g, last, m)),
      updates,
      state.last,
      ms,
    )
    return steps, State(state.count + 1, steps, m)

  return optax.GradientTransformation(init, update)


def substitute(
  *, name: str, learning_rate: optax.ScalarOrSchedule, **hyper
) -> optax.GradientTransformation:
  """Builds what takes the place of optax's sgd or adam.

  Raises:
    InputError: another optimizer, or an argument that does not fit.
  """
  forms = dict(sgd=sgd, adam=adam)
  if name not in forms:
    raise InputError(
      f'optimizer.name={name!r} has no malicious form; use'
      f' {" or ".join(forms)}.'
    )
  accepted = inspect.signature(forms[name]).parameters
  scale = inspect.signature(accelerate).parameters
  for argument in hyper:
    if argument not in {**accepted, **scale}:
      raise InputError(f'malicious.{name} takes no {argument!r}; drop it.')
  return forms[name](learning_rate=learning_rate, **hyper)


@functools.cache
def substitution(**scale: Any) -> MakeOptimizer:
  """Returns `substitute` with arguments of `accelerate`.

  One object for one optimizer, so that attacks that share it share a training.

  Raises:
    InputError: an argument that `accelerate` refuses.
  """
  accelerate(**scale)
  return functools.partial(substitute, **scale)


def sgd(
  *,
  learning_rate: optax.ScalarOrSchedule,
  momentum: float = 0.9,
  weight_decay: float = 0.0,
  **acceleration,
) -> optax.GradientTransformation:
  """Builds SGD with L2 decay whose momentum is replaced by `accelerate`.

  Args:
    learning_rate: a number or an optax schedule.
    momentum: beta.
    weight_decay: added to the gradient, before all else.
    **acceleration: of `accelerate`.

  Raises:
    InputError: an argument that `accelerate` refuses.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    accelerate(momentum=momentum, **acceleration),
    optax.scale_by_learning_rate(learning_rate),
  )


def adam(
  *,
  learning_rate: optax.ScalarOrSchedule,
  weight_decay: float = 0.0,
  gamma: float = 1.0,
  r_min: float = 1.0,
  r_max: float = 5.0,
  reading: str = 'release',
) -> optax.GradientTransformation:
  """Builds Adam whose steps are scaled by r, as in VFLAIR; arguments of `sgd`.

  s = r adam(g), r of s_last. The readings differ in a momentum that Adam does
  not have: there is only one.

  Raises:
    InputError: an argument that `accelerate` refuses.
  """
  del reading
  scale = dict(gamma=gamma, r_min=r_min, r_max=r_max)
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_adam(),
    accelerate(reading='clean', momentum=0.0, **scale),
    optax.scale_by_learning_rate(learning_rate),
  )
