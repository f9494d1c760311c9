"""Sparsity: the entries of small magnitude are not sent.

The published forms differ in what they count, in ties, and in what becomes of
the rest; they are named by that. `compress` drops a share of each tensor (LLBG,
horizontal FL), `keep_largest` keeps a share of a batch (Fu et al., vertical
FL), `sparsify` sends the rest later (VFLAIR).
"""

from typing import Optional

import jax
import jax.numpy as jnp
import optax

from labelleak import validate
from labelleak.base import InputError
from labelleak.defenses import extra_args
from labelleak.defenses.defense import Defense, transform

_MEMORIES = (None, 'position', 'released', 'sample')


def compress(*, drop: float) -> Defense:
  """Zeroes the share `drop` of smallest magnitudes of each tensor.

  The threshold is the k-th smallest magnitude, k = int(numel * drop); what does
  not exceed it is zeroed, ties included. Nothing is zeroed where k = 0. Padding
  of a cut gradient does not count.

  Raises:
    InputError: drop is outside [0, 1].
  """
  share = 'it is the share of entries set to zero'
  validate.within('compress: drop', drop, '[0, 1]', share)

  def sparse(u):
    k = int(u.size * drop)
    if k == 0:
      return u
    magnitude = jnp.abs(u)
    threshold = jnp.sort(magnitude, axis=None)[k - 1]
    return jnp.where(magnitude <= threshold, jnp.zeros_like(u), u)

  def sparse_rows(cut, real):
    k = extra_args.look_up(real, lambda rows: int(rows * cut.shape[1] * drop))
    magnitude = jnp.where(real > 0, jnp.abs(cut), jnp.inf)
    threshold = jnp.sort(magnitude, axis=None)[jnp.maximum(k, 1) - 1]
    return jnp.where((magnitude <= threshold) & (k > 0), 0.0, cut)

  def update(updates, mask=None, **extra):
    del extra
    if extra_args.is_cut(updates):
      return sparse_rows(
        updates, extra_args.row_mask('compress', updates, mask)
      )
    return jax.tree.map(sparse, updates)

  return transform(extra_args.stateless(update), 'compress', drop)


def keep_largest(*, keep: float) -> Defense:
  """Keeps the share `keep` of largest magnitudes of a cut gradient [B, D].

  Fu et al. (USENIX Security 2022), released code: what strictly exceeds the
  k-th largest magnitude of the whole batch, k = int(B D keep). So k - 1 entries
  survive, and none where all tie.

  Raises:
    InputError: keep is outside (0, 1]. At trace time: k = 0.
  """
  share = 'it is the share of entries sent'
  validate.within('keep_largest: keep', keep, '(0, 1]', share)

  def update(cut, mask=None, **extra):
    del extra
    real = extra_args.row_mask('keep_largest', cut, mask)
    if int(cut.size * keep) == 0:
      raise InputError(
        f'keep_largest: keep={keep} of {cut.size} entries is none; raise it to'
        f' at least {1 / cut.size:.3g}.'
      )
    k = extra_args.look_up(real, lambda rows: int(rows * cut.shape[1] * keep))
    magnitude = jnp.where(real > 0, jnp.abs(cut), -1.0)
    order = jnp.sort(magnitude, axis=None, descending=True)
    return jnp.where(magnitude > order[jnp.maximum(k, 1) - 1], cut, 0.0)

  return transform(extra_args.stateless(update), 'keep_largest', keep)


