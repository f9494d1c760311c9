"""The glossary: letters, and the types that cross modules.

Letters, used in every docstring of this package:

  B batch size            K classes              D cut width
  F features of a party   H head input width     C clients
  P parties               S local steps          T trials
  N data set size         M examples that the attacker has labels for

Two types carry the threat model, for each of horizontal and vertical FL. A
`View` (`hfl.View`, `vfl.View`) is all that an attack observes; a `Known`
(`hfl.Known`, `vfl.Known`) is all that it is granted beside. What travels
together is one grant: `Model`, `Labelled`, `Pool`. Neither holds the victim's
labels: truth goes straight from the data to the metrics. (`Known.labels` is for
upper bounds, which are no attacks and say that they need it.)
"""

from collections.abc import Callable, Collection, Sequence
import dataclasses
import functools
from typing import (
  Any,
  NamedTuple,
  Optional,
  Protocol,
)

import chex
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

Memory = Any  # a pytree, whatever an attack keeps; None before the first view
View = Any  # `hfl.View` or `vfl.View`
Known = Any  # `hfl.Known` or `vfl.Known`


class InputError(ValueError):
  """Bad input. The message is one line: the value, the rule, the remedy."""

  def __init__(self, message: str):
    super().__init__(r'\n'.join(message.splitlines()))  # values bring their own


class Batch(NamedTuple):
  """One client's (HFL) or one step's (VFL) examples.

  `hfl.observe` does without `index` and `mask`.

  Attributes:
    xs: P x [B, F_p]; horizontal FL has one party.
    y: [B, K] one-hot or soft labels.
    index: [B] rows of the data set.
    mask: [B] 0 for padding, 1 for an example; None: nothing is padding.
    notes: what attackers hold of these rows, for their `Tampering` alone.
  """

  xs: tuple[chex.Array, ...]
  y: chex.Array
  index: Optional[chex.Array] = None
  mask: Optional[chex.Array] = None
  notes: Optional[chex.ArrayTree] = None


# (variables, x [M, ...]) -> logits [M, K]
Apply = Callable[[chex.ArrayTree, chex.Array], chex.Array]
# A party's own training-mode pass: (variables, x [B, F], key) -> h [B, D]
Bottom = Callable[[chex.ArrayTree, chex.Array, chex.PRNGKey], chex.Array]
# On the host: index [n] -> x [n, ...]
Take = Callable[[chex.Array], chex.Array]
# x [n, ...] -> scores [n, K]
Predict = Callable[[chex.Array], chex.Array]
# (key, x [B, F]) -> variables {'params', 'batch_stats', ...}
InitVariables = Callable[[chex.PRNGKey, chex.Array], chex.ArrayTree]


class Forward(Protocol):
  """A party's pass in training or evaluation mode."""

  def __call__(
    self,
    variables: chex.ArrayTree,
    x: chex.Array,
    *,
    train: bool,
    key: Optional[chex.PRNGKey],
  ) -> tuple[chex.Array, chex.ArrayTree]:
    """Returns h [B, D] of x [B, F], and the variables with new statistics."""


class Party(NamedTuple):
  """One participant's model in vertical FL: pure functions and an optimizer.

  Attributes:
    init: (key, x [B, F]) -> variables.
    apply: (variables, x [B, F], *, train, key) -> (h [B, D], variables).
    tx: on variables['params'].
  """

  init: InitVariables
  apply: Forward
  tx: optax.GradientTransformation


class Revealed(NamedTuple):
  """What an aggregator lets its receiver see."""

  result: chex.ArrayTree  # what the receiver may use
  message: Optional[chex.ArrayTree]  # what it could read; None when sealed


# A field of a `struct.dataclass` that is no leaf of it.
static = functools.partial(struct.field, pytree_node=False)


@struct.dataclass
class Model:
  """A grant: the model's forward pass.

  Attributes:
    apply: (variables, x [M, ...]) -> logits [M, K].
    shape: of one example.
    pixel_range: of images, black and white in the model's input space, 2 x [C]
      or 2 x [1]; None of other examples.
  """

  apply: Apply = static()
  shape: tuple[int, ...] = static()
  pixel_range: Optional[tuple[chex.Array, chex.Array]] = None


