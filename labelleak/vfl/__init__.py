"""Vertical FL: P parties train one model on split features, labels at the last.

`protocol` is one step of it, `fitting` a whole training without views;
`data.batches` says what a step is made of.
"""

from labelleak.vfl.fitting import (
  Batches,
  accuracy,
  fit,
  score_rows,
  train_step,
)
from labelleak.vfl.links import Link, Traffic, link, traffic
from labelleak.vfl.losses import Loss, cross_entropy, sigmoid, taylor
from labelleak.vfl.protocol import (
  Protocol,
  State,
  bottom,
  party,
  protocol,
  view_after_training,
)
from labelleak.vfl.views import Known, View

KINDS = (Loss,)  # what `registry.load('vfl', ...)` makes

__all__ = (
  'Batches',
  'Known',
  'Link',
  'Loss',
  'Protocol',
  'State',
  'Traffic',
  'View',
  'accuracy',
  'bottom',
  'cross_entropy',
  'fit',
  'link',
  'party',
  'protocol',
  'score_rows',
  'sigmoid',
  'taylor',
  'traffic',
  'train_step',
  'view_after_training',
)
