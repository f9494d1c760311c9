"""Metrics: where the truth meets what an attack returned, and nowhere else.

One batch is the unit; vmap over trials. Horizontal FL: counts [K] that an
attack returned and truth [K], the counts of the victim's labels, to one number.
An empty denominator gives 0, as in scikit-learn: who names nothing is not
precise. Vertical FL: scores [B, K], higher for a likelier label, and the labels
y [B, K], one-hot. Equal scores count as if ties were broken at random, in
expectation, and a row with a NaN names no class: it is a miss.
"""

import chex
import jax
import jax.numpy as jnp
from jax.scipy import special
import numpy as np
from scipy import optimize

from labelleak.base import InputError


def _ratio(numerator, denominator):
  return numerator / jnp.maximum(denominator, 1)


def _check(counts, truth):
  chex.assert_rank([counts, truth], 1)
  chex.assert_equal_shape([counts, truth])


def count_accuracy(counts: chex.Array, truth: chex.Array) -> chex.Array:
  """Share of the labels recovered, [K], [K] -> [].

  sum_i min(counts_i, truth_i) / B, the published attack success rate (Gat and
  Sharif 2024, section 6.1): order does not matter and, as counts sum to B,
  every wrong guess costs one label.

  >>> float(count_accuracy(jnp.array([2, 1, 1]), jnp.array([3, 1, 0])))
  0.75
  """
  _check(counts, truth)
  return _ratio(jnp.minimum(counts, truth).sum(), truth.sum())


def presence_precision(counts: chex.Array, truth: chex.Array) -> chex.Array:
  """Share of the named classes that are in the batch, [K], [K] -> []."""
  _check(counts, truth)
  return _ratio(((counts > 0) & (truth > 0)).sum(), (counts > 0).sum())


def presence_recall(counts: chex.Array, truth: chex.Array) -> chex.Array:
  """Share of the classes in the batch that are named, [K], [K] -> []."""
  _check(counts, truth)
  return _ratio(((counts > 0) & (truth > 0)).sum(), (truth > 0).sum())


def count_error(counts: chex.Array, truth: chex.Array) -> chex.Array:
  """Mean absolute error of a class's count, sum_i |c_i - t_i| / K."""
  _check(counts, truth)
  return jnp.abs(counts - truth).sum() / truth.shape[0]


def chance_count_accuracy(truth: chex.Array) -> chex.Array:
  """Expected `count_accuracy` of B labels drawn uniformly, [K] -> [].

  sum_i E min(X, truth_i) / B with X ~ Binomial(B, p = 1/K), where

    E min(X, t) = B p (1 - P[X' >= t - 1]) + t P[X >= t],
    X' ~ Binomial(B - 1, p),

  and the tails are regularised incomplete beta functions (float32 leaves a
  relative error of up to 5e-4).
  """
  chex.assert_rank(truth, 1)
  p = 1.0 / truth.shape[0]
  total = truth.sum()

  def tail(n, j):  # P[Binomial(n, p) >= j]
    inside = (j >= 1) & (j <= n)
    a = jnp.where(inside, j, 1).astype(float)
    b = jnp.where(inside, n - j + 1, 1).astype(float)
    return jnp.where(inside, special.betainc(a, b, p), j <= 0)

  below = total * p * (1.0 - tail(total - 1, truth - 1))
  expected = jnp.where(truth > 0, below + truth * tail(total, truth), 0.0)
  return _ratio(expected.sum(), total)


def _settled(scores, y):
  """The scores, in memory: equal ones must be equal bit by bit.

  XLA computes cheap scores anew for each use, rounded differently, and drops
  optimization barriers on CPU. It does not fuse into a sort.
  """
  chex.assert_rank([scores, y], 2)
  chex.assert_equal_shape([scores, y])
  place = jnp.broadcast_to(jnp.arange(scores.shape[1]), scores.shape)
  values, place = jax.lax.sort((scores, place), num_keys=1)
  rows = jnp.arange(len(scores))[:, None]
  return jnp.zeros_like(scores).at[rows, place].set(values)


def label_accuracy(scores: chex.Array, y: chex.Array) -> chex.Array:
  """Share of examples whose label has the highest score, [B, K], [B, K] -> [].

  >>> scores = jnp.array([[0.9, 0.1], [0.5, 0.5]])
  >>> float(label_accuracy(scores, jnp.array([[1, 0], [0, 1]])))
  0.75
  """
  return top_k_accuracy(scores, y, 1)


