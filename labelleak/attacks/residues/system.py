"""A host's gradient as equations in residues, on an orthonormal basis."""

from typing import NamedTuple, Optional

import chex
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp

from labelleak import validate, vfl
from labelleak.attacks import single_logit
from labelleak.base import Attack, InputError, attack

_NAME = 'residues.least_squares'
_CUT = 1e-9, 1e-5  # singular values below this share are zero: float64, float32
# Of a logit, what its label does not explain: of the loss's name
ACTIVATIONS = {
  'taylor': lambda z: z / 4,
  'sigmoid': lambda z: jax.nn.sigmoid(z) - 0.5,
}


class System(NamedTuple):
  """Equations basis^T d = observed, of r <= min(B, parameters) at most.

  Attributes:
    basis: [B, r] orthonormal columns; those beyond the rank are 0, as are rows
      of padding.
    observed: [r], 0 beyond the rank.
    sizes: [r] singular values of the own features, 0 beyond the rank.
    h: [B] own logits.
    real: [B] 1 for an example, 0 for padding.
  """

  basis: chex.Array
  observed: chex.Array
  sizes: chex.Array
  h: chex.Array
  real: chex.Array


def least_squares(*, loss: Optional[str] = None) -> Attack:
  """Builds the residue attack of Tan et al.: d by least squares, then its sign.

  Scores are [d, -d], of least norm: exact where the rank of the own features
  is B.

  Args:
    loss: of the active party, 'taylor' or 'sigmoid'; None: what `Known` says,
      else 'taylor'.

  Raises:
    InputError: no such loss. (infer) More logits than one, or other than two
      classes; a view without the gradient.
  """
  check_loss(loss)

  def infer(key, view, known):
    del key
    system = build(_NAME, view, known)
    d = system.basis @ system.observed
    return -single_logit.split_gradient(d[:, None])

  return attack(infer, name=_NAME, kind='vertical', needs=('bottom',))


def check_loss(loss: Optional[str]) -> None:
  """Refuses a loss that has no residues here; None passes."""
  if loss is not None:
    validate.one_of('loss', loss, ACTIVATIONS)


def share_own(
  equations: System, loss: Optional[str], known: vfl.Known
) -> chex.Array:
  """Returns the own share of the activation, [B].

  Raises:
    InputError: a loss that contradicts `known`, or has no residues here.
  """
  if loss and known.loss and loss != known.loss:
    raise InputError(
      f'residues: loss={loss!r} contradicts Known: loss={known.loss!r}; leave'
      ' it out.'
    )
  loss = loss or known.loss or 'taylor'
  check_loss(loss)
  return ACTIVATIONS[loss](equations.h) * equations.real


def build(name: str, view: vfl.View, known: vfl.Known) -> System:
  """Builds the equations of a step.

  Raises:
    InputError: as `least_squares`.
  """
  check(name, view, known)

  def embed(params):
    variables = {**view.variables, 'params': params}
    return known.bottom(variables, view.x, view.key)[:, 0]

  real = jnp.ones(len(view.h)) if view.index is None else view.index >= 0
  real = real.astype(view.h.dtype)
  params = view.variables['params']
  jacobian = jax.vmap(lambda tree: ravel_pytree(tree)[0])(
    jax.jacobian(embed)(params)
  )
  with jax.default_matmul_precision('highest'):
    left, sizes, right = jnp.linalg.svd(
      jacobian * real[:, None], full_matrices=False
    )
    cut = _CUT[0 if sizes.dtype == jnp.float64 else 1]
    large = sizes > cut * sizes[0]
    gradient = real.sum() * ravel_pytree(view.param_grads)[0]
    observed = right @ gradient / jnp.where(large, sizes, 1.0)
  return System(
    basis=jnp.where(large[None], left, 0.0),
    observed=jnp.where(large, observed, 0.0),
    sizes=jnp.where(large, sizes, 0.0),
    h=view.h[:, 0],
    real=real,
  )


def check(name: str, view: vfl.View, known: vfl.Known) -> None:
  """Refuses a view that holds no gradient of one logit of two classes."""
  width = view.h.shape[-1]
  if known.num_classes != 2 or width != 1:
    raise InputError(
      f'{name} reads one logit of two classes, not {width} of'
      f' {known.num_classes}; use linear.full, or a loss of one logit such as'
      ' taylor.'
    )
  if view.param_grads is None:
    raise InputError(
      f'{name} reads view.param_grads, and this party sees updates of an'
      ' arbiter alone; undo them by attacks.arbiter.undo.'
    )
