"""What the server sees of a round, and what an attack is granted."""

import dataclasses
from typing import ClassVar, NamedTuple, Optional

import chex
from flax import struct
import jax.numpy as jnp

from labelleak import base, contract, validate
from labelleak.base import (
  InputError,
  Labelled,
  Model,
  Reconstruction,
  static,
)
from labelleak.hfl.description import Client

# What libraries call a linear layer's leaves; only 'weight' is [K, H].
_KERNELS = 'kernel', 'w', 'weight'
_BIASES = 'bias', 'b'
_NOISES = 'gaussian', 'laplace'  # defenses that are new in every round


class View(NamedTuple):
  """All that the server (or an eavesdropper) observes of a round.

  Attributes:
    grads: like variables['params']: the gradient, or the update / lr.
    variables: what the server sent.
  """

  grads: chex.ArrayTree
  variables: Optional[chex.ArrayTree] = None

  kind = 'horizontal'  # of FL; no field

  def check(
    self, name: str, known: 'Known'
  ) -> tuple['View', Optional[chex.Array]]:
    """Returns the view in float32, and [] whether it is finite.

    None stands for yes: where there are values, others are refused by name. A
    trace looks at the classifier alone, so as not to ask for more gradients
    than an attack does.

    Args:
      name: of the attack.
      known: what it is granted.

    Raises:
      InputError: a classifier that is not of K classes, gradients of another
        model than `variables`, entries that are not finite, or a `known` of
        several rounds of other examples.
    """
    if known.shifting:
      raise InputError(
        f'{name} reads one round, and its Known counts the labels of'
        f' rounds={known.rounds} together; use over_time.mean_update of it.'
      )
    leaves = base.named_leaves(self.grads)
    kernel, bias = _linear_leaves(leaves)
    head = kernel if bias is None else bias
    parts = dict(kernel=kernel, bias=bias)
    contract.check_floats(
      name, {k: v for k, v in parts.items() if v is not None}
    )
    contract.check_axes(name, 'grads: bias', bias, (known.num_classes,))
    if kernel is not None:
      shape = jnp.shape(kernel)[0], known.num_classes
      contract.check_axes(name, 'grads: kernel', kernel, shape)
    contract.check_labelled(name, known)
    if self.variables and 'params' in self.variables:
      params = self.variables['params']
      bare = not any('/' in leaf for leaf in leaves)  # the classifier's alone
      like = params['head'] if bare and 'head' in params else params
      contract.check_like(name, 'grads', self.grads, like)
    view = self._replace(grads=contract.widen(self.grads))
    if contract.is_traced(self):
      return view, contract.all_finite(self.grads if head is None else head)
    contract.check_finite(name, self._asdict())
    return view, None


@struct.dataclass
class Known:
  """All that an attack on a round is granted beside its view.

  Sizes and functions are static, arrays are leaves, so a `Known` passes through
  jit and vmap. A field that is None was not granted.

  Attributes:
    num_classes: K.
    batch_size: B, of a client. Of clients of unequal sizes their sum is
      known, with clients=1: the server weights them by their sizes.
    steps: S.
    clients: C.
    rounds: R, whose mean is attacked (`over_time.mean_update`).
    shifting: whether every round is of other examples, whose labels are then
      counted together.
    lr: local learning rate behind an update.
    client: how each client trains; says `steps` and `lr`, too.
    defense: exactly what is done, pairs of a transform's name and its
      strength, such as (('clip', 0.1), ('gaussian', 0.01)); () is nothing.
    model: the forward pass behind `View.variables`.
    labelled: examples of the attacker's own, with labels.
    unlabelled: [M, ...] examples of its own without; `labelled` goes before.
    labels: [N, K] of the round itself, for upper bounds alone: no attack.
  """

  num_classes: int = static()
  batch_size: int = static()
  steps: int = static(default=1)
  clients: int = static(default=1)
  rounds: int = static(default=1)
  shifting: bool = static(default=False)
  lr: Optional[float] = static(default=None)
  client: Optional[Client] = static(default=None)
  defense: Optional[tuple[tuple[str, float], ...]] = static(default=None)
  model: Optional[Model] = None
  labelled: Optional[Labelled] = None
  unlabelled: Optional[chex.Array] = None
  labels: Optional[chex.Array] = None

  kind: ClassVar[str] = 'horizontal'  # of FL

  def __post_init__(self):
    """Refuses sizes and strengths that mean nothing, before they are used."""
    sizes = dict(num_classes=2, batch_size=1, steps=1, clients=1, rounds=1)
    numbers = contract.whole_fields(self, sizes)
    validate.one_of('Known: shifting', self.shifting, (False, True))
    if self.lr is not None:
      numbers['lr'] = contract.plain_number(self.lr)
      validate.within('Known: lr', numbers['lr'], '(0, inf)')
    if self.defense is not None:
      numbers['defense'] = contract.strengths(self.defense)
    if self.client is not None:
      numbers |= _of_client(self.client, numbers)
    for field, value in numbers.items():
      object.__setattr__(self, field, value)

  def of_mean(self) -> 'Known':
    """Returns what is known of the mean of R rounds, as that of one.

    Of other examples each, they are as one of R times as many clients; of the
    same examples, their noise is less by sqrt(R).
    """
    one = dataclasses.replace(self, rounds=1, shifting=False)
    if self.shifting:
      return dataclasses.replace(one, clients=self.clients * self.rounds)
    quieter = self.rounds**-0.5
    if self.client:
      noise = self.client.noise_multiplier * quieter
      client = dataclasses.replace(self.client, noise_multiplier=noise)
      one = dataclasses.replace(one, client=client)
    if self.defense:
      defense = tuple(
        (k, v * quieter if k in _NOISES else v) for k, v in self.defense
      )
      one = dataclasses.replace(one, defense=defense)
    return one

  def check_answer(
    self, name: str, answer: chex.Array | Reconstruction
  ) -> None:
    """Refuses an answer that is neither counts [K] nor a `Reconstruction`."""
    shapes = [(self.num_classes,)]
    if isinstance(answer, Reconstruction):
      shapes = [(self.num_examples,)]
    contract.check_shape(name, answer, shapes, 'counts')

  @property
  def num_examples(self) -> int:
    """Examples that are counted: C * B, of each round where they shift."""
    rounds = self.rounds if self.shifting else 1
    return rounds * self.clients * self.batch_size


