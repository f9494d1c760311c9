"""A batch's equations, written out and squared: exact enough to be solved.

Where `equations` has products with the Jacobian alone, all of it is here, for
batches, and models, that are small enough. Of dense layers there is a short
way to the square, that of `factors`.
"""

import itertools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from labelleak import vfl
from labelleak.attacks.linear import equations, factors, leaves
from labelleak.attacks.linear.jacobian import jacobian

ENTRIES = 12_288  # B K at most: its square in float64 is 1.2 GB
_NUMBERS = 2**28  # of the matrix at most, 1 GB
_CHUNK = 256  # of its rows at a time
_WIDE = 2048  # of its columns
_PARTS = 6  # of its square, each way


class Square(NamedTuple):
  """Normal equations A A^T vec(S - Y) = A b of n = B K entries.

  Attributes:
    gram: A A^T [n, n].
    rhs: A b [n].
    power: [] b^T b.
    count: [] of the numbers that an entry moves.
  """

  gram: chex.Array
  rhs: chex.Array
  power: chex.Array
  count: chex.Array


class System(NamedTuple):
  """Equations A^T vec(S - Y) = b, of n = B K entries and M numbers.

  Each leaf's numbers are divided by the root mean square of its gradient, so
  that their rounding is alike.

  Attributes:
    rows: A [n, M], of rows of S - Y, centred or not.
    observed: b [M].
    count: [] of the numbers that an entry moves; they come first.
  """

  rows: chex.Array
  observed: chex.Array
  count: chex.Array


def fits(view: vfl.View) -> bool:
  """Returns whether a batch's matrix fits, if all leaves had to be read."""
  size, numbers = (
    view.h.size,
    sum(g.size for g in jax.tree.leaves(view.param_grads)),
  )
  return size <= ENTRIES and size * numbers <= _NUMBERS


def build(view: vfl.View, known: vfl.Known, *, center: bool = True) -> System:
  """Builds the equations of the last leaves that hold B K numbers.

  Args:
    view, known: with `bottom`.
    center: whether rows of what was sent sum to zero, as those of S - Y do.
  """
  num, classes = view.h.shape
  part, groups, forward = equations.choose(view, known, num * classes)
  _, pull = jacobian(forward, part)
  read = lambda tree: [leaves.group_matrix(tree, g).ravel() for g in groups]
  numbers = read(equations.batch_gradient(view, part))
  scales = equations.unit_scales(numbers)

  def gather(arrays):
    return jnp.concatenate([s * a for s, a in zip(scales, arrays)])

  def row(place):
    unit = jnp.zeros(num * classes).at[place].set(1.0, mode='drop')
    unit = unit.reshape(num, classes)
    return gather(read(pull(equations.center(unit) if center else unit)))

  places = jnp.arange(-(-num * classes // _CHUNK) * _CHUNK)
  with jax.default_matmul_precision('highest'):
    rows = jax.lax.map(jax.vmap(row), places.reshape(-1, _CHUNK))
  rows = rows.reshape(len(places), -1)[: num * classes]
  used = jnp.abs(rows).max(0) > 0
  order = jnp.argsort(~used)
  return System(rows[:, order], gather(numbers)[order], used.sum())


def square(view: vfl.View, known: vfl.Known, dtype: jnp.dtype) -> Square:
  """Squares the equations of the last leaves that hold B K numbers.

  Rows of the Jacobian are of float32, sums of `dtype`; float64 has to be
  enabled where this is called.
  """
  with jax.enable_x64(False):
    layers, exact = factors.factor(view, known)
    count = factors.count(layers)

  def multiply():
    power = sum(jnp.sum(f.numbers.astype(dtype) ** 2) for f in layers)
    gram, rhs = factors.square(layers, dtype)
    return Square(gram, rhs, power, count)

  def write_out():
    with jax.enable_x64(False):
      system = build(view, known)
    power = jnp.sum(system.observed.astype(dtype) ** 2)
    gram, rhs = multiply_out(system, dtype)
    return Square(gram, rhs, power, system.count)

  return jax.lax.cond(exact, multiply, write_out)


def multiply_out(
  system: System, dtype: jnp.dtype
) -> tuple[chex.Array, chex.Array]:
  """Returns A A^T [n, n] and A b [n].

  Of columns beyond the count there is nothing. Of the square, which is
  symmetric, blocks on one side of the diagonal are multiplied.
  """
  pad = -system.rows.shape[1] % _WIDE
  rows = jnp.pad(system.rows, ((0, 0), (0, pad)))
  observed = jnp.pad(system.observed, (0, pad))
  ends = [len(rows) * i // _PARTS for i in range(_PARTS + 1)]
  spans = [slice(*each) for each in itertools.pairwise(ends)]

  def add(i, total):
    blocks, rhs = total
    cut = lambda a, axis: jax.lax.dynamic_slice_in_dim(
      a, i * _WIDE, _WIDE, axis
    )
    wide = cut(rows, 1).astype(rhs.dtype)
    blocks = [
      [block + wide[a] @ wide[b].T for block, b in zip(row, spans)]
      for row, a in zip(blocks, spans)
    ]
    return blocks, rhs + wide @ cut(observed, 0).astype(rhs.dtype)

  size = [span.stop - span.start for span in spans]
  zeros = [
    [jnp.zeros((size[a], size[b]), dtype) for b in range(a + 1)]
    for a in range(_PARTS)
  ]
  rhs = jnp.zeros(len(rows), dtype)
  start = jnp.zeros((), jnp.int32)
  steps = (-(-system.count // _WIDE)).astype(jnp.int32)
  blocks, rhs = jax.lax.fori_loop(start, steps, add, (zeros, rhs))
  whole = [
    [blocks[a][b] if b <= a else blocks[b][a].T for b in range(_PARTS)]
    for a in range(_PARTS)
  ]
  return jnp.block(whole), rhs
