"""The store of a run: its rows and per-trial values, kept as points finish.

A workdir holds `config.json`, `rows.jsonl` (one JSON object for each point and
attack) and `trials.npz` (`'<row>/<metric>'` -> values [T, ...], rows counted
from 0). What the point at hand has so far, its trials and the states of its
trainings, is written every few seconds (`unfinished/`), so a killed run that is
started again goes on where it stopped. One process at a time holds a workdir
(`lock`). `report` turns rows into tables and figures.
"""

from labelleak.runs.locks import hold
from labelleak.runs.origin import VOLATILE, code, comparable, environment
from labelleak.runs.store import (
  LAYOUT,
  append_point,
  open_workdir,
  read_arrays,
  read_rows,
  write_texts,
)
from labelleak.runs.unfinished import (
  EVERY,
  checkpoints,
  load_trials,
  save_trials,
)

__all__ = [
  'EVERY',
  'LAYOUT',
  'VOLATILE',
  'append_point',
  'checkpoints',
  'code',
  'comparable',
  'environment',
  'hold',
  'load_trials',
  'open_workdir',
  'read_arrays',
  'read_rows',
  'save_trials',
  'write_texts',
]
