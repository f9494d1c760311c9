"""One process at a time on a workdir."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import sys
import time
from typing import Optional

from labelleak.base import InputError

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_PATIENCE = 0.2  # seconds in which a process writes who it is


@contextlib.contextmanager
def hold(workdir: str) -> Iterator[bool]:
  """Holds a workdir, which is made; yields whether it can be written.

  The system lets go of the lock of a process however that ends; the file that
  it leaves behind is taken over. A process of another host may be out of sight,
  and is believed.

  Raises:
    InputError: another process holds it, named by host and pid, or there can be
      no such folder.
  """
  path = pathlib.Path(workdir)
  file = None
  try:
    path.mkdir(parents=True, exist_ok=True)
    file = _lock(path / 'lock')
  except OSError as e:
    if e.errno not in _READ_ONLY:
      raise InputError(
        f'{workdir} cannot be a workdir: {e.strerror}; choose another'
        ' --workdir.'
      ) from e
  try:
    yield file is not None
  finally:
    if file is not None:
      (path / 'lock').unlink(missing_ok=True)
      os.close(file)


def _lock(path: pathlib.Path) -> int:
  """Returns the open file that holds the lock, as long as it is open."""
  while True:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if _is_free(path, file) and _is_at(path, file):
      break
    os.close(file)  # removed by its holder since it was opened: another one
  if holder := _read(file):
    print(
      f'{path.parent}: took over from process {holder[1]}, which was killed.',
      file=sys.stderr,
    )
  os.ftruncate(file, 0)
  os.pwrite(file, json.dumps([socket.gethostname(), os.getpid()]).encode(), 0)
  return file


def _is_free(path, file) -> bool:
  """Locks a file, False where it has no holder and is not there any more.

  Raises:
    InputError: another process holds it.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    held = False
  except BlockingIOError:
    held = True
    time.sleep(_PATIENCE)
    if not _is_at(path, file):
      return False
  except OSError:  # a file system without locks
    holder = _read(file)
    held = bool(holder) and _is_alive(holder[1])
  holder = _read(file)
  if held or (holder and holder[0] != socket.gethostname()):
    host, pid = holder or ('this host', 'unknown')
    raise InputError(
      f'{path.parent} is in use by process {pid} on {host}; wait for it, choose'
      f' another --workdir or, where that process is no more, remove {path}.'
    )
  return True


def _is_at(path, file) -> bool:
  """Whether an open file is the one that bears this name."""
  try:
    return os.path.samestat(os.stat(path), os.fstat(file))
  except FileNotFoundError:
    return False


def _is_alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass  # somebody else's
  return True


def _read(file: int) -> Optional[tuple[str, int]]:
  """Returns host and pid of the holder; None of what tells neither."""
  try:
    host, pid = json.loads(os.pread(file, 1000, 0))
    return str(host), int(pid)
  except (ValueError, TypeError):
    return None
