"""Counts from the captured classifier and the client's description alone.

The path of the softmax (`path`) needs no forward pass. What it does not tell is
integrated out: how far the rest of the model carries the logits, whether the
server's head says anything of typical logits (that of a trained model does
not: its classes differ), and, under optimizers that act on each entry by
itself, how much a class's head inputs differ from those of others.
"""

import itertools
from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np
from scipy import stats

from labelleak import hfl
from labelleak.attacks.counts import (
  allocation,
  evidence,
  expectation,
  path,
  responses,
)
from labelleak.attacks.counts.posterior import Posterior
from labelleak.hfl import Client, Known, View

# These were chosen on updates of PyTorch clients, at seeds 100 to 107. The body
# of a model moves logits as well as its head does:
_REACHES = 0.7, 1.0, 1.4, 2.0, 2.8, 4.0
_UNKNOWN_REACHES = 1.0, 8.0, 64.0, 512.0  # where the head's is not known either
_SHARES = 1.0, 0.0  # of the server's logits
_TRUST = 2.0  # that they do say it; log odds
# Log deviation of a class's inputs over columns.
_SPREADS = 0.3, 0.6, 1.0, 1.5, 2.2
_COLUMNS = 8  # quantiles of that


class Node(NamedTuple):
  """What the capture does not tell, [] or [G] each.

  Attributes:
    reach: factor on the path's own.
    share: of the server's logits that typical examples have.
    spread: of the head's inputs of a class over those of all, in log.
    prior: in log.
  """

  reach: chex.Array
  share: chex.Array
  spread: chex.Array
  prior: chex.Array


def infer_counts(view: View, known: Known) -> Posterior:
  """Infers counts from a captured head, without a forward pass.

  Args:
    view: the head's update and, if captured, the head that the server sent.
    known: sizes, `client` and `defense`; no model.

  Raises:
    InputError: a head without bias.
  """
  response = responses.tabulate(known)
  client = known.client or Client()
  beta = evidence.bias('counts.calibrated', view)
  linear = response.shares is None
  start = path.read_start(view, linear, known.num_classes)
  if start is None:  # the bias alone
    if known.client is None:
      softmax = expectation.uniform(known.num_classes)
      return allocation.weigh_counts(beta, softmax, known)
    zeros = jnp.zeros(known.num_classes)
    start = path.Start(zeros, jnp.ones(()), zeros)
  kernel, _ = hfl.head(view.grads)
  if not linear and known.steps == 1 and kernel is not None:
    beta = _mean_column(beta, kernel)  # whose own entry is a sign
  still = jnp.zeros((known.steps, known.num_classes))
  beta = beta - responses.respond(client, still, start.bias)  # weight decay
  even = jnp.full(known.num_classes, 1 / known.num_classes)
  negative = -jnp.minimum(beta, 0.0).sum() / response.mass

  def predict(counts, node):
    begin = start._replace(
      logits=node.share * start.logits, reach=node.reach * start.reach
    )
    scale = 1.0
    if known.defense is None:
      probs, _ = path.errors(client, known.num_classes)(begin.logits, even)
      expected = jnp.maximum(counts / counts.sum() - probs, 0.0).sum()
      scale = negative / jnp.clip(expected, 0.5, 1.0)
    mean, by_step = path.mean_softmax(
      begin, counts, known, response.gains, scale
    )
    ratios = None if linear else _ratios(node.spread)
    softmax = expectation.alike(mean)
    return allocation.Prediction(softmax, by_step, ratios)

  nodes = _nodes(known.steps, linear, kernel is not None)
  return allocation.weigh_counts(beta, predict, known, nodes=nodes)


def _nodes(steps, linear, has_kernel):
  """Returns the grid of what the capture does not tell."""
  reaches = _REACHES if linear else _UNKNOWN_REACHES
  grid = itertools.product(
    reaches if steps > 1 else (1.0,),
    _SHARES if linear and has_kernel else (1.0,),
    _SPREADS if has_kernel and not linear and steps == 1 else (0.0,),
  )
  grid = [(*node, _TRUST * node[1]) for node in grid]
  return Node(*(jnp.array(column) for column in zip(*grid)))


def _ratios(spread):
  """Returns the head's inputs of a class over those of all, at quantiles."""
  at = stats.norm.ppf((np.arange(_COLUMNS) + 0.5) / _COLUMNS)
  return jnp.exp(spread * jnp.array(at, spread.dtype) - spread**2 / 10)


def _mean_column(beta, kernel):
  """Returns the mean row [K] of a kernel's update, each towards the bias's.

  Rows of inputs that are 0 do not move, and say nothing.
  """
  sign = jnp.sign(kernel @ beta)
  live = jnp.abs(kernel).max(1) > 0
  return (sign * live) @ kernel / jnp.maximum(live.sum(), 1)
