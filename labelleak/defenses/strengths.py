"""What an attacker who knows the defenses is told: how strong each is."""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np

_NOISE = ('gaussian', 'laplace')  # kinds that add in quadrature


class Strength(NamedTuple):
  """How strong a transform is, as far as one number says it.

  Attributes:
    kind: of the transform, such as 'clip' or 'gaussian'.
    value: in the unit of the constructor's argument.
  """

  kind: str
  value: float


def view_strengths(
  step: Optional[Sequence[Strength]],
  update: Optional[Sequence[Strength]],
  *,
  steps: int,
  queries: int = 1,
) -> Optional[tuple[Strength, ...]]:
  """Says what a server's view shows of a client's defenses, for `Known`.

  Noise is that of a local step which leaves as much on the view: noise on the
  update of S steps counts 1 / sqrt(S), averaging Q queries takes 1 / sqrt(Q),
  and several noises of one kind add in quadrature.

  >>> view_strengths((), (Strength('gaussian', 0.5),), steps=4)
  (Strength(kind='gaussian', value=0.25),)

  Args:
    step: of what acts on the gradient of every local step; None: unknown.
    update: of what acts on the update; None: unknown.
    steps: S.
    queries: Q.

  Returns:
    one strength of each kind; None where one of the two is unknown.
  """
  if step is None or update is None:
    return None
  values = {}
  for strengths, averaged in ((step, 1), (update, steps)):
    for kind, value in strengths:
      if kind in _NOISE:
        value /= (averaged * queries) ** 0.5
        value = float(np.hypot(value, values.get(kind, 0.0)))
      values[kind] = value
  return tuple(Strength(kind, value) for kind, value in values.items())
