"""The softmax along a client's steps, from the captured classifier alone.

A mean-loss gradient of the head is, about, the outer product of the head's mean
input h and that of the bias. So the kernel's update says h, the server's head
says its logits, and the client's steps can be run on these K numbers: the bias
moves by the optimizer, the logits by `reach` times as much, since the kernel
moves along h. No forward pass and no data are needed.
"""

from collections.abc import Callable
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import hfl
from labelleak.attacks.counts.responses import Response
from labelleak.hfl import Client, Known, View

# (logits [K], label shares [K]) -> probabilities [K], the bias's gradient [K]
Errors = Callable[[chex.Array, chex.Array], tuple[chex.Array, chex.Array]]


class Start(NamedTuple):
  """Where the logits of a typical example start, and how far they go.

  Attributes:
    logits: [K] of the server's head at the mean input.
    reach: [] by how much a logit moves while its bias moves by 1.
    bias: [K] of the server's head; 0 where it is not known.
  """

  logits: chex.Array
  reach: chex.Array
  bias: chex.Array


def read_start(view: View, linear: bool, num_classes: int) -> Optional[Start]:
  """Reads the start of the path from a view; None without a kernel's update.

  Args:
    view: with the head's update and, if known, the server's head.
    linear: whether the optimizer keeps the ratio of kernel and bias. Otherwise
      the mean input is not known, and the logits start at the biases.
    num_classes: K.
  """
  kernel, beta = hfl.head(view.grads)
  if kernel is None or beta is None:
    return None
  bias = jnp.zeros(num_classes)
  server = None
  if view.variables and 'params' in view.variables:
    server, own = hfl.head(view.variables['params'])
    bias = bias if own is None else own
  if not linear:
    return Start(bias, jnp.ones(()), bias)
  h = kernel @ beta / jnp.maximum(beta @ beta, 1e-30)
  logits = bias if server is None else server.T @ h + bias
  return Start(logits, 1.0 + h @ h, bias)


def mean_softmax(
  start: Start,
  counts: chex.Array,
  known: Known,
  response: Response,
  scale: chex.Array | float = 1.0,
) -> tuple[chex.Array, chex.Array]:
  """Returns the typical softmax [K], a mean by gain, and of each step [S, K].

  Args:
    start: of the path.
    counts: [K] expected, which every step has its share of.
    known: says the client, or steps and lr of one that takes plain SGD.
    response: says sizes and gains of the S steps.
    scale: [] of the update; what it lacks or has too much the client moved by.
  """
  client = known.client or Client(lr=known.lr)
  shares = counts / counts.sum()
  sizes = jnp.asarray(response.sizes, float)
  if client.reduction == 'mean':
    sizes = jnp.ones_like(sizes)
  tx = client.make_optimizer(client.lr or known.lr or 1.0)
  loss = errors(client, len(counts))

  def step(carry, size):
    bias, state = carry
    logits = start.logits + scale * start.reach * (bias - start.bias)
    probs, gradient = loss(logits, shares)
    gradient = size * gradient + client.proximal * (bias - start.bias)
    move, state = tx.update(gradient, state, bias)
    return (optax.apply_updates(bias, move), state), probs

  _, probs = jax.lax.scan(step, (start.bias, tx.init(start.bias)), sizes)
  weights = jnp.asarray(response.gains / response.mass, probs.dtype)
  return weights @ probs, probs


def errors(client: Client, num_classes: int) -> Errors:
  """Returns what a client's loss makes of typical logits."""
  smooth = client.label_smoothing
  weights = jnp.array(client.class_weights or (1.0,) * num_classes)

  def softmax(logits, shares):
    probs = jax.nn.softmax(logits)
    target = weights * ((1 - smooth) * shares + smooth / num_classes)
    if client.reduction == 'mean':
      target = target / (weights @ shares)
    return probs, probs * target.sum() - target

  def sigmoid(logits, shares):
    probs = jax.nn.sigmoid(logits)
    scale = num_classes if client.reduction == 'mean' else 1.0
    return probs, weights * (probs - shares) / scale

  return sigmoid if client.loss == 'sigmoid' else softmax
