"""Metrics of label inference: scores [B, K] and labels y [B, K], to []."""

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak.base import InputError
from labelleak.metrics import ratios

_BINS = 15  # of confidence, as Guo et al. have them
_ROUNDING = 1e-3  # of the sum of a row's probabilities


def _materialise(scores: chex.Array, y: chex.Array) -> chex.Array:
  """Puts scores in memory: equal ones must be equal bit by bit.

  XLA computes cheap scores anew for each use, rounded differently, and drops
  optimization barriers on CPU. It does not fuse into a sort.
  """
  shapes = jnp.shape(scores), jnp.shape(y)
  if len(shapes[0]) != 2 or shapes[0] != shapes[1]:
    raise InputError(
      f'scores of shape {shapes[0]} and labels of shape {shapes[1]}: both must'
      ' be [B, K], labels one-hot; vmap over trials.'
    )
  place = jnp.broadcast_to(jnp.arange(scores.shape[1]), scores.shape)
  values, place = jax.lax.sort((scores, place), num_keys=1)
  rows = jnp.arange(len(scores))[:, None]
  return jnp.zeros_like(scores).at[rows, place].set(values)


def label_accuracy(scores: chex.Array, y: chex.Array) -> chex.Array:
  """Returns the share of labels that score highest, [B, K], [B, K] -> [].

  >>> scores = jnp.array([[0.9, 0.1], [0.5, 0.5]])
  >>> float(label_accuracy(scores, jnp.array([[1, 0], [0, 1]])))
  0.75
  """
  return top_k_accuracy(scores, y, 1)


def top_k_accuracy(scores: chex.Array, y: chex.Array, k: int) -> chex.Array:
  """Returns the share of labels among the k highest scores, -> []."""
  scores = _materialise(scores, y)
  true = jnp.take_along_axis(scores, y.argmax(-1)[:, None], -1)
  above, tied = (scores > true).sum(-1), (scores == true).sum(-1)
  credit = jnp.clip(ratios.ratio(k - above, tied), 0.0, 1.0)
  return jnp.where(jnp.isnan(scores).any(-1), 0.0, credit).mean()


def top5_accuracy(scores: chex.Array, y: chex.Array) -> chex.Array:
  """Returns `top_k_accuracy` with k = 5, as in Table 2 of the BLI paper."""
  return top_k_accuracy(scores, y, 5)


def auc(scores: chex.Array, y: chex.Array) -> chex.Array:
  """Returns the area under the ROC curve of two classes, 2 x [B, 2] -> [].

  The chance that a random example of class 1 outscores one of class 0, a tie
  being worth a half (Mann-Whitney), where an example's score is that of class 1
  less that of class 0. Far below a half leaks as much as far above: the side is
  reported as it is. With one class only there is no pair, and it is a half.

  Raises:
    InputError: K != 2.
  """
  scores = _materialise(scores, y)
  if scores.shape[-1] != 2:
    raise InputError(
      f'auc of {scores.shape[-1]} classes: it needs 2; use label_accuracy.'
    )
  positive = y[:, 1] > y[:, 0]
  margin = scores[:, 1] - scores[:, 0]
  wrong = jnp.where(positive, -jnp.inf, jnp.inf)
  margin = jnp.where(jnp.isnan(margin), wrong, margin)
  num = (~positive).sum()
  # Shares of the negatives, not ranks: sums of ranks leave float32 behind.
  negatives = jnp.sort(jnp.where(positive, jnp.inf, margin))
  below, upto = (
    jnp.minimum(jnp.searchsorted(negatives, margin, side=side), num)
    for side in ('left', 'right')
  )
  share = ratios.ratio(0.5 * (below + upto), num)
  area = ratios.ratio((share * positive).sum(), positive.sum())
  return jnp.where(positive.any() & (num > 0), area, 0.5)


def f1(scores: chex.Array, y: chex.Array) -> chex.Array:
  """Returns F1 of class 1 of two classes, [B, 2], [B, 2] -> [].

  2 TP / (2 TP + FP + FN) over all rows at once. The released code of Fu et al.
  averages precision and recall over batches, and calls all rows of a batch
  positive where none was.

  Raises:
    InputError: K != 2.
  """
  if scores.shape[-1] != 2:
    raise InputError(
      f'f1 of {scores.shape[-1]} classes: it needs 2; use label_accuracy.'
    )
  confusion = _confusion(scores, y)
  positives = y[:, 1].sum() + confusion[:, 1].sum()
  return jnp.where(positives > 0, 2 * confusion[1, 1] / positives, 0.0)


def calibration_error(scores: chex.Array, y: chex.Array) -> chex.Array:
  """Returns the expected calibration error, [B, K], [B, K] -> [].

  The mean distance of confidence, a row's largest probability, from accuracy,
  over 15 equal bins of confidence, each by its rows (Guo et al., "On
  Calibration of Modern Neural Networks", 2017). Scores must be probabilities or
  their logarithms; of others it is NaN.
  """
  scores = _materialise(scores, y)
  near_one = lambda total: (jnp.abs(total - 1) < _ROUNDING).all()
  is_share = (scores >= 0).all() & near_one(scores.sum(-1))
  is_log = near_one(jnp.exp(scores).sum(-1))
  p = jnp.where(is_share, scores, jnp.exp(scores))
  confidence = p.max(-1)
  tied = p == confidence[:, None]
  right = ratios.ratio(
    (tied * (y == y.max(-1, keepdims=True))).sum(-1), tied.sum(-1)
  )
  place = jnp.clip((confidence * _BINS).astype(int), 0, _BINS - 1)
  gaps = jnp.zeros(_BINS).at[place].add(confidence - right)
  error = jnp.abs(gaps).sum() / len(p)
  return jnp.where(is_share | is_log, error, jnp.nan)


def label_matrix(scores: chex.Array, y: chex.Array) -> chex.Array:
  """Returns how often a class is restored as which, [B, K], [B, K] -> [K, K].

  The probability matrix of Figure 9 of the BLI paper, C_ij / sum_j C_ij, with
  C_ij the examples of class i that are named j; without examples a row is 0.
  """
  confusion = _confusion(scores, y)
  return ratios.ratio(confusion, confusion.sum(-1, keepdims=True))


def permuted_label_accuracy(scores: chex.Array, y: chex.Array) -> chex.Array:
  """Returns `label_accuracy` after the best renaming of classes, -> [].

  Hungarian matching of the confusion matrix. The renaming is chosen by the
  truth: this is a leak to report (the classes are told apart, though not by
  name), never an attack's accuracy.
  """
  confusion = _confusion(scores, y)
  rows, columns = optax.assignment.hungarian_algorithm(-confusion)
  return confusion[rows, columns].sum() / y.shape[0]


def _confusion(scores: chex.Array, y: chex.Array) -> chex.Array:
  """Counts examples of class i named j, [K, K]: ties spread, no NaN rows."""
  scores = _materialise(scores, y)
  guess = scores == scores.max(-1, keepdims=True)  # a NaN equals nothing
  guess = ratios.ratio(guess, guess.sum(-1, keepdims=True))
  truth = jax.nn.one_hot(y.argmax(-1), y.shape[-1])
  return jnp.matmul(truth.T, guess, precision='highest')
