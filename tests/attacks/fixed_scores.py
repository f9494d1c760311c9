"""Scores that must stay as they are, as a few numbers of them all."""

from collections.abc import Callable, Iterable
import json
import pathlib

import chex
import numpy as np

NUMBERS = 8
LEAST = -9.0  # a log probability of less is never, however much


def summarise(scores: chex.Array, seed: int) -> np.ndarray:
  """Returns sums [NUMBERS] of scores under weights that a seed draws."""
  scores = np.maximum(np.asarray(scores, float), LEAST).ravel()
  weights = np.random.default_rng(seed).normal(size=(NUMBERS, scores.size))
  return weights @ scores / np.sqrt(scores.size)


def check(file: pathlib.Path, name: str, found: np.ndarray, atol: float):
  """Compares a case with what a file recorded of it."""
  np.testing.assert_allclose(
    found, json.loads(file.read_text())[name], atol=atol
  )


def record(
  file: pathlib.Path,
  names: Iterable[str],
  summary: Callable[[str], np.ndarray],
) -> None:
  """Writes the summaries of cases."""
  values = {name: summary(name).round(4).tolist() for name in names}
  file.write_text(json.dumps(values, indent=1) + '\n')
