"""The bottom model's gradients as linear equations in dL/dH.

A party's parameter gradient is g = J^T vec(U), with U = dL/dH [B, K] the cut
gradient and J the Jacobian of its own logits. The party knows J: it owns the
model and the inputs. Rows of U sum to zero where the loss is a cross entropy,
so that (K - 1) B numbers are sought.

J is never formed, only its products (`jacobian`). The equations are then
brought to a common scale, leaf by leaf, by the two Kronecker factors of the
leaf's Gram matrix (as K-FAC and Shampoo do). For a Dense layer the left factor
is the covariance of its input, weighed by the backward signal. The factors are
estimated from the gradients of random cut gradients, so nothing
need be known of the model's structure: any leaf of any Flax model will do.
"""

from collections.abc import Callable
import math
from typing import NamedTuple

import chex
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

# Singular values of a factor below this share of the largest are rounding: a
# float32 gradient carries seven digits, and three are wanted. The right factor
# is read off what the left one has magnified.
_CUT = 3e-5, 1e-3
_SIDE = 1024  # rows, and columns, that are read of a larger leaf
_PROBES = 16, 64  # random cut gradients: least and most
_TINY = float(np.finfo(np.float32).tiny)


class Equations(NamedTuple):
  """M whitened equations `apply(B * U) = observed` in zero-sum rows."""

  apply: Callable  # [B, K] -> [M]
  adjoint: Callable  # [M] -> [B, K], rows sum to zero
  observed: chex.Array  # [M]
  gain: chex.Array  # [B] squared length of a row's equations, mean over K - 1
  rank: chex.Array  # [] equations that the cuts left, an upper bound


def center(u: chex.Array) -> chex.Array:
  """Projects rows to zero sum, [..., K] -> [..., K]."""
  return u - u.mean(-1, keepdims=True)


def jacobian(
  forward: Callable, params: chex.ArrayTree
) -> tuple[Callable, Callable]:
  """J of `forward` at params in both directions, V -> J V and U -> J^T U.

  One of the two sums the activations [B, F] over rows, the other over columns,
  so each keeps a copy in its own order: on a CPU a product against the grain is
  much slower.
  """
  _, push = jax.linearize(forward, params)
  # The barrier stops XLA from undoing the transposition ahead of a loop.
  turned = _matrices(lambda a: jax.lax.optimization_barrier(a.T), push)

  def pull(cut):
    straight = _matrices(jnp.transpose, turned)
    return jax.linear_transpose(straight, params)(cut)[0]

  return push, pull


def equations(
  key: chex.PRNGKey, view, known, *, excess: float = 1.0
) -> Equations:
  """The whitened equations of a view.

  Leaves are taken from the output backwards, until they hold `excess` times
  (K - 1) B numbers: what lies before them in the model is then neither
  differentiated nor stored, and every subset of leaves gives valid equations.

  Args:
    key: random cut gradients of the whitening.
    view: `vfl.View`.
    known: `Known` with `bottom`.
    excess: equations to use for each unknown, where the model has as many.
  """
  params = traverse_util.flatten_dict(view.variables['params'])
  grads = traverse_util.flatten_dict(view.param_grads)
  num, classes = view.h.shape

  def forward(part):
    tree = traverse_util.unflatten_dict({**params, **part})
    return known.bottom({**view.variables, 'params': tree}, view.x, view.key)

  groups = _last(forward, params, excess * (classes - 1) * num)
  part = {path: params[path] for group in groups for path in group}
  push, pull = jacobian(forward, part)

  shapes = [_shape(part, group) for group in groups]
  probe_key, gain_key = jax.random.split(key)
  wanted = max(math.ceil(4 * max(i, o) / min(i, o)) for i, o in shapes)
  probes = min(max(wanted, _PROBES[0]), _PROBES[1])

  def read(tree):
    return [_matrix(tree, group) for group in groups]

  def probe(key):
    u = jax.random.normal(key, view.h.shape, view.h.dtype)
    return read(pull(center(u)))

  samples = jax.lax.map(probe, jax.random.split(probe_key, probes))
  factors, ranks = zip(*[_whitener(sample) for sample in samples])

  def whiten(tree):
    pairs = zip(factors, read(tree))
    return jnp.concatenate(
      [(left @ g @ right.T).ravel() for (left, right), g in pairs]
    )

  unwhiten = jax.linear_transpose(whiten, part)
  apply = lambda u: whiten(pull(center(u)))
  adjoint = lambda z: center(push(unwhiten(z)[0]))
  observed = whiten({path: num * grads[path] for path in part})

  def squared(key):
    z = jax.random.normal(key, observed.shape, observed.dtype)
    return (adjoint(z) ** 2).sum(-1) / (classes - 1)

  gain = jax.lax.map(squared, jax.random.split(gain_key, _PROBES[0])).mean(0)
  return Equations(apply, adjoint, observed, gain, sum(ranks))


