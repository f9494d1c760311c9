"""What a run keeps of a point that it has not finished.

`unfinished/<point>/` holds the trials so far and the states of trainings. It
goes when the point's rows are written.
"""

from collections.abc import Mapping, Sequence
import contextlib
import hashlib
import json
import pathlib
import shutil
import sys
from typing import Any

import numpy as np

from labelleak.base import InputError
from labelleak.runs import files
from labelleak.runs.origin import code

EVERY = 10.0  # seconds between two writes
_TRIALS = 'trials.npz'


def checkpoints(workdir: str, point: Mapping[str, Any]) -> str:
  """Returns the folder where trainings of a point keep their states."""
  return str(_folder(workdir, point) / 'checkpoints')


def save_trials(
  workdir: str,
  point: Mapping[str, Any],
  leaves: Sequence[np.ndarray],
  seconds: float,
) -> None:
  """Writes the trials [t, ...] that a point has finished so far."""
  folder = _folder(workdir, point)
  folder.mkdir(parents=True, exist_ok=True)
  facts = json.dumps([point, code(), seconds])
  arrays = {f'{i}': leaf for i, leaf in enumerate(leaves)}
  files.save_arrays(folder / _TRIALS, dict(arrays, facts=facts))


def load_trials(
  workdir: str, point: Mapping[str, Any]
) -> tuple[list[np.ndarray], float]:
  """Returns what `save_trials` wrote of a point, by the same code."""
  try:
    arrays = files.load_arrays(_folder(workdir, point) / _TRIALS)
    whose, by, seconds = json.loads(str(arrays.pop('facts', '[0, 0, 0]')))
    leaves = [arrays[f'{i}'] for i in range(len(arrays))]
  except (InputError, ValueError, KeyError):
    print(
      f'{workdir}: unfinished trials are damaged, and run again.',
      file=sys.stderr,
    )
    return [], 0.0
  return (leaves, seconds) if [whose, by] == [point, code()] else ([], 0.0)


def forget(workdir: str, point: Mapping[str, Any]) -> None:
  """Removes what was kept of a point."""
  folder = _folder(workdir, point)
  shutil.rmtree(folder, ignore_errors=True)
  with contextlib.suppress(OSError):  # absent, or other points are in it
    folder.parent.rmdir()


def _folder(workdir, point):
  name = hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()
  return pathlib.Path(workdir, 'unfinished', name[:16])
