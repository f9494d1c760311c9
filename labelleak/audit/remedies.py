"""What defenses would leave, in simulated rounds of the same client.

Only the head is simulated: a linear model on inputs that vary about the mean
input of the capture, h = kernel @ bias / |bias|^2, since a head's update is
sum_x (p - y) of the bias and sum_x x (p - y)^T of the kernel. Clients run
`hfl.local_training` as described. The attacker simulates, too: half of the
rounds tell it what a label adds to the bias under this very defense, and the
posterior of `calibrated` counts the others.
"""

from collections.abc import Sequence
from concurrent import futures
import dataclasses
import functools
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import base, hfl
from labelleak.attacks.counts import posterior
from labelleak.audit.assessment import Remedy
from labelleak.base import Batch
from labelleak.defenses import clipping, noise

_ROUNDS = 32  # of which the attacker learns from the first half
_SPREAD = 0.5  # deviation of an input from h, relative to |h|
_WIDTH = 32  # directions in which inputs deviate
_CONCENTRATION = 20.0  # of a client's labels about those that were inferred
_NOISES = 0.01, 0.1, 1.0  # relative to the bias's update
_MULTIPLIERS = 0.5, 1.0  # of DP-SGD's noise, at a norm of 1
_CLIENTS = 2, 10, 50
_MOST = 2_000_000  # entries of a head
_MOST_TARGETS = 10_000_000  # in a round, N times K of all clients


class Federation(NamedTuple):
  """What is simulated: C clients of N examples each, alike but for labels."""

  client: hfl.Client
  examples: int
  clients: int = 1


class Rounds(NamedTuple):
  """Simulated rounds, of C clients each."""

  updates: chex.ArrayTree  # leaves [R, C, ...]
  labels: chex.Array  # [R, C, K]


def simulate(
  key: chex.PRNGKey,
  update: dict[str, np.ndarray],
  server: Optional[dict[str, np.ndarray]],
  client: hfl.Client,
  *,
  labels: np.ndarray,
) -> tuple[Remedy, ...]:
  """Simulates defenses, the first being none.

  Args:
    key: the same for all, so that they meet the same data.
    update: of the captured head, 'bias' [K] and 'kernel' [H, K]?
    server: the head before; None: zeros.
    client: its description; without a learning rate .01 is taken.
    labels: [K] inferred counts of one client, which sum to N.

  Returns:
    What each leaves; nothing of a head that is too large.
  """
  if max(map(np.size, update.values())) > _MOST:
    return ()
  num = round(float(labels.sum()))
  client = dataclasses.replace(
    client, lr=client.lr or 0.01, training_mode=False
  )
  head, h = _reduce(update, server)
  train = lambda *federation: _train(
    key, Federation(*federation), head, h, labels / num
  )
  size = num * max(len(labels), 100)
  groups = [c for c in _CLIENTS if c * size <= _MOST_TARGETS]
  plain = train(client, num, max(groups, default=1))
  alone = jax.tree.map(lambda a: a[:, :1], plain)
  results = [_score('as it is', alone), *_defend_update(key, alone, update)]
  with futures.ThreadPoolExecutor() as pool:  # which compiles in parallel
    change = lambda name, *changed: _score(name, train(*changed))
    results += pool.map(change, *zip(*_change_client(client, num)))
  for c in groups:
    first = jax.tree.map(lambda a, c=c: a[:, :c], plain)
    results.append(_score(f'secure aggregation over {c} clients', first))
  return tuple(results)


def _defend_update(key, rounds, update) -> list[Remedy]:
  """Scores what acts on the update itself, of a client alone."""
  bias, captured = rounds.updates['bias'], _rms(update['bias'])
  square = sum(np.square(u).sum() for u in rounds.updates.values()) / _ROUNDS
  clip = clipping.clip(max_norm=float(square) ** 0.5 / 2).gradient
  unit_noise = noise.gaussian(stddev=1.0).gradient

  def defend(key, update):
    act = lambda tx: tx.update(update, tx.init(update), key=key)[0]['bias']
    return act(clip), act(unit_noise) - update['bias']

  keys = jax.random.split(key, (_ROUNDS, 1))
  run = base.jit_once(jax.vmap(jax.vmap(defend)))
  clipped, unit = run(keys, rounds.updates)
  biases = {'update clipped to half of its norm': clipped}
  for share in _NOISES:
    # The message is not divided by the learning rate, nor is this number.
    name = f'noise of deviation {share * captured:.2g} on each entry'
    biases[name] = bias + share * _rms(bias) * unit
  return [
    _score(name, rounds._replace(updates={'bias': b}))
    for name, b in biases.items()
  ]


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


