"""What one step of a training says of its rows' labels: log odds [n, K].

Sealed links are read by `linear`'s attacks on the party's own gradients. In the
clear the cut gradients are there, and what a defense adds to them is taken for
Gaussian noise, of the variance that own softmaxes leave unexplained.
"""

from collections.abc import Callable
from typing import Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import vfl
from labelleak.attacks.linear import choice
from labelleak.base import InputError

_WEIGH = 2**32 - 4  # sets the attack's key apart from those of the pass
_FLOOR = 1e-10  # variance of noise where there is none

# (view of real rows, log prior [n, K] or None) -> log odds [n, K]
Weigh = Callable[[vfl.View, Optional[chex.Array]], chex.Array]


def make_weigh(known: vfl.Known) -> Weigh:
  """Returns what reads the log odds of a view's rows, compiled."""

  @jax.jit
  def weigh(view, log_prior):
    if view.cut_grads is not None:
      return _weigh_cuts(view)
    key = jax.random.fold_in(view.key, _WEIGH)
    return choice.weigh(key, view, known, log_prior)

  return weigh


def select_rows(
  name: str, view: vfl.View, known: vfl.Known
) -> tuple[np.ndarray, vfl.View]:
  """Returns the rows [n] of the data set, and the view, without padding.

  Raises:
    InputError: rows without names, rows that are none of the pool, a cut that
      is not K wide, a sealed view where no bottom was granted or that lacks
      what it was given, entries that are not finite.
  """
  view, _ = view.check(name, known)
  sealed = view.cut_grads is None
  if sealed and known.bottom is None:
    raise InputError(
      f'{name} reads a sealed link by the own bottom model, which was not'
      " granted; add 'bottom' to known."
    )
  needed = ('x', 'h', 'variables', 'param_grads') if sealed else ('cut_grads',)
  lacking = [field for field in needed if getattr(view, field) is None]
  if lacking:
    raise InputError(
      f'{name} reads {", ".join(lacking)} of a view, which this one lacks; give'
      ' it what the party saw.'
    )
  cut = view.h if sealed else view.cut_grads
  if cut.shape[-1] != known.num_classes:
    raise InputError(
      f'cut gradients of width {cut.shape[-1]} for {known.num_classes} classes:'
      f' {name} needs one entry a class; use a joint model without a top.'
    )
  if view.index is None:
    raise InputError(
      f'{name} keeps rows over a training, and this view names none; give it'
      ' index.'
    )
  index = np.asarray(view.index)
  real = index >= 0
  if index.max(initial=-1) >= known.pool.size:
    raise InputError(
      f'row {index.max()} of a view is none of the {known.pool.size} rows of'
      ' the pool; grant the pool that the batches are of.'
    )
  fields = dict(x=view.x, h=view.h, cut_grads=view.cut_grads, index=view.index)
  taken = {k: None if a is None else a[real] for k, a in fields.items()}
  return index[real], view._replace(**taken)


def check_pool(name: str, known: vfl.Known) -> None:
  """Refuses what is no pool of rows that teach each other.

  Raises:
    InputError: no pool, one row, no features, or some that are not finite.
  """
  if known.pool is None:
    raise InputError(f"{name} needs pool; add 'pool' to known.")
  x = known.pool.all()
  if min(x.shape) < 1 or len(x) < 2:
    raise InputError(
      f'{name}: a pool of {len(x)} rows and {x.shape[1]} features tells nothing'
      ' of rows alike; grant all rows that the party has.'
    )
  bad = np.flatnonzero(~np.isfinite(x).all(1))
  if len(bad):
    raise InputError(
      f'{name}: row {bad[0]} of the pool, and {len(bad) - 1} others, are not'
      ' finite; mend or leave out those features.'
    )


def _weigh_cuts(view):
  """Returns log odds of cut gradients, of a mean over their rows."""
  u = len(view.cut_grads) * view.cut_grads
  # Rows sum to zero, and noise need not.
  u = u - u.mean(-1, keepdims=True)
  own = jax.nn.softmax(jnp.zeros_like(u) if view.h is None else view.h)
  told = (1 - jnp.square(own).sum(-1)).mean() / u.shape[-1]
  noise = jnp.maximum(jnp.square(u).mean() - told, _FLOOR)
  return jnp.maximum(jax.nn.log_softmax(_odds(u, noise)), jnp.log(choice.LEAST))


def _odds(u, noise):
  """Returns log odds that the one negative entry of S - Y is there, [n, K].

  A softmax is as likely to be anywhere in [0, 1]: S - 1 at the label is uniform
  in [-1, 0] and S elsewhere in [0, 1], both seen through Gaussian noise.
  """
  scale = 1 / jnp.sqrt(noise)
  return _log_mass(scale * u, scale) - _log_mass(-scale * u, scale)


def _log_mass(low, width):
  """Returns log of the normal's mass between `low` and `low + width`."""
  high = low + width
  low, high = (  # the tail that floats can hold
    jnp.where(low > 0, -high, low),
    jnp.where(low > 0, -low, high),
  )
  log_cdf = jax.scipy.stats.norm.logcdf
  gap = jnp.minimum(log_cdf(low) - log_cdf(high), -1e-30)
  return log_cdf(high) + jnp.log(-jnp.expm1(gap))
