"""Attacks on the gradient of the classifier's bias: EBI and LLBG."""

from typing import Optional

import jax
import jax.numpy as jnp

from labelleak import hfl, validate
from labelleak.attacks.counts import evidence, greedy
from labelleak.base import Attack, attack


def ebi() -> Attack:
  """Builds EBI: LLG on the bias, impact m = (sum of negatives)/B (Eq. 6)."""

  def infer(key, view, known):
    num = known.num_examples
    beta = evidence.bias('counts.ebi', view)
    m = greedy.negative_sum(beta) / num
    return greedy.name_labels(beta, impact=m, num=num)

  return attack(infer, name='counts.ebi', kind='horizontal')


def llbg(*, confidence: Optional[float | str] = None) -> Attack:
  """Builds LLBG: an example of class i weighs -(1 - v_i)/b in the gradient.

  Algorithms 1 and 2 of the paper, with the impact inside the test for negative
  entries as in Algorithm 2 and the released code.

  Args:
    confidence: None for untrained models (v = 0); a number for the same
      confidence gamma in all classes; 'aux' for the mean own-class softmax of
      the examples `known.labelled` under `known.model`.

  Raises:
    InputError: a confidence outside [0, 1), or another word than 'aux'.
  """
  if confidence not in (None, 'aux'):
    rule = "None takes an untrained model, 'aux' measures it"
    validate.within('confidence', confidence, '[0, 1)', rule)

  def infer(key, view, known):
    beta = evidence.bias('counts.llbg', view)
    v = confidence or 0.0
    if confidence == 'aux':
      x, y = known.labelled
      probs = jax.nn.softmax(known.model.apply(view.variables, x))
      v = (probs * y).sum(0) / jnp.maximum(y.sum(0), 1.0)
    size = max(hfl.step_sizes(known.batch_size, known.steps))
    m = -(1.0 - v) / (size * known.clients) * jnp.ones_like(beta)
    return greedy.name_labels(beta, impact=m, num=known.num_examples)

  needs = ('model', 'labelled') if confidence == 'aux' else ()
  return attack(infer, name='counts.llbg', kind='horizontal', needs=needs)
