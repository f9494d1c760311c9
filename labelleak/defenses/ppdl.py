"""Selective sharing with noise: PPDL, as Fu et al. ran and as they wrote it.

Sources: Shokri and Shmatikov, "Privacy-preserving deep learning" (CCS 2015),
whose algorithm the released code of Fu et al. (USENIX Security 2022) follows,
and the different description in their section 6.1.
"""

import jax
import jax.numpy as jnp

from labelleak.defenses import extra_args
from labelleak.defenses.defense import Defense, transform

_SHARE = 'in (0, 1]; it is the share of entries to release'


def ppdl(
  *,
  theta: float,
  epsilon: float = 1.8,
  sensitivity: float = 1.0,
  max_value: float = 1e-3,
  tau: float = 1e-4,
  early_exit: bool = False,
) -> Defense:
  """Releases noisy entries that pass a noisy threshold, in a random order.

  Of the N entries of a cut gradient [B, D], c = int(theta N) are to be
  released. One by one, without replacement, an entry is accepted if

    |clip(g)| + Lap(4 c / e1) >= tau + Lap(2 c / e1),   e1 = 8/9 epsilon,

  where the threshold's noise is redrawn after each acceptance; it is sent as
  clip(g + Lap(2 c / e2)), e2 = 2/9 epsilon, everything else as 0. All scales
  are times the sensitivity, clip is to +-max_value. Needs `key=`.

  With the published values the noise is larger than the clip by orders of
  magnitude: what is sent is +-max_value with a random sign, and only about 36%
  of the entries are accepted before all were looked at. There the released
  code returns at once and sends what it did not accept as it came, unclipped
  and without noise (`early_exit`); the published accuracies rest on that.

  Args:
    theta: theta_u, the share to release.
    epsilon: of one release of a whole batch.
    sensitivity: of an entry.
    max_value: gamma, the clip.
    tau: the threshold.
    early_exit: the released behaviour on exhaustion; otherwise zeros.

  Raises:
    InputError: a hyperparameter out of its range.
  """
  extra_args.check('ppdl: theta', theta, _SHARE, lambda v: 0 < v <= 1)
  for name, value in (('epsilon', epsilon), ('max_value', max_value)):
    extra_args.check(f'ppdl: {name}', value, 'positive', lambda v: v > 0)
  for name, value in (('sensitivity', sensitivity), ('tau', tau)):
    extra_args.check(f'ppdl: {name}', value, 'at least 0', lambda v: v >= 0)
  unit = 2 * sensitivity / epsilon  # times c and 9/8 or 9/2

  def update(cut, key=None, mask=None, **extra):
    del extra
    real = extra_args.real('ppdl', cut, mask)
    extra_args.need('ppdl', key=key)
    count = extra_args.lookup(
      real, lambda rows: int(theta * (rows * cut.shape[1]))
    )
    scale = unit * count
    order_key, tau_key, query_key, key = jax.random.split(key, 4)
    noise = lambda key, n: jax.random.laplace(key, (n,), cut.dtype)
    query = jnp.abs(jnp.clip(cut, -max_value, max_value)).ravel()
    query += 2 * scale * 9 / 8 * noise(query_key, cut.size)
    query = jnp.where(jnp.repeat(real[:, 0] > 0, cut.shape[1]), query, -jnp.inf)
    thresholds = tau + scale * 9 / 8 * noise(tau_key, cut.size + 1)
    order = jax.random.permutation(order_key, cut.size)

    def look(accepted, value):
      accept = (value >= thresholds[accepted]) & (accepted < count)
      return accepted + accept, accept

    zero = jnp.zeros_like(count)
    total, accepts = jax.lax.scan(look, zero, query[order])
    accepted = jnp.zeros(cut.size, bool).at[order].set(accepts)
    released = cut.ravel() + scale * 9 / 2 * noise(key, cut.size)
    released = jnp.clip(released, -max_value, max_value)
    rest = jnp.where(early_exit & (total < count), cut.ravel(), 0.0)
    return jnp.where(accepted, released, rest).reshape(cut.shape)

  return transform(extra_args.stateless(update), 'ppdl', theta)


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
  extra_args.check('ppdl_described: theta', theta, _SHARE, lambda v: 0 < v <= 1)
  for name, value in (('tau', tau), ('scale', scale)):
    rule = 'a finite number of at least 0'
    extra_args.check(
      f'ppdl_described: {name}', value, rule, lambda v: 0 <= v < float('inf')
    )

  def update(cut, key=None, mask=None, **extra):
    del extra
    real = extra_args.real('ppdl_described', cut, mask)
    extra_args.need('ppdl_described', key=key)
    count = extra_args.lookup(
      real, lambda rows: int(theta * (rows * cut.shape[1]))
    )
    order_key, key = jax.random.split(key)
    noisy = cut + scale * jax.random.laplace(key, cut.shape, cut.dtype)
    order = jax.random.permutation(order_key, cut.size)
    passes = ((jnp.abs(noisy) > tau) & (real > 0)).ravel()[order]
    gathered = passes & (jnp.cumsum(passes) <= count)
    kept = jnp.zeros(cut.size, bool).at[order].set(gathered)
    return jnp.where(kept.reshape(cut.shape), noisy, 0.0)

  return transform(extra_args.stateless(update), 'ppdl_described', theta)
