"""What an encrypted batch costs, from some ten operations of each kind."""

from collections.abc import Callable
import math
import time
from typing import Any, NamedTuple, Optional

import numpy as np

from labelleak.he.exchange import Scheme, Shape


class Cost(NamedTuple):
  """Of one batch and one passive party, on this machine.

  Attributes:
    seconds: the sum of the three roles, which take turns.
    active: seconds of the active party.
    passive: seconds of the passive party.
    third: seconds of the third party.
    sealed_bytes: active -> passive.
    masked_bytes: passive -> third.
    opened_bytes: third -> passive.
  """

  seconds: float
  active: float
  passive: float
  third: float
  sealed_bytes: int
  masked_bytes: int
  opened_bytes: int


class Rates(NamedTuple):
  """Seconds of one operation, with reading and writing its ciphertext.

  Attributes:
    encrypt: by the active party.
    multiply: a product, and adding it.
    mask: encrypting a mask, and adding it.
    decrypt: by the third party.
  """

  encrypt: float
  multiply: float
  mask: float
  decrypt: float


def measure(scheme: Scheme) -> Rates:
  """Times the roles on a map of the scheme's probe shape."""
  outputs, inputs = scheme.probe
  rng = np.random.default_rng(0)
  matrix = rng.uniform(-1, 1, (outputs, inputs))
  message = rng.uniform(-1, 1, inputs) * min(1.0, scheme.bound)
  count = scheme.count(scheme.probe, matrix.size)
  sealed, encrypting = _time(scheme.encrypt, message, matrix.shape)
  sums, multiplying = _time(scheme.evaluate, sealed, matrix)
  (masked, _), masking = _time(scheme.blind, sums)
  _, decrypting = _time(scheme.decrypt, masked, matrix.shape)
  return Rates(
    encrypt=encrypting / count.encrypt,
    multiply=multiplying / count.multiply,
    mask=masking / count.mask,
    decrypt=decrypting / count.mask,
  )


def _time(role: Callable[..., Any], *inputs: Any) -> tuple[Any, float]:
  """Runs a role; its output and seconds."""
  start = time.perf_counter()
  output = role(*inputs)
  return output, time.perf_counter() - start


def estimate(scheme: Optional[Scheme], shape: Shape, nonzeros: int) -> Cost:
  """See `he.estimate`; without a scheme, floats travel and take no time."""
  if scheme is None:
    return Cost(0.0, 0.0, 0.0, 0.0, 4 * shape[1], 0, 0)
  rates = measure(scheme)
  count = scheme.count(shape, nonzeros)
  active = rates.encrypt * count.encrypt
  passive = rates.multiply * count.multiply + rates.mask * count.mask
  third = rates.decrypt * count.mask
  return Cost(
    seconds=math.fsum((active, passive, third)),
    active=active,
    passive=passive,
    third=third,
    sealed_bytes=count.sealed_bytes,
    masked_bytes=count.masked_bytes,
    opened_bytes=count.opened_bytes,
  )
