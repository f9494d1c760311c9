"""Counts of a captured head, whose values say which counts it can be of.

Programs are compiled for the few times that an audit runs them. Of many classes
most counts are out of the question, and are left out.
"""

import functools
from typing import Optional

import numpy as np
from scipy import special

from labelleak import compilation
from labelleak.attacks.counts import evidence, head_update, path, responses
from labelleak.attacks.counts.posterior import Posterior
from labelleak.hfl import Known, View

_FACTOR = 2  # of the count that an entry says
_LEAST = 8
_DOUBT = 1e-6  # of a class's probability, near the counts that were left out


def infer_counts(view: View, known: Known) -> Posterior:
  """Infers counts as `head_update.infer_counts`, of a view with values."""
  return _infer(head_update.infer_counts, view, known)


def infer_at_typical_reach(view: View, known: Known) -> Posterior:
  """Infers counts of a client as described, at one reach of its body."""
  return _infer(_infer_at_typical_reach, view, known)


def _infer_at_typical_reach(view, known, most):
  reaches = (head_update.TYPICAL_REACH,)
  return head_update.infer_told(view, known, reaches=reaches, most=most)


def _infer(infer, view, known):
  """Infers with the counts that are likely, or with all of them.

  A path of the softmax that favours a class hides labels of it: the likely
  counts then end where the belief in them is largest.
  """
  most = _most(view, known)
  found = _compile(infer, most)(view, known)
  if most is None:
    return found
  near = found.probs[:, most - most // 4 : most + 1].sum(1).max()
  return found if near < _DOUBT else _compile(infer, None)(view, known)


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
  if client.clip_per_example:
    return None
  response = responses.tabulate(known)
  if response.shares is not None:
    return None
  beta = np.asarray(evidence.bias('counts.calibrated', view), float)
  scale = 1.0
  if known.defense is None:  # entries are at least so many times as large
    scale = max(float(-np.minimum(beta, 0.0).sum()) / response.mass, 1e-12)
  one = min(response.unit, response.mass / response.num)
  one *= scale * (1 - client.label_smoothing)
  # The server's head may expect many of a class, whose entry is then small.
  size = np.abs(beta).max() + scale * response.mass * _largest_softmax(view)
  likely = _FACTOR * size / max(one, 1e-30) + _LEAST
  if likely >= known.num_examples / 2:
    return None
  return int(-(-likely // 16) * 16)  # one program for many captures


def _largest_softmax(view: View) -> float:
  """Returns the largest entry of the softmax that the server's head gives."""
  num_classes = len(evidence.bias('counts.calibrated', view))
  start = path.read_start(view, True, num_classes)
  logits = np.zeros(num_classes) if start is None else np.asarray(start.logits)
  return float(special.softmax(logits).max())