def sparsify(
  *,
  drop: float,
  memory: Optional[str] = 'position',
  rows: Optional[int] = None,
) -> Defense:
  """Holds back what lies below a quantile of |g|, and adds it the next time.

  GradientSparsification of VFLAIR: the residual is added first; the threshold
  is the quantile `drop` of the magnitudes of the whole batch [B, D], linearly
  interpolated; entries strictly below it are not sent and form the residual.

  Args:
    drop: in [0, 1]; 1 sends only the largest magnitude. VFLAIR's 99.5 is .995.
    memory: 'position': residuals belong to places of the batch, so that they
      reach other samples, and the state must be initialised with an embedding
      of the batch trained on, [B, D]. 'released': and are forgotten where the
      batch changes its size, as in VFLAIR's code, which is twice an epoch with
      a short last batch. 'sample': they belong to rows of the data set; needs
      `index=`. None: nothing is remembered.
    rows: N, rows of the data set, for memory='sample'.

  Raises:
    InputError: drop is outside [0, 1], an unknown memory, rows missing or
      without use. At trace time: a state for another batch size.
  """
  quantile = 'it is the quantile below which entries wait'
  validate.within('sparsify: drop', drop, '[0, 1]', quantile)
  validate.one_of('sparsify: memory', memory, _MEMORIES)
  if (memory == 'sample') != (rows is not None):
    raise InputError(
      f'sparsify: memory={memory!r} with rows={rows}; the number of rows of the'
      " data set belongs to memory='sample', and to no other."
    )

  def init(h):
    if memory is None:
      return ()
    size = h.shape[0] if rows is None else rows
    return jnp.zeros((size, h.shape[1]), h.dtype)

  def update(cut, state, params=None, *, index=None, mask=None, **extra):
    del params, extra
    real = extra_args.row_mask('sparsify', cut, mask) > 0
    if memory is None:
      return _split(cut, real, drop)[0], state
    if memory == 'sample':
      return _send_by_sample(cut, state, real, drop, index)
    return _send_by_place(cut, state, real, drop, memory)

  gradient = optax.GradientTransformationExtraArgs(init, update)
  return transform(gradient, 'sparsify', drop)


def _send_by_sample(cut, state, real, drop, index):
  """Returns what is sent, and what rows of the data set wait with, [N, D]."""
  extra_args.require('sparsify', index=index)
  waiting = jnp.where(real, state[index], 0.0)
  sent, held_back = _split(cut + waiting, real, drop)
  # Padding repeats rows of the data set; only real rows write theirs.
  where = jnp.where(real[:, 0], index, len(state))
  return sent, state.at[where].set(held_back, mode='drop')


def _send_by_place(cut, state, real, drop, memory):
  """Returns what is sent, and what places of a batch wait with, [B, D]."""
  if state.shape != cut.shape:
    raise InputError(
      f'sparsify remembers a batch of shape {state.shape}, not {cut.shape};'
      ' initialise it with the batch size trained on, or use'
      " memory='sample'."
    )
  if memory == 'released':
    full = real.all()
    sent, held_back = _split(cut + jnp.where(full, state, 0.0), real, drop)
    return sent, jnp.where(full, held_back, 0.0)
  sent, held_back = _split(jnp.where(real, cut + state, 0.0), real, drop)
  return sent, jnp.where(real, held_back, state)


def _split(g, real, drop):
  """Splits entries [B, D] into those sent and held back; neither is padding."""
  magnitude = jnp.abs(g)
  below = magnitude < _quantile(magnitude, real, drop)
  return jnp.where(below, 0.0, g), jnp.where(below & real, g, 0.0)


def _quantile(magnitude, real, share):
  """Returns the linearly interpolated quantile of the entries of real rows."""
  width = magnitude.shape[1]
  last = lambda rows: max(rows * width - 1, 0)
  position = lambda rows: last(rows) * share
  low = extra_args.look_up(real, lambda rows: int(position(rows)))
  high = extra_args.look_up(
    real, lambda rows: min(int(position(rows)) + 1, last(rows))
  )
  weight = extra_args.look_up(real, lambda rows: position(rows) % 1)
  largest = jnp.finfo(magnitude.dtype).max
  order = jnp.sort(jnp.where(real, magnitude, largest), axis=None)
  below, above = order[low], order[high]
  return jnp.minimum(below + weight * (above - below), above)