class Labelled(NamedTuple):
  """A grant: examples of the attacker's own, with labels.

  Attributes:
    x: [M, ...] examples.
    y: [M, K] their labels.
  """

  x: chex.Array
  y: chex.Array


@struct.dataclass
class Pool:
  """A grant: the attacker's own rows without labels, on the host.

  Attributes:
    take: index [n] -> x [n, ...], for index below `size`.
    size: how many rows there are.
  """

  take: Take = static()
  size: int = static()

  def all(self) -> chex.Array:
    """Returns all rows, flat, [size, F]."""
    return np.asarray(self.take(np.arange(self.size))).reshape(self.size, -1)


class Reconstruction(NamedTuple):
  """Inputs that an attack made up, and why it chose them.

  Attributes:
    x: [B, ...] in the model's input space.
    labels: [B] int, one for each of x.
    objective: [] what the attack minimised, at x.
  """

  x: chex.Array
  labels: chex.Array
  objective: chex.Array


# Counts [K], scores [B, K] or images
Answer = chex.Array | Reconstruction
# (key, memory, known) -> answer
Infer = Callable[[chex.PRNGKey, Memory, Known], Answer]
# (memory, view) -> memory
Observe = Callable[[Memory, View], Memory]
# known -> memory before the first view
InitMemory = Callable[[Known], Memory]


def keep_last(memory: Memory, view: View) -> View:
  """Returns the view: an attack of an instant remembers nothing else."""
  del memory
  return view


def no_memory(known: Known) -> None:
  """Returns None: nothing is remembered before the first view."""
  del known


class Attack(NamedTuple):
  """An inference from what was observed: pure functions; see `attack`.

  An attack of an instant keeps the last view: its memory is the view, so that
  `infer(key, view, known)` is all that there is to it.

  Attributes:
    infer: (key, memory, known) -> counts [K], scores [B, K] or a
      `Reconstruction`.
    observe: (memory, view) -> memory.
    init: (known) -> memory.
    needs: fields of `Known` that it cannot do without.
    kind: of FL that it is for, 'horizontal' or 'vertical'; None: not said.
    below_tops: of an attack over time, whether it reads cut gradients below any
      top model, and not those of logits that are added alone.
  """

  infer: Infer
  observe: Observe = keep_last
  init: InitMemory = no_memory
  needs: tuple[str, ...] = ()
  kind: Optional[str] = None
  below_tops: bool = False


# (epoch, from 1; what predicts after it) -> None
Callback = Callable[[int, Predict], None]
# (key, view, known, callback) -> predict
Fit = Callable[[chex.PRNGKey, View, Known, Callback], Predict]
# (known) -> None; raises what would make `fit` fail
Check = Callable[[Known], None]


class MakeOptimizer(Protocol):
  """What makes a malicious optimizer in the place of a party's own."""

  def __call__(
    self, *, name: str, learning_rate: optax.ScalarOrSchedule, **hyper: Any
  ) -> optax.GradientTransformation:
    """Returns the malicious form of optax's `name`, with its arguments."""


class Completion(NamedTuple):
  """An attack that trains on the host: model completion; see `completion`.

  Attributes:
    fit: (key, view, known, callback) -> predict: x [n, ...] -> scores [n, K].
    check: (known) -> None; raises what would make `fit` fail.
    optimizer: makes what replaces the party's own optimizer in the joint
      training; None keeps that.
    needs: fields of `Known` that it cannot do without.
  """

  fit: Fit
  check: Check
  optimizer: Optional[MakeOptimizer] = None
  needs: tuple[str, ...] = ()


class Send(Protocol):
  """What a party sends in the place of its embedding."""

  def __call__(
    self,
    key: chex.PRNGKey,
    h: chex.Array,
    *,
    mask: chex.Array,
    notes: Optional[chex.ArrayTree],
  ) -> chex.Array:
    """Returns what is sent for h [B, D], mask [B] and `Batch.notes`; [B, D]."""


