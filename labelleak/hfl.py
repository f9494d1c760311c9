"""Horizontal FL: what a client sends, and what the server thereby sees.

A client is a pure function `(key, variables, batch) -> update`, one client and
one batch at a time; `observe` vmaps it over C clients. `variables` is Flax's
dict: 'params' and, with batch norm, the 'batch_stats' that the server sent.
Clients run in evaluation mode, as in the published runs: the statistics stay
as they are and only 'params' are updated.
"""

from collections.abc import Callable
import math
from typing import ClassVar, NamedTuple, Optional

import chex
from flax import struct
import jax
import jax.numpy as jnp
import optax

from labelleak import base, contract, he, registry, validate
from labelleak.base import (
  Apply,
  Batch,
  InputError,
  Labelled,
  Model,
  Reconstruction,
  static,
)

# (key, variables, batch) -> update, like variables['params']
Client = Callable[[chex.PRNGKey, chex.ArrayTree, Batch], chex.ArrayTree]
# (variables, batch) -> [], a mean over `Batch.mask`
Loss = Callable[[chex.ArrayTree, Batch], chex.Array]

# What libraries call a linear layer's leaves; only 'weight' is [K, H].
_KERNELS = 'kernel', 'w', 'weight'
_BIASES = 'bias', 'b'


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
        model than `variables`, entries that are not finite.
    """
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
    lr: local learning rate behind an update.
    defense: exactly what is done, pairs of a transform's name and its
      strength, such as (('clip', 0.1), ('gaussian', 0.01)); () is nothing.
    model: the forward pass behind `View.variables`.
    labelled: examples of the attacker's own, with labels.
    unlabelled: [M, ...] examples of its own without; `labelled` goes before.
    labels: [C * B, K] of the round itself, for upper bounds alone: no attack.
  """

  num_classes: int = static()
  batch_size: int = static()
  steps: int = static(default=1)
  clients: int = static(default=1)
  lr: Optional[float] = static(default=None)
  defense: Optional[tuple[tuple[str, float], ...]] = static(default=None)
  model: Optional[Model] = None
  labelled: Optional[Labelled] = None
  unlabelled: Optional[chex.Array] = None
  labels: Optional[chex.Array] = None

  kind: ClassVar[str] = 'horizontal'  # of FL

  def __post_init__(self):
    """Refuses sizes and strengths that mean nothing, before they are used."""
    sizes = dict(num_classes=2, batch_size=1, steps=1, clients=1)
    numbers = contract.whole_fields(self, sizes)
    if self.lr is not None:
      numbers['lr'] = contract.plain_number(self.lr)
      validate.within('Known: lr', numbers['lr'], '(0, inf)')
    if self.defense is not None:
      numbers['defense'] = _strengths(self.defense)
    for field, value in numbers.items():
      object.__setattr__(self, field, value)

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
    """Examples behind one round's update: C * B."""
    return self.clients * self.batch_size


def _strengths(defense):
  """Returns pairs of kind and strength, by the names of this package."""
  try:
    pairs = [(kind, contract.plain_number(v)) for kind, v in tuple(defense)]
    hash(defense)
  except (TypeError, ValueError):
    pairs = [(None, None)]
  if not all(isinstance(kind, str) for kind, _ in pairs):
    raise InputError(
      f'Known: defense={defense!r} must be a tuple of pairs of name and'
      " strength, such as (('clip', 0.1), ('gaussian', 0.01)); () is none at"
      ' all, None an unknown one.'
    )
  for kind, value in pairs:
    validate.at_least(f'Known: defense {kind}', value, 0.0)
  return tuple((registry.canonical('defenses', k), v) for k, v in pairs)


def step_sizes(batch_size: int, steps: int) -> tuple[int, ...]:
  """Examples in each local step: slices of ceil(B/S), the last one ragged.

  >>> step_sizes(128, 10)
  (13, 13, 13, 13, 13, 13, 13, 13, 13, 11)

  Indices wrap modulo B where B < S, as in the released code, so that each
  step then revisits one example.

  Raises:
    InputError: a step would be left without examples.
  """
  validate.whole('batch_size', batch_size, 1)
  validate.whole('local_steps', steps, 1)
  if batch_size < steps:
    return (1,) * steps
  size = math.ceil(batch_size / steps)
  sizes = tuple(
    min(size, batch_size - start) for start in range(0, steps * size, size)
  )
  if min(sizes) < 1:
    good = math.ceil(batch_size / size)
    raise InputError(
      f'batch_size={batch_size} in slices of ceil(B/S)={size} leaves'
      f' {sum(s < 1 for s in sizes)} of local_steps={steps} without'
      f' examples; use local_steps={good}.'
    )
  return sizes


def cross_entropy(apply: Apply) -> Loss:
  """Returns the mean cross entropy over examples that are not padding."""

  def loss_fn(variables, batch):
    logits = apply(variables, batch.xs[0])
    if logits.shape != batch.y.shape:
      raise InputError(
        f'logits of shape {logits.shape} for labels of shape {batch.y.shape}:'
        " both must be [B, K]; make labels one-hot, of the model's classes."
      )
    losses = optax.softmax_cross_entropy(logits, batch.y)
    return (losses * batch.mask).sum() / jnp.maximum(batch.mask.sum(), 1.0)

  return loss_fn


def _grad(loss_fn, variables, batch):
  """Gradient of loss_fn with respect to variables['params']."""
  return jax.grad(lambda p: loss_fn({**variables, 'params': p}, batch))(
    variables['params']
  )


def fedsgd(loss_fn: Loss) -> Client:
  """Returns a client that sends the gradient of its mean loss."""
  return lambda key, variables, batch: _grad(loss_fn, variables, batch)


