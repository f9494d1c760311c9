"""What every scheme refuses, and libraries that may not be installed."""

import dataclasses
import importlib
import threading
import types
from typing import Optional

import numpy as np

from labelleak.base import InputError


@dataclasses.dataclass
class Ledger:
  """What a third party has opened under its key, and what it may open.

  Attributes:
    most: results; None: any number.
    opened: results so far.
  """

  most: Optional[int] = None
  opened: int = 0
  _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

  def open(self, results: int) -> None:
    """Counts results that are about to be opened.

    Raises:
      InputError: more than the key may open.
    """
    with self._lock:  # trials run side by side in threads
      self.check(self.opened + results)
      self.opened += results

  def check(self, results: int) -> None:
    """Refuses so many results under one key.

    Raises:
      InputError: more than the key may open.
    """
    if self.most is not None and results > self.most:
      more = (-(-results // self.most) - 1).bit_length()
      raise InputError(
        f'{results} results opened under one key are more than the {self.most}'
        ' whose noise stays hidden within a statistical distance of 2^-20;'
        f' raise mask_bits by {more}, or open fewer: a smaller bottom, fewer'
        ' steps.'
      )


def round_up(bound: float) -> float:
  """Rounds up a public bound on float32 entries, so that 1 / B admits itself.

  Raises:
    InputError: not positive, or beyond float32.
  """
  if not 2.0**-126 <= bound < 2.0**127:
    raise InputError(
      f'bound={bound:g} must be positive and a float32; give the largest'
      ' magnitude that a message entry can have.'
    )
  return float(np.nextafter(np.float32(bound), np.float32(np.inf)))


def validate(name: str, values: np.ndarray, bound: float) -> np.ndarray:
  """Returns values in float64, if they are finite and within the bound.

  Raises:
    InputError: they are not.
  """
  values = np.asarray(values, np.float64)
  if not np.isfinite(values).all():
    raise InputError(
      f'{name} has {np.sum(~np.isfinite(values))} entries that are not finite,'
      ' which cannot be encrypted; look for the step that made them.'
    )
  peak = np.abs(values).max(initial=0.0)
  if peak > bound:
    raise InputError(
      f'{name} has magnitude {peak:.3g}, beyond bound={bound:.3g}; raise the'
      " aggregator's bound, or scale the loss."
    )
  return values


def import_library(name: str) -> types.ModuleType:
  """Imports a module of the extra `he`, when a scheme first needs it.

  Raises:
    InputError: not installed.
  """
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as e:
    raise InputError(
      f'{name} is not installed, and this aggregator needs it; pip install'
      " 'labelleak[he]', or use aggregate ideal."
    ) from e