def _reduce(update, server):
  """Reduces the head to the directions in which inputs vary.

  Returns:
    {'kernel' [W, K], 'bias' [K]}, and the mean input [W], whose first entry
    alone is not 0.
  """
  bias = np.float64(update['bias'])
  kernel = np.float64(update.get('kernel', np.zeros((1, len(bias)))))
  h = kernel @ bias / (bias @ bias)
  length = np.linalg.norm(h)
  columns = np.random.default_rng(0).normal(size=(len(h), _WIDTH))
  basis, _ = np.linalg.qr(np.column_stack([h, columns]))
  basis[:, 0] = h / length if length else 0.0
  server = {k: np.zeros_like(v) for k, v in update.items()} | (server or {})
  before = server.get('kernel', np.zeros_like(kernel))
  head = dict(
    kernel=np.float32(basis.T @ before), bias=np.float32(server['bias'])
  )
  return head, np.float32(length * np.eye(basis.shape[1])[0])


def _train(key, federation, head, h, shares) -> Rounds:
  """Trains the clients of all rounds; `shares` [K] are of labels."""
  client, num, clients = federation
  local = hfl.local_training(client, _forward)
  x, labels = _draw(key, federation, h, shares)
  num_classes, mask = len(shares), jnp.ones(num)

  def one_client(inputs):
    key, x, labels = inputs
    y = jax.nn.one_hot(labels, num_classes)
    update = local(key, {'params': head}, Batch((x,), y, mask=mask))
    return Rounds(update, y.sum(0))

  keys = jax.random.split(key, (_ROUNDS, clients))
  all_rounds = lambda inputs: jax.lax.map(jax.vmap(one_client), inputs)
  return base.jit_once(all_rounds)((keys, x, labels))


def _draw(key, federation, h, shares):
  """Draws inputs [R, C, N, W] and labels [R, C, N], on the host.

  A client's are the same whatever the number of clients.
  """
  num, num_classes = federation.examples, len(shares)
  seed = np.asarray(jax.random.key_data(key))
  alphas = _CONCENTRATION * (0.95 * shares + 0.05 / num_classes)
  deviation = np.float32(_SPREAD * h[0] / len(h) ** 0.5)
  labels, x = [], []
  for client in range(federation.clients):
    rng = np.random.default_rng([*seed, client])
    of_rounds = rng.dirichlet(alphas, _ROUNDS)
    labels.append([rng.choice(num_classes, num, p=p) for p in of_rounds])
    deviations = rng.standard_normal((_ROUNDS, num, len(h)), np.float32)
    x.append(h + deviation * deviations)
  return np.stack(x, 1), np.stack(labels, 1)


def _forward(variables, x, *, train, key):
  """Runs the head alone."""
  del train, key
  head = variables['params']
  return x @ head['kernel'] + head['bias'][None], variables


def _score(name, rounds) -> Remedy:
  """Attacks the mean of the clients' updates, for the labels of the first."""
  num = round(float(rounds.labels[0, 0].sum()))
  count = _compile_count(num)
  counts = count(rounds.updates['bias'].mean(1), rounds.labels.mean(1))
  truth = np.asarray(rounds.labels[_ROUNDS // 2 :, 0])
  share = lambda counts: float(np.minimum(counts, truth).sum(1).mean() / num)
  return Remedy(name, share(np.asarray(counts)), share(num / truth.shape[1]))


@functools.cache
def _compile_count(num):
  """Returns `_count` of N labels; all that a run simulates shares it."""
  return base.jit_once(functools.partial(_count, num))


def _count(num, bias, labels):
  """Counts N labels in the second half of the rounds, [R, K] -> [R / 2, K].

  The first half says how the bias falls with the count of a class: a line for
  each, drawn to that of all, with a variance that is linear in the count.
  """
  half = _ROUNDS // 2
  b, k = bias[:half], labels[:half]
  b_mean, k_mean = b.mean(0), k.mean(0)
  b, k = b - b_mean[None], k - k_mean[None]
  square, product = (k**2).sum(0), (k * b).sum(0)
  prior = square.mean() + 1e-6
  slope = (product + prior * product.sum() / (square.sum() + 1e-6)) / (
    square + prior
  )
  error = (b - slope[None] * k) ** 2 * half / (half - 2)
  k_all = k + k_mean[None] - k_mean.mean()
  rise = jnp.maximum((k_all * error).sum() / ((k_all**2).sum() + 1e-6), 0.0)
  at_zero = jnp.maximum(
    error.mean() - rise * k_mean.mean(), 0.05 * error.mean()
  )
  grid = jnp.arange(num + 1.0)
  mean = b_mean[:, None] + slope[:, None] * (grid[None] - k_mean[:, None])
  var = (at_zero + rise * grid + 1e-12)[None]

  def count_one(beta):
    log_lik = -0.5 * ((beta[:, None] - mean) ** 2 / var + jnp.log(var))
    return posterior.allocate(posterior.infer(log_lik).probs)

  return jax.lax.map(count_one, bias[half:])


def _rms(values) -> float:
  """Returns the root mean square."""
  return float(np.sqrt(np.mean(np.square(values))))
