"""DiscreteSGD: gradients on a grid, in three published forms.

They differ in where the grid comes from and in what becomes of outliers:
`discretize` is the paper of Fu et al. (USENIX Security 2022),
`discretize_fixed` its released code, `discretize_first` VFLAIR's.
"""

from typing import NamedTuple, Optional

import chex
import jax.numpy as jnp
import optax

from labelleak.defenses import extra_args
from labelleak.defenses.defense import Defense, transform

_BINS = 'a whole number of at least 1'
_is_count = lambda v: v >= 1 and v % 1 == 0  # false for infinity


class Moments(NamedTuple):
  """Running mean and variance of all entries seen."""

  count: chex.Array  # []
  mean: chex.Array  # []
  square: chex.Array  # [] sum of squared deviations from the mean

  def stddev(self) -> chex.Array:
    """Population standard deviation; 0 before anything was seen."""
    return jnp.sqrt(self.square / jnp.maximum(self.count, 1))


def _moments(cut, real):
  """Moments of the entries of real rows."""
  count = real.sum() * cut.shape[1]
  mean = (cut * real).sum() / jnp.maximum(count, 1)
  return Moments(count, mean, (jnp.square(cut - mean) * real).sum())


def _merged(a, b):
  """Moments of two disjoint sets (Chan et al.)."""
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
  extra_args.check('discretize: bins', bins, _BINS, _is_count)

  def init(h):
    zero = jnp.zeros((), h.dtype)
    return Moments(zero, zero, zero)

  def update(cut, state, params=None, *, mask=None, epoch=None, **extra):
    del params, extra
    real = extra_args.real('discretize', cut, mask)
    extra_args.need('discretize', epoch=epoch)
    low = state.mean - 2 * state.stddev()
    offset, width = cut - low, 4 * state.stddev()
    step = jnp.where(width > 0, width / bins, 1.0)
    inside = (offset >= 0) & (offset <= width)
    rounded = jnp.where(inside, low + jnp.round(offset / step) * step, 0.0)
    first = jnp.asarray(epoch) == 0
    seen = _merged(state, _moments(cut, real))
    state = Moments(*(jnp.where(first, s, t) for s, t in zip(seen, state)))
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
  extra_args.check('discretize_fixed: bins', bins, _BINS, _is_count)
  rule = 'positive, about the largest magnitude of a cut gradient, 1 / B'
  extra_args.check(
    'discretize_fixed: bound', bound, rule, lambda v: 0 < v < float('inf')
  )
  step = 2 * bound / bins

  def update(cut, mask=None, **extra):
    del extra
    extra_args.real('discretize_fixed', cut, mask)
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
  extra_args.check('discretize_first: bins', bins, _BINS, _is_count)
  if within is not None:
    rule = 'a positive number of standard deviations, or None'
    extra_args.check('discretize_first: within', within, rule, lambda v: v > 0)
  half = (bins + 1) // 2  # bins in 2 sigma

  def update(cut, step, params=None, *, mask=None, **extra):
    del params, extra
    seen = _moments(cut, extra_args.real('discretize_first', cut, mask))
    stddev = jnp.sqrt(seen.square / jnp.maximum(seen.count - 1, 1))
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
