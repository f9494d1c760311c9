"""What attacks say of the rows of a log, before anyone knows the truth."""

from collections.abc import Mapping
from typing import NamedTuple, Optional

import chex
import numpy as np

from labelleak import vfl
from labelleak.messages import Step

TOPS = 'sum', 'model'
LOSSES = 'softmax', 'sigmoid', 'taylor'
REDUCTIONS = 'mean', 'sum'


class Setting(NamedTuple):
  """What the user says of the training.

  Attributes:
    num_classes: K.
    top: 'sum': the embeddings of all parties are added up to the logits, D = K,
      or one logit of two classes; 'model': a model of the active party is
      above them.
    loss: 'softmax' or 'sigmoid' cross entropy, or FATE's 'taylor', whose
      gradient is .25 z - .5 y of y in {-1, 1}.
    reduction: of the loss over a batch; 'mean' or 'sum'.
    activation: between dense layers of the bottom; see `bottoms.stack`.
    bottom: name and arguments of a model of this package, in their place.
    sealed: whether to leave cut gradients aside, were they logged.
    steps: how many to attack, from the first; None: all of a clear log, 50 of
      a sealed one.
    granted: labelled rows of each class that the attacker has; of the truth.
    labels: row -> label, for comparison and `granted` alone.
    told: fields of all these that the user set.
  """

  num_classes: int
  top: str = 'sum'
  loss: str = 'softmax'
  reduction: str = 'mean'
  activation: str = 'relu'
  bottom: Optional[dict] = None
  sealed: bool = False
  steps: Optional[int] = None
  granted: int = 0
  labels: Optional[Mapping[int, int]] = None
  told: frozenset[str] = frozenset()


class Answer(NamedTuple):
  """What one attack says of each row.

  Attributes:
    name: of the attack.
    scores: [N, K] higher for a likelier label.
    granted: what it knows beside the log, in words.
    trust: [N] probability that the likeliest label is right, NaN where nothing
      supports one.
    named: whether classes have their names.
    skip: [N] rows whose labels it was granted, which are not scored.
  """

  name: str
  scores: np.ndarray
  granted: tuple[str, ...] = ()
  trust: Optional[np.ndarray] = None
  named: bool = True
  skip: Optional[np.ndarray] = None


class Rows(NamedTuple):
  """Which row of the data set each line of a log is of.

  Attributes:
    ids: [N] of the data set.
    place: [M] of each line in `ids`.
    first: [N] the first line of each.
  """

  ids: np.ndarray
  place: np.ndarray
  first: np.ndarray

  def average(self, lines: np.ndarray) -> np.ndarray:
    """Returns the mean over the lines of each row, [M, ...] -> [N, ...]."""
    sums = np.zeros((len(self.ids), *lines.shape[1:]))
    np.add.at(sums, self.place, lines)
    counts = np.bincount(self.place)
    return sums / counts.reshape(-1, *(1,) * (lines.ndim - 1))


def find_rows(steps: tuple[Step, ...]) -> Rows:
  """Finds the rows behind the lines of steps."""
  lines = np.concatenate([step.rows for step in steps])
  ids, first, place = np.unique(lines, return_index=True, return_inverse=True)
  return Rows(ids, place.reshape(-1), first)


def pool_trust(
  rows: Rows, names: np.ndarray, fits: np.ndarray
) -> Optional[np.ndarray]:
  """Returns how far lines that fit agree on the label of their row.

  Args:
    rows: behind the lines.
    names: [M] the label that each line names.
    fits: [M] whether it is as the description says, so that it is certain.

  Returns:
    [N] share of a row's lines that name what most of them do, NaN of rows
    without any; None if most lines do not fit.
  """
  if not fits.mean() > 0.5:
    return None
  votes = np.zeros((len(rows.ids), names.max() + 1))
  np.add.at(votes, (rows.place[fits], names[fits]), 1)
  total = votes.sum(1)
  return np.where(total > 0, votes.max(1) / np.maximum(total, 1), np.nan)


def make_view(
  cut: Optional[chex.Array], h: Optional[chex.Array] = None, **fields
) -> vfl.View:
  """Makes the view of a step, of what was logged."""
  empty = dict.fromkeys(vfl.View._fields)
  return vfl.View(**empty | dict(cut_grads=cut, h=h) | fields)
