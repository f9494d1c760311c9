"""Metrics: where the truth meets what an attack returned, and nowhere else.

One batch is the unit; vmap over trials. Horizontal FL: counts [K] that an
attack returned and truth [K], the counts of the victim's labels, to one number.
An empty denominator gives 0, as in scikit-learn: who names nothing is not
precise. Vertical FL: scores [B, K], higher for a likelier label, and the labels
y [B, K], one-hot. Equal scores count as if ties were broken at random, in
expectation, and a row with a NaN names no class: it is a miss.
"""

from labelleak.metrics.backdoor import backdoor_count, backdoor_rate
from labelleak.metrics.counts import (
  count_accuracy,
  count_error,
  presence_precision,
  presence_recall,
)
from labelleak.metrics.labels import (
  auc,
  calibration_error,
  f1,
  label_accuracy,
  label_matrix,
  permuted_label_accuracy,
  top5_accuracy,
  top_k_accuracy,
)

__all__ = [
  'auc',
  'backdoor_count',
  'backdoor_rate',
  'calibration_error',
  'count_accuracy',
  'count_error',
  'f1',
  'label_accuracy',
  'label_matrix',
  'permuted_label_accuracy',
  'presence_precision',
  'presence_recall',
  'top5_accuracy',
  'top_k_accuracy',
]
