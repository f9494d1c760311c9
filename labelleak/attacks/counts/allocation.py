"""From an update and a model of the softmax to integer counts.

Rounds alternate between the counts and the softmax that the examples of other
classes give to a class. What no grant tells (`integration`) is integrated out;
`likelihood` and `posterior` are one node of it.
"""

import dataclasses
from typing import Optional
import warnings

import chex
import jax.numpy as jnp

from labelleak.attacks.counts import (
  expectation,
  integration,
  likelihood,
  posterior,
)
from labelleak.hfl import Known

_MODELLED = 'clip', 'gaussian', 'laplace'
_RATIO_ERROR = 0.05  # relative, of a step's norm as the model tells it


def count_labels(
  beta: chex.Array,
  softmax: expectation.Softmax,
  known: Known,
  *,
  error: float = 0.0,
  quiet: chex.Array | float = 1.0,
  ratio: Optional[chex.Array] = None,
) -> chex.Array:
  """Counts labels from the bias update and a model of the mean softmax, [K].

  Where the softmax depends on the class, rounds alternate: the counts say which
  softmax the examples of other classes give to class i, that says the counts.
  Scale and noise floor are integrated over a grid, weighted by evidence.

  Args:
    beta: [K] bias update, or what is read of it by `head_input.fuse`.
    softmax: the model's.
    known: sizes and `defense`.
    error: relative, of the mean softmax: the model may be as good as its
      variances say, or off by this much in each class on its own.
    quiet: [] granted noise on `beta` over that on one entry of the update.
    ratio: [] norm of a step's gradient over that of its bias part, where the
      model tells it: says what a granted clip left.
  """
  table = likelihood.weights(known.batch_size, known.steps, known.clients)
  n = known.num_examples
  k = jnp.arange(n + 1.0)[None]
  w = known.steps / n  # mean weight of an example
  noise, clip = granted_defense(known)
  noise = noise * quiet
  counts = jnp.full(known.num_classes, n / known.num_classes)
  trust, scatter, unsure = _confidence(softmax, known)
  # k examples scatter, and the mean of their class is itself uncertain.
  own_var = w**2 * (scatter[:, None] * k + unsure[:, None] * k**2)
  off_var = softmax.var * (1 - jnp.eye(known.num_classes))
  for _ in range(3 if known.labelled else 1):
    a = w * counts
    others = jnp.maximum(known.steps - a, 1e-6)
    q = (a @ softmax.mean - a * jnp.diag(softmax.mean)) / others
    var = a @ (w * off_var) + a**2 @ (off_var / softmax.num[:, None])
    var = var[:, None] + own_var

    def evaluate(scale, floor, doubt, off, blur=0.0, q=q, var=var):
      wrong = (off * known.steps * q)[:, None]
      spread = noise**2 + scale**2 * (var + floor**2 + wrong**2)
      spread += (blur * beta)[:, None] ** 2
      beliefs = posterior.infer(
        likelihood.log_likelihood(
          beta,
          known.steps * q,
          doubt * (1 - trust) + q,
          scale,
          jnp.sqrt(spread),
          table,
        )
      )
      fit = integration.log_prior(doubt)
      if clip and ratio is not None:
        remains = _clip_scale(beliefs.probs, q, ratio, known, clip)
        fit -= 0.5 * (jnp.log(scale / remains) / _RATIO_ERROR) ** 2
      return beliefs._replace(evidence=beliefs.evidence + fit)

    unit = float(table.total[1].min())
    probs = integration.integrate(
      evaluate, beta, known, unit=unit, clipped=clip is not None, error=error
    )
    counts = probs @ k[0]
  return posterior.allocate(probs)


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
  mean, var = jnp.diag(softmax.mean), jnp.diag(softmax.var)
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
