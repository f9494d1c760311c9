"""The glossary: letters, and the types that cross modules.

Letters, used in every docstring of this package:

  B batch size            K classes              D cut width
  F features of a party   H head input width     C clients
  P parties               S local steps          T trials
  N data set size         M examples that the attacker holds

Two types carry the threat model. A `View` (`hfl.View`, `vfl.View`) is all that
an attack observes; a `Known` is all that it is granted beside. Neither holds
the victim's labels: truth goes straight from the data to the metrics.
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple, Optional

import chex
import jax
import optax


class InputError(ValueError):
  """Bad input. The message is one line: the value, the rule, the remedy."""


class Batch(NamedTuple):
  """One client's (HFL) or one step's (VFL) examples."""

  xs: tuple[chex.Array, ...]  # P x [B, F_p]; HFL has one party
  y: chex.Array  # [B, K] one-hot or soft
  index: chex.Array  # [B] rows of the data set
  mask: chex.Array  # [B] 0 for padding, 1 for an example
  # What attackers hold of these rows: for their `send` and `tamper` alone.
  notes: Optional[chex.ArrayTree] = None


class Party(NamedTuple):
  """One participant's model in vertical FL: pure functions and an optimizer."""

  init: Callable  # (key, x [B, F]) -> variables {'params', 'batch_stats', ...}
  # (variables, x, *, train, key) -> (h [B, D], variables with new statistics)
  apply: Callable
  tx: optax.GradientTransformation  # on variables['params']


class Revealed(NamedTuple):
  """What an aggregator lets its receiver see."""

  result: chex.ArrayTree  # what the receiver may use
  message: Optional[chex.ArrayTree]  # what it could read; None when sealed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Known:
  """What the threat model grants an attack beyond its view.

  Sizes and functions are static, arrays are leaves, so a `Known` passes through
  jit and vmap. A field that is None was not granted.
  """

  num_classes: int = dataclasses.field(metadata=dict(static=True))  # K
  batch_size: int = dataclasses.field(metadata=dict(static=True))  # B, a client
  steps: int = dataclasses.field(default=1, metadata=dict(static=True))  # S
  clients: int = dataclasses.field(default=1, metadata=dict(static=True))  # C
  # Local learning rate behind an update.
  lr: Optional[float] = dataclasses.field(
    default=None, metadata=dict(static=True)
  )
  # The defense as far as the attacker knows it: pairs of a transform's name and
  # its strength, such as (('clip', 0.1), ('gaussian', 0.01)).
  defense: Optional[tuple] = dataclasses.field(
    default=None, metadata=dict(static=True)
  )
  # The model's forward pass: (variables, x [M, ...]) -> logits [M, K].
  apply: Optional[Callable] = dataclasses.field(
    default=None, metadata=dict(static=True)
  )
  # The attacker's own bottom model, exactly the training-mode pass behind its
  # view: (variables, x [B, F], key) -> h [B, D].
  bottom: Optional[Callable] = dataclasses.field(
    default=None, metadata=dict(static=True)
  )
  # Input shape of the model, one example; known with `apply`.
  shape: Optional[tuple] = dataclasses.field(
    default=None, metadata=dict(static=True)
  )
  # Images: black and white in the model's input space, 2 x [C] or [1].
  box: Optional[tuple] = None
  x: Optional[chex.Array] = None  # [M, ...] auxiliary examples
  y: Optional[chex.Array] = None  # [M, K] their labels, where granted
  step: Optional[chex.Array] = None  # [] training step of the view, from 0
  # The attacker's own party, which it can train, and its own rows without
  # labels: index [n] -> x [n, ...] on the host, for index below `held`.
  party: Optional[Party] = dataclasses.field(
    default=None, metadata=dict(static=True)
  )
  pool: Optional[Callable] = dataclasses.field(
    default=None, metadata=dict(static=True)
  )
  held: Optional[int] = dataclasses.field(
    default=None, metadata=dict(static=True)
  )


def _absent(*args, **kwargs):
  raise InputError('this attack has no such part; see its docstring.')


class Reconstruction(NamedTuple):
  """Inputs that an attack made up, and why it chose them."""

  x: chex.Array  # [B, ...] in the model's input space
  labels: chex.Array  # [B] int, one for each of x
  objective: chex.Array  # [] what the attack minimised, at x


class Attack(NamedTuple):
  """Pure functions; an attack fills in what it needs.

  An attacker that does not follow the protocol sends another embedding than its
  own (`send`), or changes the message that it receives (`tamper`, extra
  arguments `key= index= mask= epoch= notes=`, its embedding as `params`). What
  is sealed can be changed in an affine way alone: ciphertexts can be copied,
  scaled and added to.
  """

  # (key, view, known) -> counts [K] | scores [B, K] | Reconstruction
  infer: Callable = _absent
  # (key, view, known, callback) -> predict: x [n, ...] -> scores [n, K]. Trains
  # on the host; callback(epoch, predict) after each epoch, from 1.
  fit: Optional[Callable] = None
  check: Callable = lambda known: None  # raises what would make `fit` fail
  # Replaces the attacker's own: keywords name, learning_rate, hyper -> tx.
  optimizer: Optional[Callable] = None
  # (key, h [B, D], *, mask [B], notes) -> h [B, D], what is sent instead
  send: Optional[Callable] = None
  tamper: Optional[optax.GradientTransformation] = None  # on the cut [B, D]


def jit_once(function: Callable) -> Callable:
  """`jax.jit` for what runs once, such as drawing a model's variables.

  XLA:CPU unrolls every draw of random numbers and compiles for minutes what
  runs for milliseconds. Without LLVM's optimisations that takes seconds; values
  agree with those of `jax.jit` up to rounding. While it is traced itself, it is
  `jax.jit`.
  """
  plain = jax.jit(function)
  options = {'xla_backend_optimization_level': 0}
  hasty = jax.jit(function, compiler_options=options)  # at top level only

  def run(*args):
    leaves = jax.tree.leaves(args)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    return (plain if traced else hasty)(*args)

  return run
