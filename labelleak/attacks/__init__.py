"""Attacks: one family a file, loaded by name."""

from labelleak import registry
from labelleak.base import Attack, Completion, Tampering

KINDS = Attack, Completion, Tampering


def load(name: str, **hyper) -> Attack | Completion | Tampering:
  """`load('counts.llbg', confidence=.7)`; see `registry.load`."""
  return registry.load('attacks', name, **hyper)
