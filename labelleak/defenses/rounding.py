"""DiscreteSGD: gradients on a grid, in three published forms.

They differ in where the grid comes from and in what becomes of outliers:
`discretize` is the paper of Fu et al. (USENIX Security 2022),
`discretize_fixed` its released code, `discretize_first` VFLAIR's.
"""

from typing import NamedTuple, Optional

import chex
import jax.numpy as jnp
import optax

from labelleak import validate
from labelleak.defenses import extra_args
from labelleak.defenses.defense import Defense, transform


class Moments(NamedTuple):
  """Running mean and variance of all entries so far."""

  count: chex.Array  # of entries, []
  mean: chex.Array  # []
  square: chex.Array  # sum of squared deviations from the mean, []

  def stddev(self) -> chex.Array:
    """Returns the population standard deviation; 0 of no entries."""
    return jnp.sqrt(self.square / jnp.maximum(self.count, 1))


def _moments(cut, real):
  """Returns the moments of the entries of real rows."""
  count = real.sum() * cut.shape[1]
  mean = (cut * real).sum() / jnp.maximum(count, 1)
  return Moments(count, mean, (jnp.square(cut - mean) * real).sum())


def _merge(a, b):
  """Merges the moments of two disjoint sets (Chan et al.)."""
  count = a.count + b.count
  share = b.count / jnp.maximum(count, 1)
  step = b.mean - a.mean
  square = a.square + b.square + step**2 * a.count * share
  return Moments(count, a.mean + step * share, square)


def discretize(*, bins: int) -> Defense:
  """Rounds to a grid over [mu - 2 sigma, mu + 2 sigma]; outliers become 0.

  The paper's two phases: the first epoch passes undefended while mean mu and
  standard deviation sigma of this link's entries are gathered; from then on
  the interval is cut into `bins` equal parts, every value goes to the nearest
  end point, and what lies outside is discarded. That the first epoch is
  undefended, that a discarded value is 0 and that every link has its own grid
  is our reading. Needs `epoch=`.

  Args:
    bins: N. The grid contains 0 only where mu is a multiple of 4 sigma / N.

  Raises:
    InputError: bins is no positive whole number.
  """
  validate.whole('discretize: bins', bins, 1)

  def init(h):
    zero = jnp.zeros((), h.dtype)
    return Moments(zero, zero, zero)

  def update(cut, state, params=None, *, mask=None, epoch=None, **extra):
    del params, extra
    real = extra_args.row_mask('discretize', cut, mask)
    extra_args.require('discretize', epoch=epoch)
    low = state.mean - 2 * state.stddev()
    offset, width = cut - low, 4 * state.stddev()
    step = jnp.where(width > 0, width / bins, 1.0)
    inside = (offset >= 0) & (offset <= width)
    rounded = jnp.where(inside, low + jnp.round(offset / step) * step, 0.0)
    first = jnp.asarray(epoch) == 0
    grown = _merge(state, _moments(cut, real))
    state = Moments(*(jnp.where(first, s, t) for s, t in zip(grown, state)))
    return jnp.where(first, cut, rounded) * real, state

  gradient = optax.GradientTransformationExtraArgs(init, update)
  return transform(gradient, 'discretize', bins)


def discretize_fixed(*, bins: int, bound: float) -> Defense:
  """Rounds to multiples of 2 bound / bins, half to even; clips nothing.

  Fu's released code, with bound 3e-2 (about 1/B at B = 32) or 1e-3 set by hand;
  the bound does not bound, it only sets the step.

  Raises:
    InputError: bins is no positive whole number, bound is not positive.
  """
  validate.whole('discretize_fixed: bins', bins, 1)
  scale = 'about the largest magnitude of a cut gradient, 1 / B'
  validate.within('discretize_fixed: bound', bound, '(0, inf)', scale)
  step = 2 * bound / bins

  def update(cut, mask=None, **extra):
    del extra
    extra_args.row_mask('discretize_fixed', cut, mask)
    return jnp.round(cut / step) * step

  return transform(extra_args.stateless(update), 'discretize_fixed', bins)


def discretize_first(*, bins: int, within: Optional[float] = None) -> Defense:
  """Rounds to multiples of 2 sigma / floor((bins + 1) / 2); clips nothing.

  VFLAIR's form: sigma is the unbiased standard deviation of the first cut
  gradient that passes this link (and has a spread), which is rounded too.

  Args:
    bins: N.
    within: what is larger than this many sigma becomes 0, as outliers do in the
      form of Fu et al.; None, as in the released code: there are no outliers.

  Raises:
    InputError: bins is no positive whole number, within is not positive.
  """
  validate.whole('discretize_first: bins', bins, 1)
  if within is not None:
    unit = 'it is a number of standard deviations, or None'
    validate.positive('discretize_first: within', within, unit)
  half = (bins + 1) // 2  # bins in 2 sigma

  def update(cut, step, params=None, *, mask=None, **extra):
    del params, extra
    real = extra_args.row_mask('discretize_first', cut, mask)
    moments = _moments(cut, real)
    stddev = jnp.sqrt(moments.square / jnp.maximum(moments.count - 1, 1))
    step = jnp.where(step > 0, step, stddev * (2 / half))
    safe = jnp.where(step > 0, step, 1.0)
    rounded = jnp.round(cut / safe) * safe
    if within is not None:
      outlier = jnp.abs(cut) > within * (half / 2) * step
      rounded = jnp.where(outlier, 0.0, rounded)
    return jnp.where(step > 0, rounded, cut), step

  init = lambda h: jnp.zeros((), h.dtype)
  gradient = optax.GradientTransformationExtraArgs(init, update)
  return transform(gradient, 'discretize_first', bins)
