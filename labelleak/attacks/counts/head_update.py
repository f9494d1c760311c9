"""Counts from the captured classifier and the client's description alone.

The path of the softmax (`path`) needs no forward pass. What it does not tell is
integrated out: how far the rest of the model carries the logits, whether the
server's head says anything of typical logits (that of a trained model does
not: its classes differ), and, under optimizers that act on each entry by
itself, how much a class's head inputs differ from those of others.
"""

from collections.abc import Sequence
import dataclasses
import functools
import itertools
from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from labelleak import hfl
from labelleak.attacks.counts import (
  allocation,
  evidence,
  expectation,
  head_input,
  integration,
  path,
  responses,
  saturation,
)
from labelleak.attacks.counts.posterior import Posterior
from labelleak.hfl import Client, Known, View

# These were chosen on updates of PyTorch clients, at seeds 100 to 107; `_EXACT`
# and `_LEVEL` also on the rounds of tests/attacks/fixed_views_test.py, `_ERROR`
# and `_CONFIDENCES` also on seeds 0 and 1 of configs/clients.py. The body of a
# model moves logits as well as its head does:
_REACHES = 0.7, 1.0, 1.4, 2.0, 2.8, 4.0
TYPICAL_REACH = 1.4  # where one has to do
_UNKNOWN_REACHES = 1.0, 8.0, 64.0, 512.0  # where the head's is not known either
_RATES = 0.0, 0.002, 0.007, 0.02, 0.07  # by which reaches shrink, without lr
_SHARES = 1.0, 0.0  # of the server's logits
_TRUST = 2.0  # that they do say it; log odds
# Of a trained model in its examples, where the head tells nothing of them.
_CONFIDENCES = 0.5, 0.75, 0.9, 0.96
MOST_CLASSES = 2000  # of which what costs a pass over all is tried throughout
_ERROR = 0.3  # relative, that the softmax of a path may have
# Log deviation of a class's inputs over columns.
_SPREADS = 0.3, 0.6, 1.0, 1.5, 2.2
_COLUMNS = 8  # quantiles of that

ROUNDING = 0.02  # of a sum that should be 0, over the sum of sizes
_MOST_PATHS = 300_000  # entries times steps of Adam that are run unasked
_EXACT = 2.0  # that nothing scaled an update, log odds
_LEVEL = 0.3  # of the largest entry; of Gaussian noise the median is below
_ADAM = dict(name='adam')


class Node(NamedTuple):
  """What the capture does not tell, [] or [G] each.

  Attributes:
    reach: factor on the path's own.
    share: of the server's logits that typical examples have.
    confidence: of the model in its examples; 0: the path tells their softmax.
    spread: of the head's inputs of a class over those of all, in log.
    response: index of it, where there are several.
    prior: in log.
  """

  reach: chex.Array
  share: chex.Array
  confidence: chex.Array
  spread: chex.Array
  response: chex.Array
  prior: chex.Array


def infer_counts(
  view: View, known: Known, most: Optional[int] = None
) -> Posterior:
  """Infers counts from a captured head, without a forward pass.

  Told no client, it weighs those that are usual. That entries sum to 0 shows
  softmax cross entropy under an optimizer that is linear; that they are of
  about one size, Adam.

  Args:
    view: the head's update and, if captured, the head that the server sent.
    known: sizes, `client` and `defense`; no model.
    most: labels of a class, told a client that is linear; None: N.

  Raises:
    InputError: a head without bias.
  """
  beta = evidence.bias('counts.calibrated', view)
  kernel, _ = hfl.head(view.grads)
  if known.client:
    sums_to_zero = known.client.loss != 'sigmoid'
    quieten = sums_to_zero and known.client.noise_multiplier > 0
    told = infer_told(view, known, quieten=quieten, most=most)
    if known.steps == 1 or responses.tabulate(known).shares is None:
      return told
    return integration.mix(
      told, saturation.infer_counts(beta, known.num_examples)
    )
  if kernel is None:  # the bias alone
    softmax = expectation.uniform(known.num_classes)
    return allocation.weigh_counts(beta, softmax, known)
  return _infer_untold(view, known)