def fedavg(
  loss_fn: Loss,
  *,
  lr: float,
  steps: int,
  step_defense: Optional[optax.GradientTransformation] = None,
) -> Client:
  """Returns a client that takes S SGD steps, sends (server - local) / lr.

  Slices are consecutive, of ceil(B/S) examples; the last one may be ragged (see
  `step_sizes`). The update is divided by the learning rate and not by S, so
  that it is the sum of S step gradients, up to the float32 rounding of the
  parameters: about 1e-9 / lr an entry. LLG reads that rounding where a layer
  norm makes the head's inputs sum to zero, as in a ViT.

  Args:
    loss_fn: such as `cross_entropy`.
    lr: local learning rate.
    steps: S.
    step_defense: acts on each step's mini-batch gradient, before the step.
  """
  validate.within('lr', lr, '(0, inf)', 'the update is divided by it')
  defense = optax.with_extra_args_support(step_defense or optax.identity())

  def client(key, variables, batch):
    num = batch.mask.shape[0]
    sizes = jnp.array(step_sizes(num, steps))
    width = max(step_sizes(num, steps))
    starts = jnp.arange(steps)[:, None] * width
    slots = jnp.arange(width)[None, :]
    rows = (starts + slots) % num  # [S, b]
    real = (slots < sizes[:, None]).astype(batch.mask.dtype)

    def step(carry, inputs):
      params, state = carry
      key, rows, real = inputs
      part = jax.tree.map(lambda a: jnp.asarray(a)[rows], batch)
      part = part._replace(mask=part.mask * real)
      grads = _grad(loss_fn, {**variables, 'params': params}, part)
      grads, state = defense.update(
        grads, state, params, key=key, mask=part.mask
      )
      return (jax.tree.map(lambda p, g: p - lr * g, params, grads), state), None

    # Who differentiates the update keeps a step's activations, not those of S.
    step = jax.checkpoint(step, prevent_cse=False)
    server = variables['params']
    keys = jax.random.split(key, steps)
    start = server, defense.init(server)
    (local, _), _ = jax.lax.scan(step, start, (keys, rows, real))
    return jax.tree.map(lambda p, q: (p - q) / lr, server, local)

  return client


def observe(
  key: chex.PRNGKey,
  client: Client,
  variables: chex.ArrayTree,
  batches: Batch,
  *,
  defense: Optional[optax.GradientTransformation] = None,
  aggregate: Optional[he.Aggregate] = None,
  queries: int = 1,
) -> View:
  """Returns what the server sees of one round with C clients.

  Each client answers `queries` times with its own randomness; the server
  averages the answers, then the aggregator reveals the mean over clients, each
  weighted by its number of examples (McMahan et al. 2017, algorithm 1): rows
  whose mask is 0 are padding, and not of them.

  Args:
    key: randomness of clients, defenses and aggregator.
    client: from `fedsgd` or `fedavg`.
    variables: what the server sent.
    batches: leaves [C, B, ...]; of one client without its axis, too.
    defense: acts on each client's update; None: nothing does.
    aggregate: from `he`; None: in plaintext.
    queries: answers of each client to the same request.

  Raises:
    InputError: labels are not [C, B, K], or other leaves not of their C and B.
  """
  batches = _as_clients(batches)
  clients = batches.mask.shape[0]
  client_key, aggregate_key = jax.random.split(key)
  defense = optax.with_extra_args_support(defense or optax.identity())
  aggregate = aggregate or he.plaintext()

  def answer(key, batch):
    local_key, defense_key = jax.random.split(key)
    update = client(local_key, variables, batch)
    state = defense.init(update)
    return defense.update(
      update, state, variables['params'], key=defense_key, mask=batch.mask
    )[0]

  def one_client(key, batch):
    if queries == 1:
      return answer(key, batch)
    answers = jax.vmap(answer, (0, None))(jax.random.split(key, queries), batch)
    return jax.tree.map(lambda a: a.mean(0), answers)

  keys = jax.random.split(client_key, clients)
  if clients == 1:  # spares XLA the batched form of every layer
    first = jax.tree.map(lambda a: a[0], batches)
    updates = jax.tree.map(lambda a: a[None], one_client(keys[0], first))
  else:
    updates = jax.vmap(one_client)(keys, batches)
  sizes = batches.mask.sum(1)
  weights = clients * sizes / jnp.maximum(sizes.sum(), 1.0)  # 1 if all alike
  weigh = jax.vmap(lambda weight, a: weight * a)
  mean = lambda tree: jax.tree.map(lambda a: weigh(weights, a).mean(0), tree)
  revealed = aggregate.reveal(aggregate_key, mean, updates)
  return View(grads=revealed.result, variables=variables)


def _as_clients(batches):
  """Returns batches with client axis and mask, [C, B, ...]."""
  shape = jnp.shape(batches.y)
  if len(shape) not in (2, 3):
    raise InputError(
      f'labels of shape {shape}: a round takes [B, K], or [C, B, K] of C'
      ' clients, one-hot; add what is missing, or vmap over trials.'
    )
  leaves = dict(mask=batches.mask, index=batches.index)
  leaves |= {f'xs[{i}]': x for i, x in enumerate(batches.xs)}
  for name, leaf in leaves.items():
    if leaf is not None and jnp.shape(leaf)[: len(shape) - 1] != shape[:-1]:
      raise InputError(
        f'{name} of shape {jnp.shape(leaf)} with labels of shape {shape}: the'
        f' first axes must be {shape[:-1]}; give every example its label.'
      )
  if batches.mask is None:
    batches = batches._replace(mask=jnp.ones(shape[:-1]))
  if len(shape) == 3:
    return batches
  return jax.tree.map(lambda a: jnp.asarray(a)[None], batches)


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
