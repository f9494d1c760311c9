"""The closed form of the last layer: Theorem 1 of Liu, Zou et al."""

from typing import NamedTuple

import chex
from flax import traverse_util
import jax
import jax.numpy as jnp

from labelleak import vfl
from labelleak.attacks import single_logit
from labelleak.attacks.linear import equations
from labelleak.base import Attack, InputError, attack

_HEAD = 'head'  # name of every classifier of `models`
_CUT = 1e-5  # singular values of the head's input below this share are zero
_NAME = 'linear.last_layer'


class ClosedForm(NamedTuple):
  """What the classifier's gradient tells."""

  u: chex.Array  # [B, K] least-norm dL/dH
  rank: chex.Array  # [] of [A, 1]; u is exact where B <= rank


def last_layer() -> Attack:
  """Builds Theorem 1: least squares on the classifier's gradient.

  Scores are -U [B, K]. Every label is recovered where B <= rank of the
  classifier's input; see `solve`, which reports that rank.
  """

  def infer(key, view, known):
    return -solve(view, known).u

  return attack(infer, name=_NAME, kind='vertical', needs=('bottom',))


def solve(view: vfl.View, known: vfl.Known) -> ClosedForm:
  """Solves Q = A^T U and its bias row by least squares (Theorem 1).

  A [B, H] is read off the model: the derivative of the logits in direction of
  the kernel's entry (m, 0) is column m of A. One logit of two classes has one
  column of U, which is then that of class 1.

  Raises:
    InputError: logits that are not K wide, or no classifier named `head`.
  """
  equations.read_logits(_NAME, view, known)
  params = traverse_util.flatten_dict(view.variables['params'])
  grads = traverse_util.flatten_dict(view.param_grads)
  paths = [p for p in params if p[-2:] == (_HEAD, 'kernel')]
  if len(paths) != 1:
    raise InputError(
      f'{len(paths)} classifiers named {_HEAD!r} among'
      f' {sorted({p[0] for p in params})}; last_layer needs one, else use'
      ' linear.expectation_propagation.'
    )
  path, bias = paths[0], (*paths[0][:-1], 'bias')
  kernel = params[path]

  def forward(kernel):
    tree = traverse_util.unflatten_dict({**params, path: kernel})
    return known.bottom({**view.variables, 'params': tree}, view.x, view.key)

  _, push = jax.linearize(forward, kernel)
  unit = lambda m: push(jnp.zeros_like(kernel).at[m, 0].set(1.0))[:, 0]
  inputs = jax.lax.map(unit, jnp.arange(kernel.shape[0])).T
  q = grads[path]
  if bias in grads:
    ones = jnp.ones_like(inputs[:, :1])
    inputs = jnp.concatenate([inputs, ones], 1)
    q = jnp.concatenate([q, grads[bias][None]])
  with jax.default_matmul_precision('highest'):
    left, sizes, right = jnp.linalg.svd(inputs, full_matrices=False)
    large = sizes > _CUT * sizes[0]
    inverse = jnp.where(large, 1 / jnp.where(large, sizes, 1.0), 0.0)
    u = left @ (inverse[:, None] * (right @ q))
  if u.shape[-1] != known.num_classes:
    u = single_logit.split_gradient(u)
  return ClosedForm(u, large.sum())
