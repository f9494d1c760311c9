"""How a client's steps turn the labels of a class into its entry of the update.

Optimizers act on each entry by itself. One that is linear, such as SGD with
momentum, weighs the gradient of step s by a gain a_s, so that an example adds
the gains of the steps that took it, each over their size; k examples of a class
add a sum that depends on which steps those were. Of another optimizer, such as
Adam, the entry's path is run for every count and many draws of the steps.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import compilation, hfl
from labelleak.attacks.counts import likelihood
from labelleak.base import InputError
from labelleak.hfl import Client, Known

_DRAWS = 200  # of the steps that take an example, of which nodes are made
_NODES = 25
_ROUGH = 2 / 3  # of the steps, that such an optimizer's path may be off by
_ROUND = 1024, 1000  # what round sizes of local batches divide
_GUESSES = 5  # of them
_PATHS = 16  # of those draws, where the whole path is run


class Response(NamedTuple):
  """What counts do to an entry; host constants.

  Attributes:
    num: labels behind the update, C * N.
    table: summed weights of k examples.
    sizes: [S] of the steps of a client.
    gains: [S] of the steps' summed weights; their sum is `mass`.
    unit: the least weight of an example.
    loudness: deviation of noise that every step adds, over that of as many
      steps of plain SGD.
    noise: deviation of DP-SGD's noise on an entry.
    decay: how far weight decay alone moves an entry that starts at 1.
    shares: [S, N + 1, R] of each step's gradient that k examples make up, in
      R draws; None of a linear optimizer, whose `table` says it all.
  """

  num: int
  table: likelihood.Weights
  sizes: np.ndarray
  gains: np.ndarray
  unit: float
  loudness: float = 1.0
  noise: float = 0.0
  decay: float = 0.0
  shares: Optional[np.ndarray] = None

  @property
  def mass(self) -> chex.Array | float:
    """Returns what the softmax of all examples weighs."""
    return self.gains.sum()


def tabulate(known: Known) -> Response:
  """Tabulates the response of what is known of the clients."""
  if known.client is None:
    table = likelihood.weights(known.batch_size, known.steps, known.clients)
    unit = float(table.total[1].min())
    sizes = np.array(hfl.step_sizes(known.batch_size, known.steps), float)
    ones = np.ones(known.steps)
    return Response(known.num_examples, table, sizes, ones, unit)
  return _tabulate(known.client, known.batch_size, known.clients)


def guess(known: Known) -> list[Response]:
  """Tabulates clients of plain SGD that take as many steps as is known.

  First slices as papers cut them, then those of DataLoaders of round sizes.
  """
  num, steps = known.batch_size, known.steps
  if steps == 1:
    return [tabulate(known)]
  sizes = [b for b in range(1, num) if b % 8 == 0 or b % 10 == 0]
  sizes = [b for b in sizes if -(-num // b) == steps]
  # The roundest first: those that powers of 2 or 10 divide best.
  sizes.sort(key=lambda b: -max(math.gcd(b, power) for power in _ROUND))
  told = [
    dataclasses.replace(known, client=Client(lr=known.lr, batch_size=b))
    for b in sizes[:_GUESSES]
  ]
  return [tabulate(known), *map(tabulate, told)]


def stack(responses: Sequence[Response]) -> Response:
  """Stacks linear responses along a first axis, padded to the largest.

  What pads a table is impossible, and a step that pads weighs nothing.
  """
  rows, nodes = np.max([r.table.total.shape for r in responses], 0)
  steps = max(len(r.sizes) for r in responses)

  def pad(response):
    table = response.table
    height, width = table.total.shape
    by = (0, rows - height), (0, nodes - width)
    total = np.pad(table.total, by, mode='edge')
    log_prob = np.pad(table.log_prob, by, constant_values=-np.inf)
    more = 0, steps - len(response.sizes)
    return response._replace(
      table=likelihood.Weights(total, log_prob),
      sizes=np.pad(response.sizes, more, mode='edge'),
      gains=np.pad(response.gains, more),
    )

  return jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *map(pad, responses))


def cut(response: Response, most: int) -> Response:
  """Leaves out more than so many labels of a class, of linear responses."""
  table = jax.tree.map(lambda a: a[..., : most + 1, :], response.table)
  return response._replace(table=table)


@functools.lru_cache(maxsize=1024)
def _tabulate(client, num, clients):
  """Tabulates the response of a described client of `num` examples."""
  check_modelled(client, clients)
  with jax.ensure_compile_time_eval():
    weights = step_weights(client, num)
    sizes = np.array(client.step_sizes(num), float)
    gains = linear_gains(client, len(sizes))
    decay = float(
      respond(client, np.zeros((len(sizes), 1), np.float32), 1.0)[0]
    )
  if gains is None:
    shares = _draw_shares(client, num, _PATHS) * weights[:, None, None]
    table = likelihood.Weights(
      np.arange(num + 1.0)[:, None] * weights.sum() / num,
      np.full((num + 1, 1), -np.log(_PATHS)),  # of each draw
    )
    unit = _ROUGH * len(sizes)  # a step moves an entry by about 1
    mass = sizes * weights
    return Response(num, table, sizes, mass, unit, decay=decay, shares=shares)
  table = _table(_draw_weights(client, num, gains * weights), clients)
  noise = 0.0
  if client.noise_multiplier:
    std = client.noise_multiplier * client.clip_per_example
    if client.reduction == 'mean':
      std /= client.divisor(num)
    noise = std * float(np.sqrt((gains**2).sum() / clients))
  positive = table.total[1][table.total[1] > 0]
  unit = float(positive.min()) if positive.size else 1.0
  loudness = float(np.sqrt((gains**2).mean()))
  return Response(
    num * clients,
    table,
    sizes,
    gains * sizes * weights,
    unit,
    loudness,
    noise,
    decay,
  )


@functools.lru_cache(maxsize=64)
def check_modelled(client: Client, clients: int) -> None:
  """Refuses an optimizer that mixes entries, and what is not told of others.

  Raises:
    InputError: such an optimizer, or one that needs more than a gradient; one
      that is not linear, of several clients or with noise.
  """
  name = client.optimizer['name']
  trial = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
  run = lambda gradients: respond(client, gradients, 1.0)
  try:
    with jax.ensure_compile_time_eval():
      together, alone = run(trial), [run(column) for column in trial.T]
      linear = linear_gains(client, 3) is not None
  except (IndexError, TypeError, ValueError) as e:  # such as sm3
    raise InputError(
      f'counts.calibrated cannot run {name} on one entry by itself; leave'
      ' known.client out.'
    ) from e
  if not np.allclose(together, np.array(alone), rtol=1e-3, atol=1e-3):
    raise InputError(
      'counts.calibrated reads optimizers that act on each entry by itself,'
      f' and {name} does not; leave known.client out.'
    )
  if not linear and (clients > 1 or client.noise_multiplier):
    other = 'noise' if clients == 1 else f'clients={clients}'
    raise InputError(
      f'counts.calibrated has no model of {name} with {other}; leave'
      ' known.client out.'
    )


def step_weights(client: Client, num: int) -> np.ndarray:
  """Returns what an example weighs in the gradient of each step, [S]."""
  sizes = np.array(client.step_sizes(num), float)
  if client.reduction == 'sum':
    return np.ones(len(sizes))
  if client.clip_per_example is not None:
    return np.full(len(sizes), 1.0 / client.divisor(num))
  return 1.0 / sizes


def respond(
  client: Client, gradients: chex.Array, start: float = 0.0
) -> chex.Array:
  """Returns (start - end) / lr of entries with these gradients, [...].

  Args:
    client: says the optimizer and FedProx's pull.
    gradients: [S, ...] of the steps.
    start: where the entries start, which weight decay pulls on.
  """
  start = np.full(gradients.shape[1:], start, np.float32)
  return _compile_steps(client)(gradients, start)


@functools.lru_cache(maxsize=64)
def _compile_steps(client):
  """Returns `respond` of a client, compiled."""
  return compilation.jit_once(functools.partial(_respond, client))


def _respond(client, gradients, start):
  lr = client.lr or 1.0
  tx = client.make_optimizer(lr)

  def step(carry, gradient):
    entry, state = carry
    gradient = gradient + client.proximal * (entry - start)
    move, state = tx.update(gradient, state, entry)
    return (optax.apply_updates(entry, move), state), None

  (end, _), _ = jax.lax.scan(step, (start, tx.init(start)), gradients)
  return (start - end) / lr


@functools.lru_cache(maxsize=256)
def linear_gains(client: Client, steps: int) -> Optional[np.ndarray]:
  """Returns the gains [S] of a linear optimizer, None of another."""
  trial = np.random.default_rng(0).normal(size=(steps, 8))
  columns = np.float32(np.concatenate([np.eye(steps), trial], 1))
  gains, actual = np.split(np.asarray(respond(client, columns), float), [steps])
  linear = np.allclose(gains @ trial, actual, rtol=1e-3, atol=1e-3)
  return gains if linear else None


def _draw_steps(client, num, rng):
  """Yields for each step which of the examples it takes, [num] bool."""
  sizes = client.step_sizes(num)
  per_epoch = len(sizes) // client.epochs
  order = rng.permutation(num)
  for epoch in range(client.epochs):
    if client.shuffle and epoch:
      order = rng.permutation(num)
    start = 0
    for size in sizes[epoch * per_epoch : (epoch + 1) * per_epoch]:
      taken = np.zeros(num, bool)
      if client.poisson:
        taken = rng.random(num) < size / num
      else:
        taken[order[start : start + size]] = True
      start += size
      yield taken


def _draw_weights(client, num, weights):
  """Draws the summed weight of each example, [draws, num]."""
  rng = np.random.default_rng(0)
  return np.stack(
    [
      sum(w * s for w, s in zip(weights, _draw_steps(client, num, rng)))
      for _ in range(_DRAWS)
    ]
  )


def _table(drawn, clients):
  """Tabulates the sums of k of the examples' weights.

  Two weights alone, such as of full steps and a rest, are counted exactly; of
  others the quantiles over draws are nodes.
  """
  kinds = np.unique(np.round(np.sort(drawn, axis=1), 9), axis=0)
  if len(kinds) == 1:  # every draw has the same weights
    values, counts = np.unique(kinds[0], return_counts=True)
    if len(values) <= 2:
      groups = [(int(n), float(v)) for n, v in zip(counts, values)]
      groups = ([(0, 0.0)] + groups)[-2:]
      return likelihood.weights_of_groups(groups, clients)
  rng = np.random.default_rng(1)
  drawn = np.concatenate([rng.permutation(drawn) for _ in range(clients)], 1)
  drawn = rng.permuted(drawn, axis=1) / clients
  sums = np.cumsum(np.pad(drawn, ((0, 0), (1, 0))), axis=1)
  at = (np.arange(_NODES) + 0.5) / _NODES
  nodes = np.quantile(sums, at, axis=0).T
  return likelihood.Weights(nodes, np.full(nodes.shape, -np.log(_NODES)))


def _draw_shares(client, num, draws):
  """Draws how many of the first k examples each step takes, [S, N + 1, R]."""
  rng = np.random.default_rng(0)
  shares = [
    np.stack([np.cumsum(s) for s in _draw_steps(client, num, rng)])
    for _ in range(draws)
  ]
  return np.pad(np.stack(shares, -1), ((0, 0), (1, 0), (0, 0))).astype(float)
