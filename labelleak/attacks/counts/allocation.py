"""From an update and a model of the softmax to integer counts.

Rounds alternate between the counts and the softmax that the examples of other
classes give to a class. What no grant tells (`integration`) is integrated out;
`likelihood` and `posterior` are one node of it.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple, Optional
import warnings

import chex
import jax
import jax.numpy as jnp

from labelleak.attacks.counts import (
  expectation,
  integration,
  likelihood,
  posterior,
  responses,
)
from labelleak.hfl import Client, Known

_MODELLED = 'clip', 'gaussian', 'laplace'
# Relative, of what clipping by example leaves of one class and of another.
_CLIP_SPREAD = 0.05
_RATIO_ERROR = 0.05  # relative, of a step's norm as the model tells it
_WRONG_RATIO = -6.4  # log odds, at a scale: one in twenty is worth nothing


class Prediction(NamedTuple):
  """What the model of the softmax says before the update is seen.

  Attributes:
    softmax: moments of an example's softmax, by its class.
    by_step: [S, K] the typical softmax of each step, of nonlinear optimizers.
    ratios: [R] of the head's inputs, a class's to those of all, over which a
      nonlinear response is averaged; None: all 1.
  """

  softmax: expectation.Softmax
  by_step: Optional[chex.Array] = None
  ratios: Optional[chex.Array] = None


# (expected counts [K], a node of what is not known) -> `Prediction`
Predict = Callable[[chex.Array, Any], Prediction]


def weigh_counts(
  beta: chex.Array,
  softmax: expectation.Softmax | Predict,
  known: Known,
  *,
  error: float = 0.0,
  quiet: chex.Array | float = 1.0,
  ratio: Optional[chex.Array] = None,
  response: Optional[responses.Response] = None,
  nodes: Any = None,
) -> posterior.Posterior:
  """Infers counts from the bias update and a model of the softmax.

  Where the softmax depends on the class, or on where training leads, passes
  alternate: the counts say which softmax the examples of other classes give to
  class i, that says the counts. The close look at a scale expects what the
  wide one found, too. Scale, noise floor and what `nodes` say is not known are
  integrated over a grid, weighted by evidence.

  Args:
    beta: [K] bias update, or what is read of it by `head_input.fuse`.
    softmax: the model's, or what tells it from the counts.
    known: sizes, `client` and `defense`.
    error: relative, of the mean softmax: the model may be as good as its
      variances say, or off by this much in each class on its own.
    quiet: [] granted noise on `beta` over that on one entry of the update.
    ratio: [] norm of a step's gradient over that of its bias part, where the
      model tells it: says what a granted clip left.
    response: of the clients; None: what is known of them tells it. Or several,
      each leaf with a first axis, of which a node's `response` is the index.
    nodes: [G, ...] what `softmax` does not know, with a log `prior`; None: one.
  """
  response = response or responses.tabulate(known)
  client = known.client or Client()
  moving = callable(softmax)
  predict = softmax if moving else lambda counts, node: Prediction(softmax)
  alternates = known.labelled or (
    moving and (response.sizes.shape[-1] > 1 or bool(client.class_weights))
  )

  def given(node):
    own = respond(response, node)

    def look(counts):
      prediction = predict(counts, node)
      return _look(beta, prediction, counts, known, own, quiet, ratio)

    _, clip = granted_defense(known)
    even = jnp.full(known.num_classes, own.num / known.num_classes)
    _, unit = _loss_weights(client, even)
    return integration.integrate(
      look,
      even,
      beta,
      known,
      unit=own.unit,
      mass=own.mass * unit,
      clipped=clip is not None or client.clip_per_example is not None,
      noisy=clip is not None or own.noise > 0,
      error=error,
      alternates=alternates,
    )

  if nodes is None:
    return given(None)
  beliefs = jax.lax.map(given, nodes)
  return integration.mix(
    beliefs._replace(evidence=beliefs.evidence + nodes.prior)
  )


def respond(response: responses.Response, node: Any) -> responses.Response:
  """Returns the response of a node, where there are several."""
  if response.sizes.ndim == 1:
    return response
  return jax.tree.map(lambda a: a[node.response], response)


def _look(beta, prediction, counts, known, response, quiet, ratio):
  """Returns how nodes are evaluated under a prediction made of `counts`."""
  softmax, client = prediction.softmax, known.client or Client()
  k = jnp.arange(float(len(response.table.total)))[None]
  w = response.mass / response.num  # mean weight of an example
  noise, clip = granted_defense(known)
  noise = quiet * jnp.hypot(noise * response.loudness, response.noise)
  trust, scatter, unsure = _confidence(softmax, known)
  # k examples scatter, and the mean of their class is itself uncertain.
  own_var = w**2 * (scatter[:, None] * k + unsure[:, None] * k**2)
  if client.clip_per_example is not None:
    own_var += (_CLIP_SPREAD * w * k) ** 2
  a = w * counts
  sum_others = expectation.sum_others
  others = jnp.maximum(response.mass - a, 1e-6)
  q = softmax.mean[0]
  if len(softmax.mean) > 1:
    q = sum_others(a, softmax.mean) / others
  var = sum_others(w * a + a**2 / softmax.num, softmax.var)
  var = var[:, None] + own_var
  smooth = client.label_smoothing
  share, unit = _loss_weights(client, counts)  # [K], []
  target = share * smooth / known.num_classes
  paths = None
  if response.shares is not None:
    keep = share * (1 - trust + q - smooth)
    probs = prediction.by_step
    if probs is None:
      probs = jnp.broadcast_to(q, (known.steps, len(q)))
    probs = probs - target[None]
    ratios = prediction.ratios
    ratios = jnp.ones(1) if ratios is None else ratios
    paths = _run_paths(probs, keep, ratios, unit, response, client)

  def evaluate(scale, floor, doubt, off, blur=0.0):
    wrong = (off * response.mass * q)[:, None]
    spread = noise**2 + scale**2 * (var + floor**2 + wrong**2)
    spread += (blur * beta)[:, None] ** 2
    if paths is None:
      keep = share * (doubt * (1 - trust) + q - smooth)
      # Scaled before they spread, or XLA keeps all nodes in memory.
      offset = scale * unit * response.mass * (q - target)
      weight = scale * unit * keep
      total = jnp.asarray(response.table.total)
      mean = offset[:, None, None] - weight[:, None, None] * total[None]
    else:
      mean = scale * paths
    beliefs = posterior.infer(
      likelihood.log_likelihood(
        beta, mean, jnp.sqrt(spread), jnp.asarray(response.table.log_prob)
      ),
      num=response.num,
    )
    fit = integration.log_prior(doubt)
    if clip and ratio is not None:
      remains = _clip_scale(beliefs.probs, q, ratio, known, clip)
      miss = jnp.log(scale / remains) / _RATIO_ERROR
      fit += jnp.logaddexp(-0.5 * miss**2, _WRONG_RATIO)
    return beliefs._replace(evidence=beliefs.evidence + fit)

  return evaluate


def _run_paths(probs, keep, ratios, unit, response, client):
  """Runs the steps of every class for every count of it, [K, N + 1, R].

  Args:
    probs: [S, K] of other examples, less what smoothing gives to all.
    keep: [K] what an example adds less.
    ratios: of the head's inputs, over which the end is averaged.
    unit: [] of the loss.
    response: with the steps' shares.
    client: says the optimizer.
  """
  sizes = jnp.asarray(response.gains)[:, None, None]
  shares = jnp.asarray(response.shares)

  def one(args):
    probs, keep = args

    def end(ratio):
      gradients = sizes * probs[:, None, None] - ratio * keep * shares
      return responses.respond(client, unit * gradients)

    return jax.lax.map(end, ratios).mean(0)

  return jax.lax.map(one, (probs.T, keep))


def _loss_weights(client, counts):
  """Returns what an example of each class weighs [K], and the loss's unit."""
  weights = jnp.array(client.class_weights or (1.0,) * len(counts))
  if client.loss == 'sigmoid':
    mean = client.reduction == 'mean'
    return weights, 1.0 / len(counts) if mean else 1.0
  if client.reduction == 'mean' and client.clip_per_example is None:
    return weights * counts.sum() / (weights @ counts), 1.0
  return weights, 1.0