class Tampering(NamedTuple):
  """A party that does not follow the protocol; it infers nothing.

  It sends another embedding than its own, or changes the message that it
  receives. What is sealed can be changed in an affine way alone: ciphertexts
  can be copied, scaled and added to.

  Attributes:
    send: (key, h [B, D], *, mask [B], notes) -> h [B, D].
    tamper: on the cut [B, D], with extra arguments `key= index= mask= epoch=
      notes=` and the party's embedding as `params`.
  """

  send: Optional[Send] = None
  tamper: Optional[optax.GradientTransformation] = None


def attack(
  infer: Infer,
  *,
  name: str,
  kind: Optional[str] = None,
  needs: Sequence[str] = (),
  observe: Observe = keep_last,
  init: InitMemory = no_memory,
) -> Attack:
  """Returns an attack that refuses what it cannot infer from.

  That is a grant that it lacks, a view of other shapes than `Known` says, and a
  view with entries that are not finite. The last is known to an array alone, so
  that under a trace the answer says it: counts of -1, scores of NaN. It also
  refuses to answer in another form than the threat model asks for.

  Args:
    infer, kind, needs, observe, init: the fields of `Attack`.
    name: as in a config, such as 'counts.llbg'.
  """

  def infer_checked(key, memory, known):
    check_kind(name, kind, known.kind)
    check_needs(name, needs, list_grants(known))
    finite = None
    if hasattr(memory, 'check'):  # a view, which knows what fits it
      check_kind('this view', getattr(memory, 'kind', None), known.kind)
      memory, finite = memory.check(name, known)
    answer = infer(key, memory, known)
    known.check_answer(name, answer)
    return answer if finite is None else blank(answer, finite)

  return Attack(infer_checked, observe, init, tuple(needs), kind)


def completion(
  fit: Fit,
  *,
  name: str,
  needs: Sequence[str],
  check: Check,
  optimizer: Optional[MakeOptimizer] = None,
) -> Completion:
  """Returns a completion that refuses to fit without what it needs.

  Args:
    fit, needs, check, optimizer: the fields of `Completion`; `check` is called
      where nothing is missing.
    name: as in a config, such as 'completion.passive'.
  """

  def fit_checked(key, view, known, callback):
    check_needs(name, needs, list_grants(known))
    return fit(key, view, known, callback)

  def check_all(known):
    check_needs(name, needs, list_grants(known))
    check(known)

  return Completion(fit_checked, check_all, optimizer, tuple(needs))


def list_grants(known: Known) -> tuple[str, ...]:
  """Returns the fields of an `hfl.Known` or `vfl.Known` that are not None."""
  fields = (field.name for field in dataclasses.fields(known))
  return tuple(f for f in fields if getattr(known, f) is not None)


def check_kind(name: str, kind: Optional[str], here: str) -> None:
  """Refuses an attack of the other kind of FL.

  Args:
    name: of the attack, as in a config.
    kind: of FL that it is for; None: it does not say.
    here: the kind of what it is to run on.

  Raises:
    InputError: they differ.
  """
  if kind and kind != here:
    raise InputError(
      f'{name} is for {kind} FL, and this is {here}; use one of {here} FL.'
    )


def check_needs(
  name: str, needs: Sequence[str], granted: Collection[str]
) -> None:
  """Refuses to run an attack without what it needs.

  Args:
    name: of the attack, as in a config.
    needs: fields of `Known`.
    granted: fields of `Known` that it has.

  Raises:
    InputError: a field was not granted.
  """
  for field in needs:
    if field not in granted:
      raise InputError(
        f'{name} needs {field!r}, which is not granted; add it to known.'
      )


def blank(answer: Any, finite: chex.Array) -> Any:
  """Returns an answer, -1 and NaN all over where its view was not finite."""

  def mask(leaf):
    floats = jnp.issubdtype(leaf.dtype, jnp.inexact)
    return jnp.where(finite, leaf, jnp.array(jnp.nan if floats else -1))

  return jax.tree.map(mask, answer)


def named_leaves(tree: chex.ArrayTree) -> dict[str, chex.Array]:
  """Returns the leaves of a pytree by their paths, joined by '/'."""
  name = functools.partial(jax.tree_util.keystr, simple=True, separator='/')
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  # Variables of Flax's nnx are nodes around their value.
  return {name(path).removesuffix('/value'): leaf for path, leaf in leaves}
