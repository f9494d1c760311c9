"""Selective sharing with noise: PPDL, as Fu et al. ran and as they wrote it.

Sources: Shokri and Shmatikov, "Privacy-preserving deep learning" (CCS 2015),
whose algorithm the released code of Fu et al. (USENIX Security 2022) follows,
and the different description in their section 6.1.
"""

import jax
import jax.numpy as jnp

from labelleak import validate
from labelleak.defenses import extra_args
from labelleak.defenses.defense import Defense, transform

_SHARE = 'it is the share of entries to release'


def ppdl(
  *,
  theta: float,
  epsilon: float = 1.8,
  max_value: float = 1e-3,
  tau: float = 1e-4,
  early_exit: bool = False,
) -> Defense:
  """Releases noisy entries that pass a noisy threshold, in a random order.

  Of the N entries of a cut gradient [B, D], c = int(theta N) are to be
  released. One by one, without replacement, an entry is accepted if

    |clip(g)| + Lap(4 c / e1) >= tau + Lap(2 c / e1),   e1 = 8/9 epsilon,

  where the threshold's noise is redrawn after each acceptance; it is sent as
  clip(g + Lap(2 c / e2)), e2 = 2/9 epsilon, everything else as 0; clip is to
  +-max_value, the sensitivity of an entry is 1. Needs `key=`.

  With the published values the noise is larger than the clip by orders of
  magnitude: what is sent is +-max_value with a random sign, and only about 36%
  of the entries are accepted before all were looked at. There the released
  code returns at once and sends what it did not accept as it came, unclipped
  and without noise (`early_exit`); the published accuracies rest on that.

  Args:
    theta: theta_u, the share to release.
    epsilon: of one release of a whole batch.
    max_value: gamma, the clip.
    tau: the threshold.
    early_exit: the released behaviour on exhaustion; otherwise zeros.

  Raises:
    InputError: a hyperparameter out of its range.
  """
  validate.within('ppdl: theta', theta, '(0, 1]', _SHARE)
  validate.positive('ppdl: epsilon', epsilon)
  validate.positive('ppdl: max_value', max_value)
  validate.at_least('ppdl: tau', tau, 0)
  unit = 2 / epsilon  # times c and 9/8 or 9/2

  def update(cut, key=None, mask=None, **extra):
    del extra
    real = extra_args.row_mask('ppdl', cut, mask)
    extra_args.require('ppdl', key=key)
    count = _count(real, cut.shape[1], theta)
    scale = unit * count
    order_key, tau_key, query_key, key = jax.random.split(key, 4)
    noise = lambda key, n: jax.random.laplace(key, (n,), cut.dtype)
    query = jnp.abs(jnp.clip(cut, -max_value, max_value)).ravel()
    query += 2 * scale * 9 / 8 * noise(query_key, cut.size)
    query = jnp.where(jnp.repeat(real[:, 0] > 0, cut.shape[1]), query, -jnp.inf)
    thresholds = tau + scale * 9 / 8 * noise(tau_key, cut.size + 1)
    total, accepted = _accept(order_key, query, thresholds, count)
    released = cut.ravel() + scale * 9 / 2 * noise(key, cut.size)
    released = jnp.clip(released, -max_value, max_value)
    others = jnp.where(early_exit & (total < count), cut.ravel(), 0.0)
    return jnp.where(accepted, released, others).reshape(cut.shape)

  return transform(extra_args.stateless(update), 'ppdl', theta)


def _count(real, width, theta):
  """Returns c = int(theta N), of the N entries of real rows."""
  return extra_args.look_up(real, lambda rows: int(theta * (rows * width)))


def _accept(key, query, thresholds, count):
  """Returns how many entries are accepted, and which, in a random order [N]."""
  order = jax.random.permutation(key, query.size)

  def look(accepted, value):
    accept = (value >= thresholds[accepted]) & (accepted < count)
    return accepted + accept, accept

  total, accepts = jax.lax.scan(look, jnp.zeros_like(count), query[order])
  return total, jnp.zeros(query.size, bool).at[order].set(accepts)


def ppdl_described(*, theta: float, tau: float, scale: float) -> Defense:
  """Adds noise and sends what exceeds a threshold, until a share is gathered.

  PPDL in the words of Fu et al.: a random entry gets noise; if the result is
  larger than tau it is kept, noise included, otherwise it becomes 0; so on
  until theta of the entries are gathered, or none is left. The paper gives
  neither tau nor the noise: it is Laplace(0, scale) here, and the magnitude is
  what exceeds tau. Needs `key=`.

  Args:
    theta: theta_u, in (0, 1]; 1 with tau = 0 is `laplace`.
    tau: at least 0.
    scale: at least 0; 0 adds no noise.

  Raises:
    InputError: a hyperparameter out of its range.
  """
  validate.within('ppdl_described: theta', theta, '(0, 1]', _SHARE)
  validate.at_least('ppdl_described: tau', tau, 0)
  validate.at_least('ppdl_described: scale', scale, 0)

  def update(cut, key=None, mask=None, **extra):
    del extra
    real = extra_args.row_mask('ppdl_described', cut, mask)
    extra_args.require('ppdl_described', key=key)
    count = _count(real, cut.shape[1], theta)
    order_key, key = jax.random.split(key)
    noisy = cut + scale * jax.random.laplace(key, cut.shape, cut.dtype)
    order = jax.random.permutation(order_key, cut.size)
    passes = ((jnp.abs(noisy) > tau) & (real > 0)).ravel()[order]
    gathered = passes & (jnp.cumsum(passes) <= count)
    sent = jnp.zeros(cut.size, bool).at[order].set(gathered)
    return jnp.where(sent.reshape(cut.shape), noisy, 0.0)

  return transform(extra_args.stateless(update), 'ppdl_described', theta)
