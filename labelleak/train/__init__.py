"""Training: one loop for everything that learns, and our own classifiers.

`fit` runs any pure step; `classifier` trains a model of `models` with it.
"""

import optax

from labelleak.optimizers import optimizer
from labelleak.train.classifiers import accuracy, classifier
from labelleak.train.loop import CHUNK, Callback, fit
from labelleak.train.order import whole_batches

KINDS = (optax.GradientTransformation,)

__all__ = [
  'CHUNK',
  'Callback',
  'accuracy',
  'classifier',
  'fit',
  'optimizer',
  'whole_batches',
]
