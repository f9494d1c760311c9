"""The bottom model's gradients as linear equations in dL/dH.

A party's parameter gradient is g = J^T vec(U), with U = dL/dH [B, K] the cut
gradient and J the Jacobian of its own logits. The party knows J: it owns the
model and the inputs. Rows of U sum to zero where the loss is a cross entropy,
so that (K - 1) B numbers are sought.

J is never formed, only its products (`jacobian`). The equations are then
brought to a common scale, leaf by leaf (`whitening`), by factors that are
estimated from the gradients of random cut gradients. So nothing need be known
of the model's structure: any leaf of any Flax model will do.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import chex
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import vfl
from labelleak.attacks import single_logit
from labelleak.attacks.linear import leaves, whitening
from labelleak.attacks.linear.jacobian import Forward, jacobian
from labelleak.base import InputError

# A symmetric linear map that is not negative, [M] -> [M].
Operator = Callable[[chex.Array], chex.Array]

_PROBES = 16, 64  # random cut gradients: least and most
_TINY = float(np.finfo(np.float32).tiny)


class Equations(NamedTuple):
  """M whitened equations `apply(B * U) = observed` in zero-sum rows."""

  apply: Callable[[chex.Array], chex.Array]  # [B, K] -> [M]
  adjoint: Callable[[chex.Array], chex.Array]  # [M] -> [B, K], rows sum to zero
  observed: chex.Array  # [M]
  gain: chex.Array  # [B] squared length of a row's equations, mean over K - 1
  rank: chex.Array  # [] equations that the cuts left, an upper bound


def center(u: chex.Array) -> chex.Array:
  """Projects rows to zero sum, [..., K] -> [..., K]."""
  return u - u.mean(-1, keepdims=True)


def whiten(
  key: chex.PRNGKey, view: vfl.View, known: vfl.Known, *, excess: float = 1.0
) -> Equations:
  """Sets up the whitened equations of a view.

  Leaves are taken from the output backwards, until they hold `excess` times
  (K - 1) B numbers: what lies before them in the model is then neither
  differentiated nor stored, and every subset of leaves gives valid equations.
  `key` draws the cut gradients of the whitening.
  """
  num, classes = view.h.shape
  part, groups, forward = choose(view, known, excess * (classes - 1) * num)
  push, pull = jacobian(forward, part)
  read = lambda tree: [leaves.group_matrix(tree, group) for group in groups]
  shapes = [leaves.group_shape(part, group) for group in groups]
  probe_key, gain_key = jax.random.split(key)
  enough = max(math.ceil(4 * max(i, o) / min(i, o)) for i, o in shapes)
  probes = min(max(enough, _PROBES[0]), _PROBES[1])

  def probe(key):
    u = jax.random.normal(key, view.h.shape, view.h.dtype)
    return read(pull(center(u)))

  samples = jax.lax.map(probe, jax.random.split(probe_key, probes))
  whiteners = [whitening.fit(sample) for sample in samples]

  def scale(tree):
    pairs = zip(whiteners, read(tree))
    return jnp.concatenate([whitening.apply(w, g).ravel() for w, g in pairs])

  unscale = jax.linear_transpose(scale, part)
  apply = lambda u: scale(pull(center(u)))
  adjoint = lambda z: center(push(unscale(z)[0]))
  observed = scale(batch_gradient(view, part))

  def probe(key):
    z = jax.random.normal(key, observed.shape, observed.dtype)
    return (adjoint(z) ** 2).sum(-1) / (classes - 1)

  gain = jax.lax.map(probe, jax.random.split(gain_key, _PROBES[0])).mean(0)
  rank = sum(w.rank for w in whiteners)
  return Equations(apply, adjoint, observed, gain, rank)


def choose(
  view: vfl.View, known: vfl.Known, size: float
) -> tuple[leaves.Leaves, list[leaves.Group], Forward]:
  """Chooses the leaves that are read, from the output until they hold `size`.

  Returns:
    The leaves, their groups, and the embedding [B, K] as a function of them.
  """
  params = traverse_util.flatten_dict(view.variables['params'])

  def forward(part):
    tree = traverse_util.unflatten_dict({**params, **part})
    return known.bottom({**view.variables, 'params': tree}, view.x, view.key)

  groups = leaves.last_groups(forward, params, size)
  part = {path: params[path] for group in groups for path in group}
  return part, groups, forward


def batch_gradient(view: vfl.View, part: leaves.Leaves) -> leaves.Leaves:
  """Returns the gradient of the batch's sum, B g, of some leaves."""
  grads = traverse_util.flatten_dict(view.param_grads)
  return {path: len(view.h) * grads[path] for path in part}


def unit_scales(numbers: list[chex.Array]) -> list[chex.Array]:
  """Returns what brings each leaf's numbers to a root mean square of 1, [].

  One that is all but zero beside another is brought to a billionth of it.
  """
  sizes = [jnp.sqrt(jnp.mean(n**2)) for n in numbers]
  least = jnp.maximum(1e-9 * jnp.max(jnp.stack(sizes)), 1e-30)
  return [1 / jnp.maximum(size, least) for size in sizes]


def conjugate_gradient(
  operator: Operator, rhs: chex.Array, steps: int
) -> chex.Array:
  """Iterates `steps` times for operator(z) = rhs [M] from z = 0; returns z.

  No more and no less; a residual of zero stays zero.
  """

  def step(carry, _):
    z, r, p, squared = carry
    image = operator(p)
    curvature = jnp.vdot(p, image)
    # Rounding can make it negative where the equations all but repeat.
    size = jnp.where(curvature > 0, squared / jnp.maximum(curvature, _TINY), 0)
    z, r = z + size * p, r - size * image
    new = jnp.vdot(r, r)
    return (z, r, r + new / jnp.maximum(squared, _TINY) * p, new), None

  start = jnp.zeros_like(rhs), rhs, rhs, jnp.vdot(rhs, rhs)
  return jax.lax.scan(step, start, None, length=steps)[0][0]


def read_logits(
  name: str, view: vfl.View, known: vfl.Known
) -> tuple[vfl.View, vfl.Known]:
  """Returns a view of K logits: one of two classes as two (`single_logit`).

  Raises:
    InputError: the cut is not K wide.
  """
  view, known = single_logit.as_classes(view, known)
  if view.h.shape[-1] != known.num_classes:
    raise InputError(
      f'{name} reads logits of K={known.num_classes}, the cut is'
      f' {view.h.shape[-1]} wide; use the sum top.'
    )
  return view, known