def conjugate_gradient(
  operator: Callable, rhs: chex.Array, steps: int
) -> chex.Array:
  """`steps` iterations for operator(z) = rhs [M] from z = 0; no more, no less.

  The operator is symmetric and not negative; a residual of zero stays zero.
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


def _matrices(fn, tree):
  """Applies fn to every matrix, but to masks, which no product reads."""
  floats = lambda a: a.ndim == 2 and jnp.issubdtype(a.dtype, jnp.floating)
  return jax.tree.map(lambda a: fn(a) if floats(a) else a, tree)


def _last(forward, params, wanted):
  """Groups of leaves, last used first, that hold `wanted` numbers or all.

  A kernel and its bias form a group; every other leaf is one by itself.
  """
  paths, leaves = zip(*params.items())
  flat = lambda *leaves: forward(dict(zip(paths, leaves)))
  jaxpr = jax.make_jaxpr(flat)(*leaves).jaxpr
  use = {p: _first_use(jaxpr, v) for p, v in zip(paths, jaxpr.invars)}
  groups = []
  for path in paths:
    kernel, bias = (*path[:-1], 'kernel'), (*path[:-1], 'bias')
    if path == bias and kernel in params:
      continue
    groups.append(
      (path, bias) if path == kernel and bias in params else (path,)
    )
  groups.sort(key=lambda group: use[group[0]], reverse=True)
  count, chosen = 0, []
  for group in groups:
    if count >= wanted or not use[group[0]]:
      break
    chosen.append(group)
    count += math.prod(_shape(params, group))
  return chosen


def _first_use(jaxpr, var):
  """Place of the first equation that reads a variable; () where none does."""
  for i, eqn in enumerate(jaxpr.eqns):
    at = [j for j, v in enumerate(eqn.invars) if v is var]
    if at:
      inner = getattr(eqn.params.get('jaxpr'), 'jaxpr', None)
      if inner is None or len(inner.invars) != len(eqn.invars):
        return (i,)
      return (i, *_first_use(inner, inner.invars[at[0]]))
  return ()


def _shape(tree, group):
  """Shape of a group's matrix, before `_SIDE` cuts it."""
  leaf = tree[group[0]]
  if leaf.ndim < 2:
    return leaf.size, 1
  return leaf.size // leaf.shape[-1] + len(group) - 1, leaf.shape[-1]


def _matrix(tree, group):
  """A kernel, with its bias as one more row; other leaves as one column."""
  leaf = tree[group[0]]
  matrix = leaf.reshape(-1, leaf.shape[-1] if leaf.ndim > 1 else 1)
  if len(group) > 1:
    matrix = jnp.concatenate([matrix, tree[group[1]][None]])
  for axis, size in enumerate(matrix.shape):
    if size > _SIDE:
      places = np.linspace(0, size - 1, _SIDE).astype(int)
      matrix = jnp.take(matrix, places, axis)
  return matrix


def _whitener(samples):
  """Factors (L, R) such that L G R^T has a unit Gram matrix, and their rank.

  Args:
    samples: [n, I, O] gradients of n random cut gradients.
  """
  n, rows, columns = samples.shape
  if columns == 1:  # too few samples for a factor: a scale for each entry
    scale = jnp.sqrt(jnp.mean(samples[..., 0] ** 2, 0))
    keep = scale > _CUT[0] * scale.max()
    left = jnp.diag(jnp.where(keep, 1 / jnp.where(keep, scale, 1.0), 0.0))
    return (left, jnp.ones((1, 1), left.dtype)), keep.sum()
  left, left_rank = _inverse_root(
    samples.transpose(0, 2, 1).reshape(-1, rows), _CUT[0]
  )
  samples = left @ samples
  right, right_rank = _inverse_root(samples.reshape(-1, columns), _CUT[1])
  rank = left_rank * right_rank
  power = jnp.sum((samples @ right.T) ** 2) / n
  return (left, right * jnp.sqrt(rank / jnp.maximum(power, _TINY))), rank


def _inverse_root(x, cut):
  """W [d, d] with (x W^T)^T (x W^T) = 1 on the kept directions of x [n, d].

  From the singular values of x and not the eigenvalues of x^T x, which float32
  would cut at a share of 3e-4.
  """
  if x.shape[0] > x.shape[1]:
    x = jnp.linalg.qr(x, mode='r')
  _, sizes, vt = jnp.linalg.svd(x, full_matrices=False)
  keep = sizes > cut * sizes[0]
  scale = jnp.where(keep, 1 / jnp.where(keep, sizes, 1.0), 0.0)
  return scale[:, None] * vt, keep.sum()
