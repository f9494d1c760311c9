"""A round: C clients train, and the mean of their updates is revealed."""

from typing import Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import he
from labelleak.base import Batch, InputError, Revealed
from labelleak.hfl.clients import LocalUpdate
from labelleak.hfl.views import View


def observe(
  key: chex.PRNGKey,
  client: LocalUpdate,
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
    client: from `fedsgd`, `fedavg` or `local_training`.
    variables: what the server sent.
    batches: leaves [C, B, ...]; of one client without its axis, too.
    defense: acts on each client's update; None: nothing does.
    aggregate: from `he`; None: in plaintext.
    queries: answers of each client to the same request.

  Raises:
    InputError: labels are not [C, B, K], or other leaves not of their C and B.
  """
  revealed = reveal(
    key,
    client,
    variables,
    batches,
    defense=defense,
    aggregate=aggregate,
    queries=queries,
  )
  return View(grads=revealed.result, variables=variables)


def reveal(
  key: chex.PRNGKey,
  client: LocalUpdate,
  variables: chex.ArrayTree,
  batches: Batch,
  *,
  defense: Optional[optax.GradientTransformation] = None,
  aggregate: Optional[he.Aggregate] = None,
  queries: int = 1,
) -> Revealed:
  """Returns the mean of `observe`, and where it is not sealed the updates [C].

  Arguments and errors are those of `observe`.
  """
  batches = as_clients(batches)
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
  return aggregate.reveal(aggregate_key, mean, updates)


def as_clients(batches: Batch) -> Batch:
  """Returns batches with client axis and mask, [C, B, ...].

  Raises:
    InputError: as `observe`.
  """
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
