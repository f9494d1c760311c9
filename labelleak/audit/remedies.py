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
from scipy import stats

from labelleak import base, hfl
from labelleak.attacks.counts import posterior
from labelleak.audit.assessment import Remedy
from labelleak.base import Batch
from labelleak.defenses import clipping, noise

_ROUNDS = 32  # of which the attacker learns from the first half
_SPREAD = 0.5  # deviation of an input from h, relative to |h|
_WIDTH = 32  # directions in which inputs deviate
_CONCENTRATION = 4.0  # of a client's labels about those inferred, a class
_NOISES = 0.01, 0.1, 1.0  # relative to the bias's update
_MULTIPLIERS = 0.5, 1.0  # of DP-SGD's noise, at a norm of 1
_CLIENTS = 2, 10, 50
_NODES = 15  # numbers of labels in the rest that are told apart
_MOST_CLASSES = 2000
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
  last: chex.Array  # [R, C, K] those of the examples that full batches leave


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
    What each leaves; nothing of a head of more than 2000 classes.
  """
  if len(labels) > _MOST_CLASSES:
    return ()
  num = round(float(labels.sum()))
  client = dataclasses.replace(
    client,
    lr=client.lr or 0.01,
    training_mode=False,
    shuffle=client.shuffle and client.epochs > 1,  # labels have no order here
  )
  head, h = _reduce(update, server)
  train = lambda *federation: _train(
    key, Federation(*federation), head, h, labels / num
  )
  size = max(num, 200) * max(len(labels), 100)
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
  rest = _count_rest(client, num)

  def one_client(inputs):
    key, x, labels = inputs
    y = jax.nn.one_hot(labels, num_classes)
    update = local(key, {'params': head}, Batch((x,), y, mask=mask))
    return Rounds(update, y.sum(0), y[num - rest :].sum(0))

  keys = jax.random.split(key, (_ROUNDS, clients))
  all_rounds = lambda inputs: jax.lax.map(jax.vmap(one_client), inputs)
  return base.jit_once(all_rounds)((keys, x, labels))


def _draw(key, federation, h, shares):
  """Draws inputs [R, C, N, W] and labels [R, C, N], on the host.

  A client's are the same whatever the number of clients.
  """
  num, num_classes = federation.examples, len(shares)
  seed = np.asarray(jax.random.key_data(key))
  entropy = -(shares * np.log(np.maximum(shares, 1e-12))).sum()
  alphas = _CONCENTRATION * np.exp(entropy) * shares + 0.05
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
  bias, num = rounds.updates['bias'], round(float(rounds.labels[0, 0].sum()))
  rest = round(float(rounds.last[0, 0].sum()))
  mean = jax.tree.map(lambda a: a.mean(1), rounds._replace(updates=bias))
  counts = _compile_count(num, rest)(mean)
  truth = np.asarray(rounds.labels[_ROUNDS // 2 :, 0])
  share = lambda counts: float(np.minimum(counts, truth).sum(1).mean() / num)
  return Remedy(name, share(np.asarray(counts)), share(num / truth.shape[1]))


def _count_rest(client, num) -> int:
  """Counts the examples that full batches leave, if always the same."""
  size = min(client.batch_size or num, num)
  return 0 if client.poisson or client.shuffle else num % size


@functools.cache
def _compile_count(num, rest):
  """Returns `_count` of N labels; much that a run simulates shares it."""
  return base.jit_once(functools.partial(_count, num, rest))


def _count(num, rest, rounds):
  """Counts N labels in the second half of the rounds, -> [R / 2, K].

  The first half says how the bias falls with the count of a class: a line for
  each, drawn to that of all, with a variance that is linear in the count. A
  label of the rest, which full batches leave, counts for another number.

  Args:
    num: N.
    rest: of the examples, how many full batches leave.
    rounds: leaves [R, K], of a client or of the mean client.
  """
  half = _ROUNDS // 2
  bias, labels, last = (leaf[:half] for leaf in rounds)
  centre = lambda a: a - a.mean(0)[None]
  extra = _weigh_rest(centre(bias), centre(labels), centre(last))
  size = labels + extra * last
  b, k = centre(bias), centre(size)
  square, product = (k**2).sum(0), (k * b).sum(0)
  prior = square.mean() + 1e-6
  slope = (product + prior * product.sum() / (square.sum() + 1e-6)) / (
    square + prior
  )
  error = (b - slope[None] * k) ** 2 * half / (half - 2)
  at_zero, rise = _fit_variance(labels, error)
  grid = np.arange(num + 1)[:, None]
  of_rest, log_prob = _share_rest(num, rest)
  sizes = grid + extra * of_rest
  offset = bias.mean(0) - slope * size.mean(0)
  mean = offset[:, None, None] + slope[:, None, None] * sizes[None]
  var = (at_zero + rise * grid + 1e-12)[None]

  def count_one(beta):
    log_lik = -0.5 * ((beta[:, None, None] - mean) ** 2 / var + jnp.log(var))
    log_lik = jax.nn.logsumexp(log_lik + log_prob[None], axis=-1)
    return posterior.allocate(posterior.infer(log_lik).probs)

  return jax.lax.map(count_one, rounds.updates[half:])


def _share_rest(num, rest):
  """Tabulates how many of k labels are in the rest, and log P, [N + 1, J]."""
  k = np.arange(num + 1)[:, None]
  middle = np.round(k * rest / num).astype(int)
  width = min(_NODES, rest + 1)
  r = np.clip(middle - width // 2, 0, rest + 1 - width) + np.arange(width)
  return r, stats.hypergeom.logpmf(r, num, k, rest)


def _weigh_rest(bias, labels, last):
  """Fits bias = slope * (labels + extra * last) for all classes; extra."""
  dot = lambda a, b: (a * b).sum()
  kk, kr, rr = dot(labels, labels), dot(labels, last), dot(last, last) + 1e-6
  kb, rb = dot(labels, bias), dot(last, bias)
  slope, extra = kb * rr - rb * kr, rb * kk - kb * kr
  return extra / jnp.where(slope == 0, 1.0, slope)


def _fit_variance(k, error):
  """Fits error = at_zero + rise * k; each counts by its likely size."""
  weight = 1 / (1 + k) ** 2
  weight /= weight.sum()
  k_mean, error_mean = (weight * k).sum(), (weight * error).sum()
  product = (weight * (k - k_mean) * error).sum()
  square = (weight * (k - k_mean) ** 2).sum()
  rise = jnp.maximum(product / (square + 1e-9), 0.0)
  return jnp.maximum(error_mean - rise * k_mean, 0.05 * error_mean), rise


def _rms(values) -> float:
  """Returns the root mean square."""
  return float(np.sqrt(np.mean(np.square(values))))
