"""Captures of several rounds or clients, from lists or patterns of files."""

from collections.abc import Sequence
import glob
import os
import re
from typing import Optional, Union

from labelleak.base import InputError
from labelleak.messages import captures
from labelleak.messages.captures import Capture
from labelleak.models.weights.state_dicts import Path

Paths = Union[str, Sequence[Path]]  # a pattern, as of a shell, or a list


def read_many(
  before: Optional[Paths] = None,
  after: Optional[Paths] = None,
  *,
  update: Optional[Paths] = None,
  **options,
) -> tuple[Capture, ...]:
  """Reads several rounds or clients of one head.

  Args:
    before: a list of paths, or a pattern such as 'round_*/server.npz', whose
      matches are sorted with numbers in their order. A single one serves all.
    after: alike, with one path for each capture.
    update: alike, in place of `after`.
    **options: of `read`.

  Raises:
    InputError: as of `read`; no match, numbers of files that differ, or heads
      that do.
  """
  if after is not None and update is not None:
    raise InputError(
      'read_many: after= and update= exclude each other; give one.'
    )
  clients = _expand(update if after is None else after)
  servers = [None] if before is None else _expand(before)
  if len(servers) == 1:
    servers *= len(clients)
  if not clients or len(servers) != len(clients):
    raise InputError(
      f'read_many: {len(servers)} files of before= do not fit {len(clients)} of'
      ' after= or update=; give one before= or as many.'
    )
  word = 'update' if after is None else 'after'
  results = tuple(
    captures.read(server, **{word: client}, **options)
    for server, client in zip(servers, clients)
  )
  for client, capture in zip(clients, results):
    _check_same(clients[0], results[0], client, capture)
  return results


def _expand(paths: Optional[Paths]) -> list[Path]:
  """Lists paths; those that match a pattern, with numbers in their order."""
  if paths is None or not isinstance(paths, (str, os.PathLike)):
    return list(paths or ())
  if not glob.has_magic(os.fspath(paths)) or os.path.exists(paths):
    return [paths]
  matches = glob.glob(os.fspath(paths), recursive=True)
  if not matches:
    raise InputError(f'{paths} matches no file; give another pattern.')
  parts = lambda path: re.split(r'(\d+)', path)
  return sorted(
    matches,
    key=lambda p: [(int(t), '') if t.isdigit() else (0, t) for t in parts(p)],
  )


def _check_same(first, capture, path, other):
  """Refuses a capture whose head is not that of the first."""
  shapes = [
    {leaf: value.shape for leaf, value in c.update.items()}
    for c in (capture, other)
  ]
  if shapes[0] != shapes[1] or capture.names != other.names:
    raise InputError(
      f'{path} has the head {other.names} {shapes[1]}, and {first}'
      f' {capture.names} {shapes[0]}; set kernel= and bias= alike for all.'
    )
