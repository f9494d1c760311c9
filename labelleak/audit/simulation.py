"""Simulated rounds of clients who differ in their labels, with a head alone.

The head is a linear model on inputs that vary about the mean input of the
capture, h = kernel @ bias / |bias|^2, since a head's update is sum_x (p - y) of
the bias and sum_x x (p - y)^T of the kernel.
"""

import dataclasses
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np

from labelleak import compilation, hfl
from labelleak.base import Batch

State = dict[str, np.ndarray]

ROUNDS = 32
_SPREAD = 0.5  # deviation of an input from h, relative to |h|
_WIDTH = 32  # directions in which inputs deviate
_CONCENTRATION = 4.0  # of a client's labels about those inferred, a class


class Federation(NamedTuple):
  """What is simulated: C clients of N examples each, alike but for labels."""

  client: hfl.Client
  examples: int
  clients: int = 1


class Rounds(NamedTuple):
  """Simulated rounds, of C clients each, on the host."""

  updates: chex.ArrayTree  # leaves [R, C, ...]
  labels: np.ndarray  # [R, C, K]
  last: np.ndarray  # [R, C, K] those of the examples that full batches leave


def reduce(update: State, server: Optional[State]) -> tuple[State, np.ndarray]:
  """Reduces the head to the directions in which inputs vary.

  Args:
    update: 'bias' [K] and 'kernel' [H, K]? of the capture.
    server: the same before; None: zeros.

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


def train(
  key: chex.PRNGKey,
  federation: Federation,
  head: State,
  h: np.ndarray,
  shares: np.ndarray,
) -> Rounds:
  """Trains the clients of all rounds.

  Args:
    key: of data and clients.
    federation: who trains.
    head: of `reduce`.
    h: the mean input, of `reduce`.
    shares: [K] of the labels, about which those of clients are drawn.
  """
  client, num, clients = federation
  if client.epochs == 1:  # labels are in no order
    client = dataclasses.replace(client, shuffle=False)
  local = hfl.local_training(client, _forward)
  x, labels = _draw(key, federation, h, shares)
  num_classes, mask = len(shares), jnp.ones(num)
  rest = _count_rest(client, num)

  def one_client(inputs):
    key, x, labels = inputs
    y = jax.nn.one_hot(labels, num_classes)
    update = local(key, {'params': head}, Batch((x,), y, mask=mask))
    return Rounds(update, y.sum(0), y[num - rest :].sum(0))

  def all_rounds(key, *data):
    keys = jax.random.split(key, (ROUNDS, clients))
    return jax.lax.map(jax.vmap(one_client), (keys, *data))

  return jax.device_get(compilation.jit_once(all_rounds)(key, x, labels))


def _draw(key, federation, h, shares):
  """Draws inputs [R, C, N, W] and labels [R, C, N], on the host.

  A client's are the same whatever the number of clients. Who learns from the
  first half of the rounds sees other labels there, so as to know all classes.
  """
  num, num_classes = federation.examples, len(shares)
  seed = np.asarray(jax.random.key_data(key))
  alphas = _concentrate(shares), _concentrate((shares + 1 / num_classes) / 2)
  deviation = np.float32(_SPREAD * h[0] / len(h) ** 0.5)
  labels, x = [], []
  for client in range(federation.clients):
    rng = np.random.default_rng([*seed, client])
    of_rounds = [rng.dirichlet(alphas[i < ROUNDS // 2]) for i in range(ROUNDS)]
    labels.append([rng.choice(num_classes, num, p=p) for p in of_rounds])
    deviations = rng.standard_normal((ROUNDS, num, len(h)), np.float32)
    x.append(h + deviation * deviations)
  return np.stack(x, 1), np.stack(labels, 1)


def _concentrate(shares):
  """Returns Dirichlet's parameters, a few for each class that is there."""
  entropy = -(shares * np.log(np.maximum(shares, 1e-12))).sum()
  return _CONCENTRATION * np.exp(entropy) * shares + 0.05


def _forward(variables, x, *, train, key):
  """Runs the head alone."""
  del train, key
  head = variables['params']
  return x @ head['kernel'] + head['bias'][None], variables


def _count_rest(client, num) -> int:
  """Counts the examples that full batches leave, if always the same."""
  size = min(client.batch_size or num, num)
  return 0 if client.poisson or client.shuffle else num % size
