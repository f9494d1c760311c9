"""How far a run is: shown, and kept where a killed one goes on from."""

from collections.abc import Mapping
import sys
import time
from typing import Any, Optional

import chex
import jax
import numpy as np
import tqdm

from labelleak import runs, spec


class Progress:
  """Moves a point's bar, and keeps its trials in the workdir as they finish.

  Attributes:
    finished: what a killed run had kept, leaves [t, ...] of the first t trials.
    checkpoints: folder where trainings keep their states for as long as the
      point runs; None keeps none.
  """

  def __init__(
    self, bar: tqdm.tqdm, workdir: Optional[str], point: Mapping[str, Any]
  ):
    self.finished, self._before, self.checkpoints = [], 0.0, None
    if workdir:
      self.finished, self._before = runs.load_trials(workdir, point)
      self.checkpoints = runs.checkpoints(workdir, point)
    self._bar, self._workdir, self._point = bar, workdir, point
    self._chunks = [self.finished] if self.finished else []
    self._started = self._saved = time.perf_counter()
    done = len(self.finished[0]) if self.finished else 0
    if done:
      say(
        f'{spec.describe_point(point)}: goes on after {done} of {bar.total}'
        f' trials.'
      )
    bar.n = bar.last_print_n = bar.initial = done  # and no part of its speed
    bar.refresh()

  def __call__(self, num: int, values: Optional[chex.ArrayTree] = None):
    """`num` more trials are done; values [num, ...] can be gone on from."""
    self._bar.update(num)
    if not self._workdir or values is None:
      return
    self._chunks.append(jax.tree.leaves(values))
    if time.perf_counter() - self._saved >= runs.EVERY:
      leaves = [np.concatenate(parts) for parts in zip(*self._chunks)]
      self._chunks = [leaves]
      runs.save_trials(self._workdir, self._point, leaves, self.seconds())
      self._saved = time.perf_counter()

  def tell_compile(self, busy: bool) -> None:
    """Says so on the bar, whose estimate does not count the time until then."""
    self._bar.set_description('compiling' if busy else f'{self._bar.unit}s')
    self._bar.unpause()

  def seconds(self) -> float:
    """Spent on the point so far, by the runs that were killed as well."""
    return self._before + time.perf_counter() - self._started


def show(total: int, unit: str, leave: bool = True) -> tqdm.tqdm:
  """A progress bar with ETA; a log file gets a line every half minute."""
  quiet = 0.1 if sys.stderr.isatty() else 30
  return tqdm.tqdm(
    total=total, desc=f'{unit}s', unit=unit, leave=leave, mininterval=quiet
  )


def say(line: str) -> None:
  """Prints a line above the bars."""
  tqdm.tqdm.write(line, file=sys.stderr)
