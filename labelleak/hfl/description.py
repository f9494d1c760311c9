"""How a client trains, in the words of those who run it."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, Optional

from flax.core import FrozenDict, freeze
import jax
import jax.numpy as jnp
import optax

from labelleak import annotation, optimizers, validate
from labelleak.base import InputError

LOSSES = 'softmax', 'sigmoid'
REDUCTIONS = 'mean', 'sum'


@dataclasses.dataclass(frozen=True)
class Client:
  """How a client trains: plain data; a simulator runs it, an attack reads it.

  By default it takes one step of SGD on the mean softmax cross entropy of all
  its examples, in evaluation mode. What it sends is (server - local) / lr.

    >>> Client(lr=0.01, batch_size=32, optimizer=dict(name='sgd', momentum=0.9))
    Client(lr=0.01, batch_size=32, optimizer=sgd(momentum=0.9))

  Attributes:
    lr: local learning rate. None: not told, for attacks alone.
    batch_size: b, examples of a local step; the last step of an epoch takes the
      rest, as a DataLoader does. None: all examples.
    epochs: E.
    shuffle: whether every epoch draws another order.
    drop_last: whether a rest of less than b examples is left out.
    poisson: whether a step draws each example with rate b / B, as Opacus does.
    optimizer: of optax, by name, with its arguments.
    loss: 'softmax' cross entropy, or 'sigmoid', one a class.
    reduction: 'mean' over the examples of a step (over their classes, too,
      under 'sigmoid'; weighted by `class_weights`, as torch does), or 'sum'.
    label_smoothing: the share of a label that all K classes get alike.
    class_weights: K, of the loss; None: all 1.
    proximal: mu of FedProx.
    clip_per_example: largest norm of an example's gradient, DP-SGD's C.
    noise_multiplier: sigma: noise of deviation sigma * C on the clipped sum.
    expected_batch_size: what 'mean' divides the clipped sum by, as Opacus does;
      None: `batch_size`.
    training_mode: whether batch norm takes the statistics of the step, and
      dropout drops.
  """

  lr: Optional[float] = None
  batch_size: Optional[int] = None
  epochs: int = 1
  shuffle: bool = False
  drop_last: bool = False
  poisson: bool = False
  optimizer: Mapping[str, Any] = FrozenDict(name='sgd')
  loss: str = 'softmax'
  reduction: str = 'mean'
  label_smoothing: float = 0.0
  class_weights: Optional[tuple[float, ...]] = None
  proximal: float = 0.0
  clip_per_example: Optional[float] = None
  noise_multiplier: float = 0.0
  expected_batch_size: Optional[int] = None
  training_mode: bool = False

  def __post_init__(self):
    """Refuses what no client does, before it is run or attacked."""
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      annotation.check(f'Client: {field.name}', value, field.type)
    if self.lr is not None:
      validate.within('Client: lr', self.lr, '(0, inf)')
    if self.batch_size is not None:
      validate.whole('Client: batch_size', self.batch_size, 1)
    validate.whole('Client: epochs', self.epochs, 1)
    validate.one_of('Client: loss', self.loss, LOSSES)
    validate.one_of('Client: reduction', self.reduction, REDUCTIONS)
    validate.within('Client: label_smoothing', self.label_smoothing, '[0, 1)')
    for weight in self.class_weights or ():
      validate.within('Client: class_weights', weight, '(0, inf)')
    validate.within('Client: proximal', self.proximal, '[0, inf)')
    if self.clip_per_example is not None:
      validate.positive('Client: clip_per_example', self.clip_per_example)
    validate.within(
      'Client: noise_multiplier', self.noise_multiplier, '[0, inf)'
    )
    self._check_combinations()
    if 'name' not in self.optimizer:
      raise InputError(
        f'Client: optimizer={dict(self.optimizer)} lacks a name, such as'
        " {'name': 'sgd', 'momentum': 0.9}."
      )
    object.__setattr__(self, 'optimizer', freeze(dict(self.optimizer)))
    self._check_optimizer()

  def _check_combinations(self):
    """Refuses two fields that no client has together."""
    if self.expected_batch_size and self.clip_per_example is None:
      raise InputError(
        f'Client: expected_batch_size={self.expected_batch_size} is of clipped'
        ' examples; add clip_per_example, or use batch_size.'
      )
    if self.noise_multiplier and self.clip_per_example is None:
      raise InputError(
        f'Client: noise_multiplier={self.noise_multiplier} is in units of'
        ' clip_per_example, which is missing; add it.'
      )
    if self.poisson and (self.batch_size is None or self.drop_last):
      raise InputError(
        'Client: poisson=True draws about batch_size examples a step, of which'
        ' none is dropped; add batch_size, and leave drop_last out.'
      )
    if self.clip_per_example is not None and self.training_mode:
      raise InputError(
        'Client: clip_per_example and training_mode=True exclude each other,'
        ' because batch norm mixes examples; leave one of them out.'
      )
    if self.loss == 'sigmoid' and self.label_smoothing:
      raise InputError(
        'Client: label_smoothing is of the softmax loss; leave it out, or use'
        " loss='softmax'."
      )

  def _check_optimizer(self):
    """Refuses an optimizer that needs more than gradients, or is none."""
    tx = self.make_optimizer(1.0)
    entries = jnp.zeros(2)
    run = lambda: tx.update(entries, tx.init(entries), entries)
    try:
      jax.eval_shape(run)
    except (TypeError, ValueError) as e:
      raise InputError(
        f'Client: optimizer {self.optimizer["name"]} cannot step by a gradient'
        ' alone; use one that can, such as sgd or adam.'
      ) from e

  def make_optimizer(self, lr: float) -> optax.GradientTransformation:
    """Returns the optimizer at a learning rate."""
    return optimizers.optimizer(lr=lr, **self.optimizer)

  def step_sizes(self, num: int) -> tuple[int, ...]:
    """Returns how many of `num` examples each local step takes, of all epochs.

    >>> Client(batch_size=32, epochs=2).step_sizes(33)
    (32, 1, 32, 1)

    Raises:
      InputError: `drop_last` leaves none.
    """
    size = min(self.batch_size or num, num)
    if self.poisson:  # in the mean
      steps = math.ceil(num / size)
      return (size,) * steps * self.epochs
    full, rest = divmod(num, size)
    if self.drop_last and self.batch_size and self.batch_size > num:
      raise InputError(
        f'Client: drop_last=True with batch_size={self.batch_size} leaves none'
        f' of {num} examples; use a smaller batch_size.'
      )
    sizes = (size,) * full + (() if self.drop_last or not rest else (rest,))
    return sizes * self.epochs

  def divisor(self, num: int) -> int:
    """Returns what a clipped sum of `num` examples is divided by."""
    return self.expected_batch_size or self.batch_size or num

  def __repr__(self):
    """Shows what differs from one step of SGD."""
    shown = []
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value != field.default:
        text = _describe(value) if field.name == 'optimizer' else repr(value)
        shown.append(f'{field.name}={text}')
    return f'Client({", ".join(shown)})'


def _describe(optimizer):
  """Returns a spec in one line, in the order in which it was written."""
  listed = ', '.join(f'{k}={v!r}' for k, v in optimizer.items() if k != 'name')
  return f'{optimizer["name"]}({listed})' if listed else optimizer['name']
