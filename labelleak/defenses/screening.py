"""Screening: rows whose embedding does not look like its label's."""

from typing import Optional

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import validate
from labelleak.defenses import extra_args
from labelleak.defenses.defense import Defense, transform

_RIDGE = 1e-5  # of the mean variance


def screen(*, drop: float) -> Defense:
  """Sends no gradient for the most anomalous share of a batch's embeddings.

  A row that steals another's place brings an embedding that does not fit the
  label there. The score is the Mahalanobis distance of an embedding to the mean
  of its label's, with one covariance for all classes, both of the batch: the
  distance of a linear discriminant (Lee et al. 2018 score inputs that a
  classifier was not trained on by it). The active party keeps its own gradient.

  Args:
    drop: share of the rows, the next whole number of them.

  Raises:
    InputError: drop is outside [0, 1). At trace time: no embedding or labels.
  """
  validate.within('screen: drop', drop, '[0, 1)', 'it is a share of the rows')

  def update(cut, state, params=None, *, labels=None, mask=None, **extra):
    del extra
    extra_args.require('screen', params=params, labels=labels)
    real = extra_args.row_mask('screen', cut, mask)[:, 0]
    score = mahalanobis(params, labels, real)
    keep = jnp.round((1.0 - drop) * real.sum()).astype(int)
    last = jnp.sort(jnp.where(real > 0, score, jnp.inf))[keep - 1]
    return cut * (score <= last)[:, None], state

  init = lambda params: optax.EmptyState()
  gradient = optax.GradientTransformationExtraArgs(init, update)
  return transform(gradient, 'screen', drop)


def mahalanobis(
  h: chex.Array, y: chex.Array, mask: Optional[chex.Array] = None
) -> chex.Array:
  """Returns the squared Mahalanobis distance of each row to its class, [B].

  Of embeddings h [B, D] and labels y [B, K], whose largest entry counts; rows
  whose mask [B] is 0 shape no mean and no covariance.
  """
  mask = jnp.ones(len(h), h.dtype) if mask is None else mask
  member = jax.nn.one_hot(y.argmax(-1), y.shape[-1], dtype=h.dtype)
  member *= mask[:, None]
  exact = dict(precision='highest')
  count = jnp.maximum(member.sum(0), 1.0)[:, None]
  mean = jnp.matmul(member.T, h, **exact) / count
  gap = h - mean[y.argmax(-1)]
  counted = gap * mask[:, None]
  covariance = jnp.matmul(counted.T, counted, **exact)
  covariance /= jnp.maximum(mask.sum(), 1.0)
  width = h.shape[-1]
  ridge = _RIDGE * jnp.trace(covariance) / width + 1e-12
  solved = jnp.linalg.solve(covariance + ridge * jnp.eye(width), gap.T)
  return (gap * solved.T).sum(-1)
