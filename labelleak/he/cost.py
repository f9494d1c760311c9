"""What an encrypted batch costs, from some ten operations of each kind."""

import math
import time
from typing import NamedTuple, Optional

import numpy as np

from labelleak.he.exchange import MessageBytes, Scheme, Shape


class Cost(NamedTuple):
  """Of one batch and one passive party, on this machine.

  Attributes:
    active: seconds of the active party.
    passive: seconds of the passive party.
    third: seconds of the third party.
    sent: bytes.
  """

  active: float
  passive: float
  third: float
  sent: MessageBytes

  @property
  def seconds(self) -> float:
    """Adds up the three roles, which take turns."""
    return math.fsum((self.active, self.passive, self.third))


class Rates(NamedTuple):
  """Seconds of one operation, with reading and writing its ciphertext."""

  encrypt: float
  multiply: float  # and add
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


def _time(role, *inputs):
  """Runs a role; returns its output and seconds."""
  start = time.perf_counter()
  output = role(*inputs)
  return output, time.perf_counter() - start


def estimate(scheme: Optional[Scheme], shape: Shape, nonzeros: int) -> Cost:
  """See `he.estimate`; without a scheme, floats travel and take no time."""
  if scheme is None:
    return Cost(0.0, 0.0, 0.0, MessageBytes(4 * shape[1], 0, 0))
  rates = measure(scheme)
  count = scheme.count(shape, nonzeros)
  return Cost(
    active=rates.encrypt * count.encrypt,
    passive=rates.multiply * count.multiply + rates.mask * count.mask,
    third=rates.decrypt * count.mask,
    sent=count.sent,
  )
