"""Attacks: one family a file, loaded by name."""

from labelleak import base
from labelleak.base import Attack


def load(name: str, **hyper) -> Attack:
  """`load('counts.llbg', confidence=.7)`; see `base.load`."""
  return base.load('attacks', name, **hyper)
