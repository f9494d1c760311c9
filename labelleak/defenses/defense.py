"""The type of a defense.

A defense acts where a client or the active party can: on what it sends, on the
labels that it trains on, on its loss, or in its model. One type holds all four,
so that a config lists them side by side and `defenses.chain` composes them.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional, Protocol

import chex
from flax import linen as nn
import optax

from labelleak.defenses.strengths import Strength


class Encode(Protocol):
  """What makes fake labels, each row by itself."""

  def __call__(self, key: chex.PRNGKey, y: chex.Array) -> chex.Array:
    """Encodes labels y [B, K], one-hot or soft, as others [B, K]."""


class Decode(Protocol):
  """What undoes fake labels, each row by itself."""

  def __call__(self, p: chex.Array) -> chex.Array:
    """Turns probabilities of fake labels [B, K] into those of the classes."""


class LabelCode(NamedTuple):
  """Fake labels and back, pure functions; the default is the identity.

  Attributes:
    encode: makes what enters the loss in the place of the labels.
    decode: turns the model's probabilities back.
  """

  encode: Encode = lambda key, y: y
  decode: Decode = lambda p: p


class Penalty(Protocol):
  """A term of the active party's loss."""

  def __call__(
    self, hs: Sequence[chex.Array], y: chex.Array, mask: chex.Array
  ) -> chex.Array:
    """Returns the term [].

    Args:
      hs: embeddings of all parties, P x [B, D], the active one last.
      y: labels [B, K] that the loss is formed with.
      mask: [B].
    """


class Defense(NamedTuple):
  """What one or several defenses do; what is None does nothing.

  Attributes:
    gradient: acts on ONE unit that is about to be sent: the pytree of updates
      of one client in horizontal FL, the cut gradient [B, D] of one batch on
      one party's link in vertical FL. vmap over clients and trials. Randomness
      comes from the extra argument `key=`, so that every unit draws its own;
      what is remembered lives in the state. See `extra_args` for the others.
    labels: code of the labels that enter the loss; vertical FL.
    penalty: what the active party adds to its loss; vertical FL.
    top: model in the place of the sum of embeddings; vertical FL.
    strengths: of `gradient`, transform by transform, as an attacker who knows
      the defense is told them. None: nothing can be told, as of a transform of
      another package; that is not to say that nothing is done.
  """

  gradient: Optional[optax.GradientTransformationExtraArgs] = None
  labels: Optional[LabelCode] = None
  penalty: Optional[Penalty] = None
  top: Optional[nn.Module] = None
  strengths: Optional[tuple[Strength, ...]] = None


def transform(
  gradient: optax.GradientTransformationExtraArgs, kind: str, value: float
) -> Defense:
  """Makes a defense of a transform whose strength is one number."""
  return Defense(gradient=gradient, strengths=(Strength(kind, value),))
