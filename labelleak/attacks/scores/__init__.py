"""Labels from the cut gradient of each example: white-box attacks.

They read `view.cut_grads` [B, D], one row an example, and return scores [B, K].
Nothing in them is chosen by the truth: where the published evaluation flips a
score that came out upside down, ours reports it upside down.

Sources: DLI in Liu, Zou et al. ("Batch Label Inference", Lemma 1) and Fu et al.
(USENIX Security 2022); NS and DS from Li et al. ("Label Leakage and Protection
in Two-party Split Learning"), with the thresholds of VFLAIR.
"""

import jax
import jax.numpy as jnp

from labelleak import validate
from labelleak.attacks import single_logit
from labelleak.attacks.scores import directions, readout
from labelleak.attacks.scores.directions import similarity
from labelleak.base import Attack, InputError, attack

__all__ = 'cosine', 'direct', 'features', 'norm', 'random', 'similarity'

_TINY = 1e-16  # of VFLAIR's min-max
_RULES = {
  'argmin': readout.argmin,
  'complement': readout.complement,
  'first_negative': readout.first_negative,
  'first_or_any': readout.first_or_any,
}


def random() -> Attack:
  """Builds the attack that guesses each row's label uniformly: the baseline."""

  def infer(key, view, known):
    return jax.random.uniform(key, (view.x.shape[0], known.num_classes))

  return attack(infer, name='scores.random', kind='vertical')


def features() -> Attack:
  """Builds the baseline of own features alone: their clusters, K of them.

  k-means on standardised features: no gradient is read, and nothing names a
  cluster. Its accuracy is chance; that under the best map of clusters to labels
  (`permuted_label_accuracy`) is an upper bound of what features group.
  """

  def infer(key, view, known):
    x = view.x.reshape(len(view.x), -1)
    groups = directions.cluster_points(key, x, known.num_classes)
    return jax.nn.one_hot(groups, known.num_classes)

  return attack(infer, name='scores.features', kind='vertical')


def direct(*, rule: str = 'argmin') -> Attack:
  """Builds DLI: the sign of an entry names the label; needs D = K.

  One logit of two classes (D = 1) is read as two.

  Args:
    rule: 'argmin'; 'first_negative' or 'first_or_any', as published by Fu et
      al. and in VFLAIR; 'complement', for labels that were confused. See
      `readout`.

  Raises:
    InputError: no such rule. At trace time: a sealed view, or a D of neither.
  """
  validate.one_of('direct: rule', rule, _RULES)

  def infer(key, view, known):
    cut = readout.cut_gradient('scores.direct', view)
    if cut.shape[-1] == 1 and known.num_classes == 2:
      cut = single_logit.split_gradient(cut)
    if cut.shape[-1] != known.num_classes:
      raise InputError(
        f'cut gradients of width {cut.shape[-1]} for {known.num_classes}'
        ' classes: scores.direct needs one entry a class; use a joint model'
        ' without a top, or scores.similarity.'
      )
    return _RULES[rule](cut)

  return attack(infer, name='scores.direct', kind='vertical')


def norm(*, across: bool = False) -> Attack:
  """Builds NS: positives (class 1) are the rows of large norm; two classes.

  The norm, scaled to [0, 1] over the batch, against .5. That positives have
  the larger gradients is an assumption on imbalanced data (few positives, of
  which the model is not sure); on balanced data it is a coin's toss, and an
  accuracy or AUC far below a half leaks as much as one far above.

  Args:
    across: takes the size of the sum of a row's entries in the place of its
      norm. Where logits are added that sum is 0 but for what a defense put
      there, which is on one class only if the defense shaped it by class
      (`defenses.marvell`, as published).

  Raises:
    InputError: at trace time: a sealed view, or K != 2.
  """

  def infer(key, view, known):
    cut = readout.cut_gradient('scores.norm', view)
    _check_binary('scores.norm', known)
    size = jnp.linalg.norm(cut, axis=-1)
    if across:
      size = jnp.abs(cut.sum(-1))
    low, high = size.min(), size.max()
    return _two_sided((size - low + _TINY) / (high - low + _TINY) - 0.5)

  return attack(infer, name='scores.norm', kind='vertical')


def cosine() -> Attack:
  """Builds DS: positives point where a known positive points; two classes.

  The threat model grants examples, `known.labelled` with y [M, 2]; one positive
  is enough. The attacker finds them among the rows of its
  own `view.x`, takes the mean direction of the positive ones, and calls
  positive what has a positive cosine with it. The rows granted are scored with
  the others, as in VFLAIR, which takes its example from the true labels. A
  batch without a known positive scores 0 throughout, which is chance.

  Raises:
    InputError: at trace time: a sealed view, or K != 2.
  """

  def infer(key, view, known):
    cut = readout.cut_gradient('scores.cosine', view)
    _check_binary('scores.cosine', known)
    unit = readout.normalise(cut)
    x, y = known.labelled
    positive = readout.match_rows(view.x, x) & (y[:, 1] > 0.5)[None]
    weight = positive.any(-1).astype(float)
    return _two_sided(unit @ readout.normalise(weight @ unit))

  return attack(
    infer, name='scores.cosine', kind='vertical', needs=('labelled',)
  )


def _two_sided(margin):
  """Returns scores [B, 2], of class 1 where the margin [B] is positive."""
  return jnp.stack([-margin, margin], -1)


def _check_binary(name, known):
  if known.num_classes != 2:
    raise InputError(
      f'{name} tells two classes apart, not {known.num_classes}; use'
      ' scores.direct or two classes.'
    )
