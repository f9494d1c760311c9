"""Horizontal FL: what a client sends, and what the server thereby sees.

A client is a pure function `(key, variables, batch) -> update`, one client and
one batch at a time; `observe` vmaps it over C clients. `variables` is Flax's
dict: 'params' and, with batch norm, the 'batch_stats' that the server sent.
Clients run in evaluation mode, as in the published runs: the statistics stay
as they are and only 'params' are updated.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak.base import Batch, InputError, Labelled, Model
from labelleak.he import Aggregate

Client = Callable[[chex.PRNGKey, chex.ArrayTree, Batch], chex.ArrayTree]


class View(NamedTuple):
  """All that the server (or an eavesdropper) observes of a round.

  Attributes:
    grads: like variables['params']: the gradient, or the update / lr.
    variables: what the server sent.
  """

  grads: chex.ArrayTree
  variables: Optional[chex.ArrayTree] = None


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('model', 'labelled', 'unlabelled', 'labels'),
  meta_fields=(
    'num_classes',
    'batch_size',
    'steps',
    'clients',
    'lr',
    'defense',
  ),
)
@dataclasses.dataclass(frozen=True)
class Known:
  """All that an attack on a round is granted beside its view.

  Sizes and functions are static, arrays are leaves, so a `Known` passes through
  jit and vmap. A field that is None was not granted.

  Attributes:
    num_classes: K.
    batch_size: B, of a client.
    steps: S.
    clients: C.
    lr: local learning rate behind an update.
    defense: as far as the attacker knows it: pairs of a transform's name and
      its strength, such as (('clip', 0.1), ('gaussian', 0.01)).
    model: the forward pass behind `View.variables`.
    labelled: examples of the attacker's own, with labels.
    unlabelled: [M, ...] examples of its own without; `labelled` goes before.
    labels: [C * B, K] of the round itself, for upper bounds alone: no attack.
  """

  num_classes: int
  batch_size: int
  steps: int = 1
  clients: int = 1
  lr: Optional[float] = None
  defense: Optional[tuple[tuple[str, float], ...]] = None
  model: Optional[Model] = None
  labelled: Optional[Labelled] = None
  unlabelled: Optional[chex.Array] = None
  labels: Optional[chex.Array] = None

  @property
  def num_examples(self) -> int:
    """Examples behind one round's update: C * B."""
    return self.clients * self.batch_size


def step_sizes(batch_size: int, steps: int) -> tuple[int, ...]:
  """Examples in each local step: slices of ceil(B/S), the last one ragged.

  >>> step_sizes(128, 10)
  (13, 13, 13, 13, 13, 13, 13, 13, 13, 11)

  Indices wrap modulo B where B < S, as in the released code, so that each
  step then revisits one example.

  Raises:
    InputError: a step would be left without examples.
  """
  if batch_size < 1 or steps < 1:
    raise InputError(
      f'batch_size={batch_size} and local_steps={steps}: both must be at'
      ' least 1.'
    )
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


def cross_entropy(apply: Callable) -> Callable:
  """Mean cross entropy over the examples of a batch that are not padding.

  Args:
    apply: (variables, x [B, ...]) -> logits [B, K].

  Returns:
    loss_fn(variables, batch) -> [].
  """

  def loss_fn(variables, batch):
    logits = apply(variables, batch.xs[0])
    losses = optax.softmax_cross_entropy(logits, batch.y)
    return (losses * batch.mask).sum() / jnp.maximum(batch.mask.sum(), 1.0)

  return loss_fn


def _grad(loss_fn, variables, batch):
  """Gradient of loss_fn with respect to variables['params']."""
  return jax.grad(lambda p: loss_fn({**variables, 'params': p}, batch))(
    variables['params']
  )


def fedsgd(loss_fn: Callable) -> Client:
  """A client that sends the gradient of its mean loss."""
  return lambda key, variables, batch: _grad(loss_fn, variables, batch)


def fedavg(
  loss_fn: Callable,
  *,
  lr: float,
  steps: int,
  step_defense: Optional[optax.GradientTransformation] = None,
) -> Client:
  """A client that takes S steps of SGD and sends (server - local) / lr.

  Slices are consecutive, of ceil(B/S) examples; the last one may be ragged (see
  `step_sizes`). The update is divided by the learning rate and not by S, so
  that it is the sum of S step gradients, up to the float32 rounding of the
  parameters: about 1e-9 / lr an entry. LLG reads that rounding where a layer
  norm makes the head's inputs sum to zero, as in a ViT.

  Args:
    loss_fn: (variables, batch) -> [], a mean over `batch.mask`.
    lr: local learning rate.
    steps: S.
    step_defense: acts on each step's mini-batch gradient, before the step.
  """
  if lr <= 0:
    raise InputError(f'lr={lr} must be positive; the update is divided by it.')
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
  defense: optax.GradientTransformation,
  aggregate: Aggregate,
  queries: int = 1,
) -> View:
  """One round with C clients, as the server sees it.

  Each client answers `queries` times with its own randomness; the server
  averages the answers, then the aggregator reveals the mean over clients.

  Args:
    key: randomness of clients, defenses and aggregator.
    client: from `fedsgd` or `fedavg`.
    variables: what the server sent.
    batches: leaves [C, B, ...].
    defense: acts on each client's update.
    aggregate: from `he`.
    queries: answers of each client to the same request.
  """
  clients = batches.mask.shape[0]
  client_key, aggregate_key = jax.random.split(key)
  defense = optax.with_extra_args_support(defense)

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
  mean = lambda tree: jax.tree.map(lambda a: a.mean(0), tree)
  revealed = aggregate.reveal(aggregate_key, mean, updates)
  return View(grads=revealed.result, variables=variables)


def head(
  tree: chex.ArrayTree,
) -> tuple[Optional[chex.Array], Optional[chex.Array]]:
  """The classifier's leaves: kernel [H, K] and bias [K], None where absent.

  Every model of this package calls its classifier `head`; a tree that is
  itself {'kernel', 'bias'} serves too, so attacks run on loaded updates.

  Raises:
    InputError: the tree has no head.
  """
  node = tree.get('head', tree)
  if not {'kernel', 'bias'} & set(node):
    raise InputError(
      f'no classifier among {sorted(tree)}; name it "head", with "kernel"'
      ' [H, K] and "bias" [K].'
    )
  return node.get('kernel'), node.get('bias')
