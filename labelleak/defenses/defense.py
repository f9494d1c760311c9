"""The type of a defense.

A defense acts where a client or the active party can: on what it sends, on the
labels that it trains on, on its loss, or in its model. One type holds all four,
so that a config lists them side by side and `defenses.chain` composes them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Optional

import chex
from flax import linen as nn
import optax

from labelleak.defenses.strengths import Strength

# (key, labels y [B, K], one-hot or soft) -> fake labels [B, K]
Encode = Callable[[chex.PRNGKey, chex.Array], chex.Array]
# probabilities of fake labels [B, K] -> those of the classes [B, K]
Decode = Callable[[chex.Array], chex.Array]
# (hs, y [B, K], mask [B]) -> a term of the active party's loss []; hs are the
# embeddings P x [B, D], the active party's last, y what the loss is formed with
Penalty = Callable[[Sequence[chex.Array], chex.Array, chex.Array], chex.Array]


class LabelCode(NamedTuple):
  """Fake labels and back, each row by itself; the default is the identity.

  Attributes:
    encode: makes what enters the loss in the place of the labels.
    decode: turns the model's probabilities back.
  """

  encode: Encode = lambda key, y: y
  decode: Decode = lambda p: p


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
