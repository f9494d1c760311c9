"""Counts of a captured head, whose values say which counts it can be of.

Programs are compiled for the few times that an audit runs them. Of many classes
most counts are out of the question, and are left out.
"""

import functools
from typing import Optional

import numpy as np

from labelleak import compilation
from labelleak.attacks.counts import evidence, head_update, responses
from labelleak.attacks.counts.posterior import Posterior
from labelleak.hfl import Known, View

# An entry of twice the count is far from it, whatever the model of the softmax.
_FACTOR = 2
_LEAST = 8


def infer_counts(view: View, known: Known) -> Posterior:
  """Infers counts as `head_update.infer_counts`, of a view with values."""
  return _compile(head_update.infer_counts, _most(view, known))(view, known)


def infer_at_typical_reach(view: View, known: Known) -> Posterior:
  """Infers counts of a client as described, at one reach of its body."""
  return _compile(_infer_at_typical_reach, _most(view, known))(view, known)


def _infer_at_typical_reach(view, known, most):
  reaches = (head_update.TYPICAL_REACH,)
  return head_update.infer_told(view, known, reaches=reaches, most=most)


@functools.cache
def _compile(infer, most):
  return compilation.jit_seldom(functools.partial(infer, most=most))


def _most(view: View, known: Known) -> Optional[int]:
  """Returns how many labels of a class are possible; None: all may be."""
  client = known.client
  if client is None or known.num_classes <= head_update.MOST_CLASSES:
    return None  # a model that is sure of its examples hides any number
  if client.loss != 'softmax' or client.class_weights or known.defense:
    return None
  if client.clip_per_example or client.noise_multiplier:
    return None
  response = responses.tabulate(known)
  if response.shares is not None:
    return None
  beta = np.asarray(evidence.bias('counts.calibrated', view), float)
  scale = 1.0
  if known.defense is None:  # entries are at least so many times as large
    scale = max(float(-np.minimum(beta, 0.0).sum()) / response.mass, 1e-12)
  one = response.unit * scale * (1 - client.label_smoothing)
  likely = _FACTOR * np.abs(beta).max() / max(one, 1e-30) + _LEAST
  if likely >= known.num_examples / 2:
    return None
  return int(-(-likely // 16) * 16)  # one program for many captures
