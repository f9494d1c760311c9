"""What defenses would leave, in simulated rounds of the same client.

Clients run `hfl.local_training` as described. The attacker simulates, too: half
of the rounds tell it what a label adds to the bias under this very defense, and
the posterior of `calibrated` counts the others (`lattice`).
"""

from collections.abc import Sequence
from concurrent import futures
import dataclasses
from typing import Optional

import chex
import jax
import numpy as np

from labelleak import compilation, hfl
from labelleak.audit import lattice, simulation
from labelleak.audit.assessment import Remedy
from labelleak.defenses import clipping, noise

_NOISES = 0.01, 0.1, 1.0  # relative to the bias's update
_MULTIPLIERS = 0.5, 1.0  # of DP-SGD's noise, at a norm of 1
_SCALES = tuple(np.geomspace(0.2, 1.0, 25))  # that clipping may leave
_CLIENTS = 2, 10, 50
_MOST_CLASSES = 2000
_MOST_TARGETS = 10_000_000  # in a round, N times K of all clients


def simulate(
  key: chex.PRNGKey,
  update: dict[str, np.ndarray],
  server: Optional[dict[str, np.ndarray]],
  client: hfl.Client,
  *,
  labels: np.ndarray,
  clients: int = 1,
) -> tuple[Remedy, ...]:
  """Simulates defenses, the first being none.

  Args:
    key: the same for all, so that they meet the same data.
    update: of the captured head, 'bias' [K] and 'kernel' [H, K]?
    server: the head before; None: zeros.
    client: its description; without a learning rate .01 is taken.
    labels: [K] inferred counts of one client, which sum to N.
    clients: C of the capture, which are simulated, too.

  Returns:
    What each leaves; nothing of a head of more than 2000 classes.
  """
  if len(labels) > _MOST_CLASSES:
    return ()
  num = round(float(labels.sum()))
  # The head alone has neither batch norm nor dropout.
  client = dataclasses.replace(
    client, lr=client.lr or 0.01, training_mode=False
  )
  head, h = simulation.reduce(update, server)
  train = lambda *federation: simulation.train(
    key, simulation.Federation(*federation), head, h, labels / num
  )
  size = max(num, 200) * max(len(labels), 100)
  groups = sorted({*_CLIENTS, clients} - {1})
  groups = [c for c in groups if c * size <= _MOST_TARGETS]
  with futures.ThreadPoolExecutor() as pool:  # which compiles in parallel
    change = lambda name, *changed: _score(name, train(*changed))
    changed = pool.map(change, *zip(*_change_client(client, num)))
    plain = train(client, num, max(groups, default=1))
    alone = _select(plain, 1)
    name = 'as it is' if clients == 1 else 'one client in the clear'
    results = [_score(name, alone), *_defend_update(key, alone, update)]
    results += changed
  for c in groups:
    name = f'secure aggregation over {c} clients'
    results.append(_score(name, _select(plain, c)))
  return tuple(results)


def _select(rounds, clients):
  """Returns the rounds of the first clients alone."""
  return jax.tree.map(lambda a: a[:, :clients], rounds)


def _defend_update(key, rounds, update) -> list[Remedy]:
  """Scores what acts on the update itself, of a client alone."""
  bias, captured = rounds.updates['bias'], _rms(update['bias'])
  half = simulation.ROUNDS // 2  # from which the attacker learns, unclipped
  square = sum(np.square(u[:half]).sum() for u in rounds.updates.values())
  clip = clipping.clip(max_norm=float(square / half) ** 0.5 / 2).gradient
  unit_noise = noise.gaussian(stddev=1.0).gradient

  def defend(key, update):
    act = lambda tx: tx.update(update, tx.init(update), key=key)[0]['bias']
    return act(clip), act(unit_noise) - update['bias']

  def defend_all(key, updates):
    keys = jax.random.split(key, (simulation.ROUNDS, 1))
    return jax.vmap(jax.vmap(defend))(keys, updates)

  run = compilation.jit_once(defend_all)
  clipped, unit = jax.device_get(run(key, rounds.updates))
  clipped = np.concatenate([bias[:half], clipped[half:]])
  name = 'update clipped to half of its norm'
  results = [_score(name, rounds._replace(updates={'bias': clipped}), _SCALES)]
  for share in _NOISES:
    # The message is not divided by the learning rate, nor is this number.
    name = f'noise of deviation {share * captured:.2g} on each entry'
    noisy = {'bias': bias + share * _rms(bias) * unit}
    results.append(_score(name, rounds._replace(updates=noisy)))
  return results


def _change_client(client, num) -> Sequence[tuple[str, hfl.Client, int]]:
  """Lists other ways to train: name, client and number of examples."""
  larger, examples = client, 4 * num
  if client.batch_size and client.batch_size < num:
    size = min(4 * client.batch_size, num)
    larger, examples = dataclasses.replace(client, batch_size=size), num
  longer = dataclasses.replace(client, epochs=4 * client.epochs)
  private = [
    (
      f'DP-SGD, clipping examples to 1, noise multiplier {sigma:g}',
      dataclasses.replace(client, clip_per_example=1.0, noise_multiplier=sigma),
      num,
    )
    for sigma in _MULTIPLIERS
  ]
  return [
    ('batches 4 times larger', larger, examples),
    ('4 times as many local epochs', longer, num),
    *private,
  ]


def _score(name, rounds, scales=(1.0,)) -> Remedy:
  """Attacks the mean of the clients' updates, for the labels of the first."""
  bias, num = rounds.updates['bias'], round(float(rounds.labels[0, 0].sum()))
  rest = round(float(rounds.last[0, 0].sum()))
  mean = jax.tree.map(lambda a: a.mean(1), rounds._replace(updates=bias))
  counts = lattice.count(num, rest, mean, scales)
  truth = rounds.labels[simulation.ROUNDS // 2 :, 0]
  share = lambda counts: float(np.minimum(counts, truth).sum(1).mean() / num)
  return Remedy(name, share(counts), share(num / truth.shape[1]))


def _rms(values) -> float:
  """Returns the root mean square."""
  return float(np.sqrt(np.mean(np.square(values))))
