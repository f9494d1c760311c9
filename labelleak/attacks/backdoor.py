"""Replacement: labels changed through messages that the attacker cannot read.

Liu, Zou et al. ("Batch Label Inference and Replacement Attacks in Black-Boxed
VFL"), Section 5. Encryption hides a cut gradient from a passive party, but the
party computes on it, and may compute something else: it copies the ciphertexts
of one row to another and scales them (`backdoor`, Algorithm 3), or adds a
constant (`relabel`, Eq. 13 and 14). Both are affine, so they run on the
ciphertexts of any scheme.

Such a party departs from the protocol, against which encryption does not help:
these attacks are the mild form. The map that runs on its ciphertexts is its own
choice, and with the identity for a map the third party would decrypt any single
cut gradient for it, unmasked by its own mask, and so name that row's label.
Nothing in Algorithm 1 proves to the others which map was applied.

What the attacker holds of a batch comes as `Notes` with it. Several colluding
parties run the same attack, each on its own link; nothing passes between them
but the notes.
"""

from typing import NamedTuple, Optional

import chex
import jax
import jax.numpy as jnp

from labelleak import validate
from labelleak.base import Tampering
from labelleak.defenses import extra_args


class Notes(NamedTuple):
  """What attackers know of the rows of a batch, -1 where nothing.

  Attributes:
    pairs: [B] place in the batch of the row whose gradient a poisoned row
      takes.
    inferred: [B] class of a row to relabel.
    target: [] class.
  """

  pairs: Optional[chex.Array] = None
  inferred: Optional[chex.Array] = None
  target: Optional[chex.Array] = None


def backdoor(
  *,
  gamma: float = 10.0,
  stealth: str = 'random',
  margin: float = 0.0,
  balanced: bool = False,
  keep_targets: bool = False,
) -> Tampering:
  """Builds Algorithm 3: poisoned rows take the gradients of target rows.

  Target rows are of the target class. For each pair (i, j) the embedding of i
  is sent in the place of j's, and the gradient that comes back for j, times
  gamma, is taken for i's. No label and no gradient is read.

  Args:
    gamma: amplification.
    stealth: what is sent in the place of i: 'random', a vector with the mean
      and the deviation of the honest rows' embeddings, entry by entry, so that
      the active party learns nothing of poisoned rows; 'identity', the
      embedding of i itself, as in the released code.
    margin: ours; what is sent in the place of j has the target's logit lowered
      by it. The loss then asks for so much more of the trigger, where otherwise
      it asks for nothing once the active party's part of j names the target by
      itself. Needs embeddings of one logit a class.
    balanced: ours; what the poisoned rows take is subtracted from the honest
      rows, in equal shares. The batch then moves nothing that all rows share,
      such as a bias: what is learnt tells rows with the trigger from others,
      and the active party has nothing to take back.
    keep_targets: use the gradient of j for j, too. The released code of the
      paper dropped it, VFLAIR's keeps it; it belongs to what was sent, not to
      the embedding of j.

  Raises:
    InputError: gamma is not positive, margin is negative, or an unknown
      stealth.
  """
  validate.positive('backdoor: gamma', gamma)
  validate.at_least('backdoor: margin', margin, 0)
  validate.one_of('backdoor: stealth', stealth, ('random', 'identity'))

  def send(key, h, *, mask, notes):
    poisoned, partners, stolen = _places(notes)
    lowered = h
    if margin:
      lowered -= margin * jax.nn.one_hot(notes.target, h.shape[-1])[None]
    swapped = h.at[partners].set(lowered, mode='drop')
    if stealth == 'identity':
      return swapped
    honest = mask * ~poisoned * ~stolen
    noise = _draw_like(key, h, honest)
    return jnp.where(poisoned[:, None], noise, swapped)

  def change(cut, *, mask, notes, **extra):
    del extra
    poisoned, partners, stolen = _places(notes)
    reward = gamma * cut.at[partners].get(mode='clip')
    others = cut if keep_targets else jnp.where(stolen[:, None], 0.0, cut)
    if balanced:
      honest = (mask > 0) & ~poisoned & ~stolen
      excess = jnp.where(poisoned[:, None], reward, 0.0).sum(0)
      share = excess / jnp.maximum(honest.sum(), 1)
      others -= jnp.where(honest[:, None], share[None], 0.0)
    return jnp.where(poisoned[:, None], reward, others)

  return Tampering(send=send, tamper=extra_args.stateless(change))


def relabel(*, gamma: float = 1.0, reduction: str = 'mean') -> Tampering:
  """Builds Eq. 13 and 14: gamma times the gradient of the target label tau.

  A row of the cut gradient is (S - Y) c, with c = 1 for a loss that is a sum
  over the batch and 1 / B for a mean. The attacker, who has inferred Y, adds
  c at y and subtracts it at tau: [[S - Y]] + [[Y - tau]]. Where the inferred
  label is wrong, what is added is the gradient of no label.

  Args:
    gamma: amplification of the rows that are relabelled.
    reduction: of the loss, 'mean' over the batch (here, padding does not count)
      or 'sum'.

  Raises:
    InputError: gamma is not positive, or an unknown reduction.
  """
  validate.positive('relabel: gamma', gamma)
  validate.one_of('relabel: reduction', reduction, ('mean', 'sum'))

  def change(cut, *, notes, mask, **extra):
    del extra
    count = jnp.maximum(mask.sum(), 1.0) if reduction == 'mean' else 1.0
    num_classes = cut.shape[-1]
    y = jax.nn.one_hot(notes.inferred, num_classes, dtype=cut.dtype)
    target = jax.nn.one_hot(notes.target, num_classes, dtype=cut.dtype)
    chosen = (notes.inferred >= 0)[:, None]
    relabelled = gamma * (cut + (y - target[None]) / count)
    return jnp.where(chosen, relabelled, cut)

  return Tampering(tamper=extra_args.stateless(change))


def _places(notes):
  """Returns who is poisoned, its partner or B, whose place is taken; [B]."""
  pairs = notes.pairs
  poisoned = pairs >= 0
  partners = jnp.where(poisoned, pairs, len(pairs))
  stolen = jnp.zeros_like(poisoned).at[partners].set(True, mode='drop')
  return poisoned, partners, stolen


def _draw_like(key, h, weight):
  """Draws rows [B, D] with the mean and deviation of those of weight 1."""
  count = jnp.maximum(weight.sum(), 1.0)
  mean = weight @ h / count
  square = weight @ jnp.square(h - mean[None]) / count
  noise = jax.random.normal(key, h.shape, h.dtype)
  return mean[None] + jnp.sqrt(square)[None] * noise
