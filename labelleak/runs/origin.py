"""What ran: the device, the versions and the code."""

import functools
import hashlib
import os
import pathlib
import subprocess
from typing import Any, Optional

import flax
import jax
import numpy as np
import optax

# Fields that differ between two runs of the same config.
VOLATILE = ('seconds', 'step_seconds', 'device', 'versions', 'commit')
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def comparable(row: dict) -> dict:
  """Returns a row without the fields that differ between two runs."""
  return {k: v for k, v in row.items() if k not in VOLATILE}


@functools.cache
def environment() -> dict[str, Any]:
  """Returns device, versions and commit, as every row states them."""
  devices = jax.devices()
  return dict(
    device=f'{len(devices)} x {devices[0].device_kind}',
    versions={m.__name__: m.__version__ for m in (jax, flax, optax, np)},
    commit=read_commit(_PACKAGE),
  )


@functools.cache
def code() -> list[Any]:
  """Returns what computes: only the same code goes on from what a run kept.

  That is the kind of device, the versions and a digest of our sources: they may
  have changed where the commit did not, or have none.
  """
  digest = hashlib.sha256()
  for file in sorted(_PACKAGE.rglob('*.py')):
    digest.update(f'{file.relative_to(_PACKAGE)}\n'.encode())
    digest.update(file.read_bytes())
  versions = environment()['versions']
  return [jax.devices()[0].device_kind, versions, digest.hexdigest()]


def read_commit(package: pathlib.Path) -> Optional[str]:
  """Returns the commit of the checkout whose root holds `package`.

  None without git, and where the package only lies inside a repository: a
  virtual environment in somebody's own is no part of it.
  """
  inside = _git(package, 'ls-files', '--full-name', '--', '__init__.py')
  if inside != f'{package.name}/__init__.py':
    return None
  return _git(package, 'describe', '--always', '--dirty') or None


def _git(folder, *arguments) -> Optional[str]:
  """Returns what git says in a folder; None where it fails."""
  # A hook's GIT_DIR would name another repository.
  env = {k: v for k, v in os.environ.items() if not k.startswith('GIT_')}
  try:
    process = subprocess.run(
      ['git', '-C', str(folder), *arguments],
      capture_output=True,
      text=True,
      timeout=20,
      env=env,
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  return None if process.returncode else process.stdout.strip()
