"""What a party observes of a step, and what it is granted beside."""

from typing import ClassVar, NamedTuple, Optional

import chex
from flax import struct

from labelleak import contract
from labelleak.base import Bottom, Labelled, Party, Pool, static


class View(NamedTuple):
  """All that one party observes of a step.

  Attributes:
    x: [B, F] its features.
    h: [B, D] its embedding as it was sent.
    variables: of this very forward pass.
    key: of this very forward pass.
    param_grads: like variables['params'], of the mean loss.
    cut_grads: [B, D] of the mean loss; None where the link is sealed.
    index: [B] rows of the data set, which all parties share, -1 for padding;
      None where no batch is observed.
    updates: like variables['params'], what an arbiter returned in the place of
      `param_grads`, which is None then.
  """

  x: chex.Array
  h: chex.Array
  variables: chex.ArrayTree
  key: chex.PRNGKey
  param_grads: Optional[chex.ArrayTree]
  cut_grads: Optional[chex.Array]
  index: Optional[chex.Array] = None
  updates: Optional[chex.ArrayTree] = None

  kind = 'vertical'  # of FL; no field

  def check(
    self, name: str, known: 'Known'
  ) -> tuple['View', Optional[chex.Array]]:
    """Returns the view in float32, and [] whether it is finite; None is yes.

    Args:
      name: of the attack.
      known: what it is granted.

    Raises:
      InputError: another number of rows than B, gradients of another shape than
        what they are of, entries that are not finite (where there are values).
    """
    for field in ('x', 'h', 'cut_grads', 'index'):
      shape = (known.batch_size, -1)
      contract.check_axes(name, field, getattr(self, field), shape)
    if self.cut_grads is not None and self.h is not None:
      contract.check_axes(name, 'cut_grads', self.cut_grads, self.h.shape)
    contract.check_labelled(name, known)
    if self.variables and 'params' in self.variables:
      params = self.variables['params']
      contract.check_like(name, 'param_grads', self.param_grads, params)
    fields = 'h', 'cut_grads', 'param_grads', 'updates'
    seen = {field: getattr(self, field) for field in fields}
    contract.check_floats(name, seen)
    view = self._replace(**contract.widen(seen))
    if contract.is_traced(seen):
      return view, contract.all_finite(seen)
    contract.check_finite(name, seen)
    return view, None


@struct.dataclass
class Known:
  """All that a party's attack is granted beside its view.

  Sizes and functions are static, arrays are leaves, so a `Known` passes through
  jit and vmap. A field that is None was not granted.

  Attributes:
    num_classes: K.
    batch_size: B.
    bottom: the attacker's own bottom model, exactly the training-mode pass
      behind its view: (variables, x [B, F], key) -> h [B, D].
    step: [] training step of the view, from 0.
    labelled: examples of the attacker's own, with labels.
    party: the attacker's own party, which it can train.
    pool: the attacker's own rows without labels.
    num_rows: N of the data set, for attacks that name rows over a training.
    labels: [N, K] of the pool's first rows, for upper bounds alone: no attack.
    loss: name of the active party's loss, such as 'taylor'.
    defense: what is done to cut gradients, pairs of a transform's name and its
      strength, such as (('laplace', 0.01),); () is nothing.
  """

  num_classes: int = static()
  batch_size: int = static()
  bottom: Optional[Bottom] = static(default=None)
  step: Optional[chex.Array] = None
  labelled: Optional[Labelled] = None
  party: Optional[Party] = static(default=None)
  pool: Optional[Pool] = None
  num_rows: Optional[int] = static(default=None)
  labels: Optional[chex.Array] = None
  loss: Optional[str] = static(default=None)
  defense: Optional[tuple[tuple[str, float], ...]] = static(default=None)

  kind: ClassVar[str] = 'vertical'  # of FL

  def __post_init__(self):
    """Refuses sizes and strengths that mean nothing."""
    sizes = dict(num_classes=2, batch_size=1)
    if self.num_rows is not None:
      sizes['num_rows'] = 1
    numbers = contract.whole_fields(self, sizes)
    if self.defense is not None:
      numbers['defense'] = contract.strengths(self.defense)
    for field, value in numbers.items():
      object.__setattr__(self, field, value)

  def check_answer(self, name: str, answer: chex.Array) -> None:
    """Refuses an answer that is not scores, [B, K] or of all rows [N, K]."""
    shapes = [(self.batch_size, self.num_classes)]
    if self.num_rows is not None:
      shapes.append((self.num_rows, self.num_classes))
    contract.check_shape(name, answer, shapes, 'scores')
