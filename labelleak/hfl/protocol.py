"""Rounds over time: who takes part, and what the server makes of their mean.

Algorithm 1 of Reddi et al. (2021); `servers` has its optimizers. `init`, `step`
have the order of `lax.scan`. What leaks depends on who looks: the server has
every update before its optimizer, or under a sealed aggregator their mean;
another client has what `servers.recover_mean` reads off the models it is sent.
"""

from collections.abc import Callable
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import he, validate
from labelleak.base import Batch, InputError
from labelleak.hfl import rounds, servers
from labelleak.hfl.clients import LocalUpdate
from labelleak.hfl.views import View
from labelleak.spec import Spec


class State(NamedTuple):
  """What the server carries from round to round.

  Attributes:
    variables: of the global model.
    opt_state: of the server's optimizer.
    key: constant; rounds fold in their number.
    count: [] rounds done.
  """

  variables: chex.ArrayTree
  opt_state: chex.ArrayTree
  key: chex.PRNGKey
  count: chex.Array


class Round(NamedTuple):
  """What the server sees of a round in which m clients may take part.

  Attributes:
    view: the mean update, each weighted by its examples, over the clients' lr.
    updates: leaves [m, ...], of each; None under a sealed aggregator.
    clients: [m] which of the C they are.
    sizes: [m] examples of each, 0 of one that did not take part.
  """

  view: View
  updates: Optional[chex.ArrayTree]
  clients: chex.Array
  sizes: chex.Array


class Protocol(NamedTuple):
  """Pure functions of a federation.

  Attributes:
    init: (key, variables) -> `State`.
    step: (state, batches [C, B, ...]) -> (state, `Round`).
  """

  init: Callable[[chex.PRNGKey, chex.ArrayTree], State]
  step: Callable[[State, Batch], tuple[State, Round]]


def protocol(
  client: LocalUpdate,
  *,
  lr: float,
  server: Spec = servers.FEDAVG,
  per_round: Optional[int] = None,
  rate: Optional[float] = None,
  defense: Optional[optax.GradientTransformation] = None,
  aggregate: Optional[he.Aggregate] = None,
) -> Protocol:
  """Returns a federation, round by round; all clients take part by default.

  Statistics of batch norm stay as the server sent them.

  Args:
    client: from `fedsgd`, `fedavg` or `local_training`.
    lr: by which the client divides its update, so 1 of `fedsgd`.
    server: its optimizer: 'fedadam', 'fedyogi' or one of optax by name, with
      its rate `lr` and its arguments.
    per_round: m, so many clients are drawn without replacement.
    rate: or each takes part with this probability; where none does, the mean
      is 0.
    defense: acts on each client's update; None: nothing does.
    aggregate: from `he`; None: in plaintext.

  Raises:
    InputError: an optimizer or a number that means nothing, both ways to draw
      clients, or more of them than there are.
  """
  validate.within('lr', lr, '(0, inf)', 'the client divided by it')
  tx = servers.make_optimizer(server)
  _check_draw(per_round, rate)

  def init(key, variables):
    return State(variables, tx.init(variables['params']), key, jnp.array(0))

  def step(state, batches):
    key = jax.random.fold_in(state.key, state.count)
    draw_key, reveal_key = jax.random.split(key)
    batches = rounds.as_clients(batches)
    clients, present = _draw(draw_key, len(batches.mask), per_round, rate)
    batches = jax.tree.map(lambda a: jnp.asarray(a)[clients], batches)
    batches = batches._replace(mask=batches.mask * present[:, None])
    variables = state.variables
    revealed = rounds.reveal(
      reveal_key,
      client,
      variables,
      batches,
      defense=defense,
      aggregate=aggregate,
    )
    pseudo = jax.tree.map(lambda g: lr * g, revealed.result)
    moves, opt_state = tx.update(pseudo, state.opt_state, variables['params'])
    params = optax.apply_updates(variables['params'], moves)
    after = {**variables, 'params': params}
    observation = Round(
      view=View(grads=revealed.result, variables=variables),
      updates=_silence(revealed.message, present),
      clients=clients,
      sizes=batches.mask.sum(1),
    )
    return State(after, opt_state, state.key, state.count + 1), observation

  return Protocol(init, step)


def _check_draw(per_round, rate):
  """Refuses two ways to draw clients, and numbers that draw none."""
  if per_round is not None and rate is not None:
    raise InputError(
      f'per_round={per_round} and rate={rate} draw clients in two ways; give'
      ' one.'
    )
  if per_round is not None:
    validate.whole('per_round', per_round, 1)
  if rate is not None:
    validate.within('rate', rate, '(0, 1]')


def _draw(key, num, per_round, rate):
  """Draws clients [m], and which of them are present, [m] 0 or 1."""
  if (per_round or 0) > num:
    raise InputError(
      f'per_round={per_round} of {num} clients; draw no more than there are.'
    )
  clients = jnp.arange(num)
  if per_round:
    clients = jnp.sort(jax.random.permutation(key, num)[:per_round])
  present = jnp.ones(len(clients))
  if rate:
    present = jax.random.bernoulli(key, rate, (num,)).astype(jnp.float32)
  return clients, present


def _silence(updates, present):
  """Returns updates [m, ...] without those of who did not take part."""
  if updates is None:
    return None
  return jax.vmap(lambda p, tree: jax.tree.map(lambda a: p * a, tree))(
    present, updates
  )