def granted_defense(known: Known) -> tuple[float, Optional[float]]:
  """Returns the deviation of noise on the update, and the norm of a clip.

  As granted: 0 and None where nothing is.
  """
  strength = dict(known.defense or ())
  std = strength.get('gaussian', 0.0) + strength.get('laplace', 0.0) * 2**0.5
  noise = std * (known.steps / known.clients) ** 0.5
  return noise, strength.get('clip')


def forget_unmodelled(known: Known) -> Known:
  """Returns what is known, without a defense that is not modelled here.

  What such a defense leaves is an unknown scale and an unknown noise; that is
  more than nothing, which an attack must not take it for.
  """
  kinds = [kind for kind, _ in known.defense or ()]  # canonical, by `Known`
  other = [kind for kind in kinds if kind not in _MODELLED]
  if not other:
    return known
  warnings.warn(
    f'counts.calibrated has no model of {", ".join(other)}; it takes scale and'
    ' noise of the update as unknown.',
    stacklevel=2,
  )
  return dataclasses.replace(known, defense=None)


def _confidence(softmax, known):
  """Returns mean, variance and error of the mean of the own class, 3 x [K].

  A handful of examples a class leaves both moments uncertain: ten confident
  ones say little of the eleventh. So classes share one variance, and their
  means are shrunk to each other as far as chance explains their differences
  (James and Stein).
  """
  mean, var = map(expectation.own, (softmax.mean, softmax.var))
  if not known.labelled:
    return mean, var, var / softmax.num
  var = jnp.full_like(var, var.mean())
  error = var / softmax.num
  between = jnp.maximum(mean.var() - error.mean(), 0.0)
  weight = between / jnp.maximum(between + error, 1e-12)
  return mean.mean() + weight * (mean - mean.mean()), var, weight * error


def _clip_scale(probs, q, ratio, known, clip):
  """Returns what clipping leaves of a step that draws from these counts, [].

  A step's bias part is q minus the label shares of b of the B examples, drawn
  without replacement; the norm of the whole gradient is `ratio` times its norm.
  """
  num, size = known.batch_size, known.batch_size / known.steps
  k = jnp.arange(probs.shape[1])
  mean, square = probs @ k / num, probs @ k**2 / num**2
  sampling = (mean - square) * (num - size) / (size * max(num - 1, 1))
  norm = ratio * jnp.sqrt((square + sampling - 2 * q * mean + q**2).sum())
  return jnp.minimum(1.0, clip / norm)