def top_k_accuracy(scores: chex.Array, y: chex.Array, k: int) -> chex.Array:
  """Share of examples whose label is among the k highest scores, -> []."""
  scores = _settled(scores, y)
  own = jnp.take_along_axis(scores, y.argmax(-1)[:, None], -1)
  above, tied = (scores > own).sum(-1), (scores == own).sum(-1)
  credit = jnp.clip(_ratio(k - above, tied), 0.0, 1.0)
  return jnp.where(jnp.isnan(scores).any(-1), 0.0, credit).mean()


def top5_accuracy(scores: chex.Array, y: chex.Array) -> chex.Array:
  """`top_k_accuracy` with k = 5, as in Table 2 of the BLI paper."""
  return top_k_accuracy(scores, y, 5)


def auc(scores: chex.Array, y: chex.Array) -> chex.Array:
  """Area under the ROC curve of two classes, [B, 2], [B, 2] -> [].

  The chance that a random example of class 1 outscores one of class 0, a tie
  being worth a half (Mann-Whitney), where an example's score is that of class 1
  less that of class 0. Far below a half leaks as much as far above: the side is
  reported as it is. With one class only there is no pair, and it is a half.

  Raises:
    InputError: K != 2.
  """
  scores = _settled(scores, y)
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
  share = _ratio(0.5 * (below + upto), num)
  area = _ratio((share * positive).sum(), positive.sum())
  return jnp.where(positive.any() & (num > 0), area, 0.5)


def f1(scores: chex.Array, y: chex.Array) -> chex.Array:
  """F1 of class 1 of two classes, [B, 2], [B, 2] -> [].

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
  named = y[:, 1].sum() + confusion[:, 1].sum()
  return jnp.where(named > 0, 2 * confusion[1, 1] / named, 0.0)


def backdoor_rate(
  scores: chex.Array, y: chex.Array, target: chex.Array
) -> chex.Array:
  """Share of triggered examples of other classes that are named the target.

  Args:
    scores: [B, K] of the model, on examples that bear the trigger.
    y: [B, K] their labels.
    target: [] class.
  """
  others = y.argmax(-1) != target
  named = scores.argmax(-1) == target
  return _ratio((named & others).sum(), others.sum())


def backdoor_count(
  scores: chex.Array, y: chex.Array, target: chex.Array
) -> chex.Array:
  """As published: those of the target class count too, [] at least 1 / K."""
  chex.assert_equal_shape([scores, y])
  return (scores.argmax(-1) == target).mean()


def label_matrix(scores: chex.Array, y: chex.Array) -> chex.Array:
  """Which class is restored as which, [B, K], [B, K] -> [K, K].

  The probability matrix of Figure 9 of the BLI paper, C_ij / sum_j C_ij, with
  C_ij the examples of class i that are named j; without examples a row is 0.
  """
  confusion = _confusion(scores, y)
  return _ratio(confusion, confusion.sum(-1, keepdims=True))


def permuted_label_accuracy(scores: chex.Array, y: chex.Array) -> chex.Array:
  """`label_accuracy` after the best renaming of classes, [B, K], [B, K] -> [].

  Hungarian matching of the confusion matrix, on the host. The renaming is
  chosen by the truth: this is a leak to report (the classes are told apart,
  though not by name), never an attack's accuracy.
  """

  def best(confusion):
    confusion = np.asarray(confusion)
    rows, columns = optimize.linear_sum_assignment(confusion, maximize=True)
    return confusion[rows, columns].sum(dtype=np.float32)

  hits = jax.pure_callback(
    best,
    jax.ShapeDtypeStruct((), jnp.float32),
    _confusion(scores, y),
    vmap_method='sequential',
  )
  return hits / y.shape[0]


def _confusion(scores, y):
  """Examples of class i named j, [K, K]; ties are spread, NaN rows count 0."""
  scores = _settled(scores, y)
  named = scores == scores.max(-1, keepdims=True)  # a NaN equals nothing
  named = _ratio(named, named.sum(-1, keepdims=True))
  truth = jax.nn.one_hot(y.argmax(-1), y.shape[-1])
  return jnp.matmul(truth.T, named, precision='highest')
