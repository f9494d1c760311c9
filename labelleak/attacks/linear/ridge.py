"""Cut gradients from every layer's gradient, by least squares."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from labelleak import validate, vfl
from labelleak.attacks.linear import equations
from labelleak.base import Attack, attack

_NAME = 'linear.least_squares'
# Found on seed 100 of digits under Gaussian noise; 0.1 and 1 do as well.
RIDGE, STEPS = 0.3, 25


class LeastSquares(NamedTuple):
  """What the equations say of B U if its entries are noise of one variance."""

  u: chex.Array  # [B, K] posterior mean of B U, rows sum to zero
  variance: chex.Array  # [] of an entry of B U, as large as the gradient is


def least_squares(*, ridge: float = RIDGE, steps: int = STEPS) -> Attack:
  """Builds the attack that solves every layer's gradient by least squares.

  Scores are -B U [B, K]: nothing is assumed of labels, as Theorem 1 of Liu,
  Zou et al. (`last_layer`) does of the classifier's gradient alone.

  Args:
    ridge: on the whitened equations, as a share of their mean variance.
    steps: of conjugate gradients.

  Raises:
    InputError: an option out of range. (infer) Logits that are not K wide.
  """
  validate.within('ridge', ridge, '(0, inf)')
  validate.whole('steps', steps, 1)

  def infer(key, view, known):
    return -solve(key, view, known, ridge=ridge, steps=steps).u

  return attack(infer, name=_NAME, kind='vertical', needs=('bottom',))


def solve(
  key: chex.PRNGKey,
  view: vfl.View,
  known: vfl.Known,
  *,
  ridge: float = RIDGE,
  steps: int = STEPS,
) -> LeastSquares:
  """Solves the whitened equations for B U, drawn to zero by a ridge.

  Args:
    key: of the whitening.
    view: of the batch, its link sealed or not.
    known: with `bottom`.
    ridge, steps: as of `least_squares`.

  Raises:
    InputError: logits that are not K wide.
  """
  equations.check_width(_NAME, view, known)
  with jax.default_matmul_precision('highest'):
    eq = equations.whiten(key, view, known)
    power = eq.gain.sum() * (view.h.shape[1] - 1)
    loss = ridge * power / jnp.maximum(eq.rank, 1)
    z = equations.conjugate_gradient(
      lambda z: eq.apply(eq.adjoint(z)) + loss * z, eq.observed, steps
    )
    variance = jnp.sum(eq.observed**2) / jnp.maximum(power, 1e-30)
    return LeastSquares(eq.adjoint(z), variance)
