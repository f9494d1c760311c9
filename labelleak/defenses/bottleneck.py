"""MID: a variational bottleneck between the passive parties and the sum."""

from labelleak.defenses.defense import Defense
from labelleak.models import bottleneck


def mid(
  *,
  num_classes: int,
  weight: float,
  scale: int = 1,
  shift: float = 5.0,
  sampled: bool = False,
) -> Defense:
  """Adds logits, those of passive parties through `models.bottleneck.mid`."""
  top = bottleneck.mid(
    num_classes=num_classes,
    weight=weight,
    scale=scale,
    shift=shift,
    sampled=sampled,
  )
  return Defense(top=top)