def _of_client(client, numbers):
  """Returns steps and learning rate of a client, if not contradicted."""
  if not isinstance(client, Client):
    raise InputError(
      f'Known: client={client!r} must be an hfl.Client; describe it so.'
    )
  steps = len(client.step_sizes(numbers['batch_size']))
  if numbers['steps'] not in (1, steps):
    raise InputError(
      f'Known: steps={numbers["steps"]} contradicts its client, who takes'
      f' {steps} for {numbers["batch_size"]} examples; leave steps out.'
    )
  lr = numbers.get('lr', client.lr)
  if client.lr is not None and lr != client.lr:
    raise InputError(
      f'Known: lr={lr} contradicts its client, whose lr is {client.lr}; leave'
      ' one of them out.'
    )
  return dict(steps=steps, lr=lr)


def head(
  tree: chex.ArrayTree, path: Optional[str] = None
) -> tuple[Optional[chex.Array], Optional[chex.Array]]:
  """Returns the classifier's kernel [H, K] and bias [K], None where absent.

  Every model of this package calls its classifier `head`; a tree that is
  itself {'kernel', 'bias'} serves too, so attacks run on loaded updates. Of
  another library's model a path says where it is:

  >>> tree = {'classifier': {'weight': jnp.ones((10, 3)), 'bias': jnp.ones(10)}}
  >>> kernel, bias = head(tree, path='classifier')
  >>> kernel.shape, bias.shape
  ((3, 10), (10,))

  The leaf's name says the layout: 'kernel' (Flax) and 'w' (Haiku) are [H, K],
  'weight' (PyTorch, Equinox) is [K, H] and is transposed. A bias is called
  'bias' or 'b'.

  Args:
    tree: any pytree of parameters, or of their gradients.
    path: keys and fields down to the classifier, joined by '/', such as
      'layers/2' or Haiku's 'mlp/~/linear_1'. None: 'head', or the tree itself.

  Raises:
    InputError: the tree has no classifier there, or not one of a linear layer.
  """
  leaves = base.named_leaves(tree)
  kernel, bias = _linear_leaves(leaves, path)
  if kernel is None and bias is None and path is None:
    names = sorted({name.split('/')[0] for name in leaves})
    raise InputError(
      f'no classifier among {names}; name it "head", with "kernel" [H, K] and'
      ' "bias" [K], or say where it is by path=.'
    )
  if kernel is None and bias is None:
    names = sorted({name.rpartition('/')[0] for name in leaves})
    raise InputError(
      f'no classifier at path={path!r}; set it to one of {names}.'
    )
  both = kernel is not None and bias is not None
  if both and kernel.shape[:-2] + kernel.shape[-1:] != bias.shape:
    raise InputError(
      f'a kernel of shape {kernel.shape} with a bias of shape {bias.shape}: a'
      ' classifier is [H, K] with [K]; transpose it, or set path=.'
    )
  return kernel, bias


def _linear_leaves(leaves, path=None):
  """Returns kernel [H, K] and bias [K] of `head`'s path, None where absent."""
  if path is None:
    path = 'head' if any(n.startswith('head/') for n in leaves) else ''
  stem = f'{path}/' if path else ''
  kernels = [n for n in _KERNELS if stem + n in leaves]
  biases = [n for n in _BIASES if stem + n in leaves]
  kernel = leaves[stem + kernels[0]] if kernels else None
  if kernels and kernels[0] == 'weight':
    kernel = jnp.swapaxes(kernel, -1, -2)
  return kernel, leaves[stem + biases[0]] if biases else None