def _infer_untold(view, known):
  """Infers counts of clients that are usual."""
  beta = evidence.bias('counts.calibrated', view)
  kernel, _ = hfl.head(view.grads)
  noisy = _denoise(beta, kernel).quiet < 1  # and no other loss
  total = jnp.maximum(jnp.abs(beta).sum(), 1e-30)
  free = dataclasses.replace(known, defense=None)
  guesses = responses.guess(known)
  if known.defense:
    return _infer_each(view, known, guesses, quieten=True)
  exact = dataclasses.replace(known, defense=())
  plain = _infer_each(view, exact, guesses)
  rescaled = lambda: _infer_each(view, free, guesses, quieten=True)
  if known.defense is None:
    touched = rescaled()
    plain = plain._replace(evidence=plain.evidence + _EXACT)
    plain = jax.tree.map(
      lambda a, b: jnp.where(noisy, a, b),
      touched,
      integration.mix(plain, touched),
    )
  else:
    # What no labels can make, such as momentum or more epochs.
    large = total > 2 * (1 + ROUNDING) * known.steps
    plain = jax.lax.cond(large, rescaled, lambda: plain)
  size = -(-known.batch_size // known.steps)
  client = Client(lr=known.lr, batch_size=size)
  told = lambda **fields: dataclasses.replace(
    free, client=dataclasses.replace(client, **fields)
  )
  entries = known.num_classes * (known.num_examples + 1) * known.steps
  if (
    known.clients > 1
    or len(client.step_sizes(known.batch_size)) != known.steps
    or entries > _MOST_PATHS
  ):
    return plain
  uneven = (jnp.abs(beta.sum()) > ROUNDING * total) & ~noisy
  none = lambda: plain._replace(evidence=-jnp.inf)
  sigmoid = jax.lax.cond(
    uneven, lambda: infer_told(view, told(loss='sigmoid')), none
  )
  signs = jnp.abs(beta).max() < (1 + ROUNDING) * jnp.abs(beta).min()
  adam = jax.lax.cond(
    (uneven & _is_level(kernel)) | signs,
    lambda: infer_told(view, told(optimizer=_ADAM)),
    none,
  )
  saturated = jax.lax.cond(
    uneven, lambda: saturation.infer_counts(beta, known.num_examples), none
  )
  mixed = integration.mix(plain, sigmoid, adam, saturated)
  return jax.tree.map(lambda a, b: jnp.where(signs, a, b), adam, mixed)


def _denoise(beta, kernel):
  """Reads the bias [K] with less noise, where it is not Adam's.

  Entries that are level are, whose rows sum to anything.
  """
  keep = functools.partial(jnp.where, _is_level(kernel))
  as_it_is = head_input.Reading(beta, jnp.ones(()))
  return jax.tree.map(keep, as_it_is, head_input.denoise(beta, kernel))


def _is_level(kernel):
  """Returns whether entries are of about one size, as Adam makes them."""
  size = jnp.abs(kernel)
  live = size.max(1, keepdims=True) > 0
  return jnp.nanmedian(jnp.where(live, size, jnp.nan)) > _LEVEL * size.max()


def _infer_each(view, known, told, *, quieten=False):
  """Infers counts under each of several linear responses, and mixes them."""
  response = told[0] if len(told) == 1 else responses.stack(told)
  return infer_told(view, known, response, quieten=quieten)


def infer_told(
  view: View,
  known: Known,
  response: Optional[responses.Response] = None,
  reaches: Sequence[float] = _REACHES,
  *,
  quieten: bool = False,
  most: Optional[int] = None,
) -> Posterior:
  """Infers counts of a client that responds as described.

  Args:
    view: as of `infer_counts`.
    known: sizes, `defense`, and the client; None: plain SGD in equal slices.
    response: of the client, or several, stacked; None: what is known tells it.
    reaches: by which the body of the model may move logits further.
    quieten: whether noise may be told by the kernel, and lessened.
    most: labels of a class, of linear responses; None: N.

  Raises:
    InputError: as `responses.tabulate`; a head without bias.
  """
  response = response or responses.tabulate(known)
  client = known.client or Client()
  beta = evidence.bias('counts.calibrated', view)
  linear = response.shares is None
  if most is not None:
    response = responses.cut(response, most)
  start = path.read_start(view, linear, known.num_classes)
  if start is None:  # the bias alone
    zeros = jnp.zeros(known.num_classes)
    start = path.Start(zeros, jnp.ones(()), zeros)
  kernel, _ = hfl.head(view.grads)
  if not linear and len(response.sizes) == 1 and kernel is not None:
    beta = _mean_column(beta, kernel)  # whose own entry is a sign
  quiet = jnp.ones(())
  if quieten and linear and kernel is not None:
    beta, quiet, _ = _denoise(beta, kernel)
  beta = beta - jnp.ravel(response.decay)[0] * start.bias
  few = known.num_classes <= MOST_CLASSES
  confidences = _CONFIDENCES if linear and few else ()
  even = jnp.full(known.num_classes, 1 / known.num_classes)
  negative = -jnp.minimum(beta, 0.0).sum()

  def predict(counts, node):
    own = allocation.respond(response, node)
    begin = start._replace(
      logits=node.share * start.logits, reach=node.reach * start.reach
    )
    scale = 1.0
    if known.defense is None:
      probs, _ = path.errors(client, known.num_classes)(begin.logits, even)
      expected = jnp.maximum(counts / counts.sum() - probs, 0.0).sum()
      scale = negative / own.mass / jnp.clip(expected, 0.5, 1.0)
    mean, by_step = path.mean_softmax(begin, counts, known, own, scale)
    ratios = None if linear else _ratios(node.spread)
    softmax = expectation.alike(mean)
    if confidences:
      sure = expectation.confident(len(mean), node.confidence)
      pick = functools.partial(jnp.where, node.confidence > 0)
      softmax = jax.tree.map(pick, sure, softmax)
    return allocation.Prediction(softmax, by_step, ratios)

  told_rate = client.lr or known.lr
  if linear:
    reaches = reaches if told_rate else _RATES
  else:
    rates = (1.0,) if told_rate else _RATES
    reaches = [reach * rate for reach in _UNKNOWN_REACHES for rate in rates]
  nodes = _nodes(response, linear, kernel is not None, reaches, confidences)
  beliefs = allocation.weigh_counts(
    beta,
    predict,
    known,
    error=_ERROR if few else 0.0,
    quiet=quiet,
    response=response,
    nodes=nodes,
  )
  if most is None:
    return beliefs
  never = (0, 0), (0, known.num_examples - most)
  return beliefs._replace(probs=jnp.pad(beliefs.probs, never))


def _nodes(response, linear, has_kernel, reaches, confidences):
  """Returns the grid of what the capture does not tell."""
  steps = response.sizes.shape[-1]
  several = len(response.sizes) if response.sizes.ndim > 1 else 1
  grid = itertools.product(
    reaches if steps > 1 else (1.0,),
    _SHARES if linear and has_kernel else (1.0,),
    (0.0,),
    _SPREADS if has_kernel and not linear and steps == 1 else (0.0,),
  )
  nodes = [(*node, _TRUST * node[1]) for node in grid]
  nodes += [(1.0, 0.0, v, 0.0, 0.0) for v in confidences]
  nodes = [(*node[:-1], i, node[-1]) for node in nodes for i in range(several)]
  return Node(*(jnp.array(column) for column in zip(*nodes)))


def _ratios(spread):
  """Returns the head's inputs of a class over those of all, at quantiles."""
  at = special.ndtri((np.arange(_COLUMNS) + 0.5) / _COLUMNS)
  return jnp.exp(spread * jnp.array(at, spread.dtype) - spread**2 / 10)


def _mean_column(beta, kernel):
  """Returns the mean row [K] of a kernel's update, each towards the bias's.

  Rows of inputs that are 0 do not move, and say nothing.
  """
  sign = jnp.sign(kernel @ beta)
  live = jnp.abs(kernel).max(1) > 0
  return (sign * live) @ kernel / jnp.maximum(live.sum(), 1)
