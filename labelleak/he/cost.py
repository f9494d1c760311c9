"""What a sealed batch costs, from some ten operations of each kind."""

import math
import time
from typing import NamedTuple, Optional

import numpy as np

from labelleak.he.exchange import Scheme


class Cost(NamedTuple):
  """Of one batch and one passive party, on this machine."""

  seconds: float  # the sum of the three roles, which take turns
  active: float
  passive: float
  third: float
  sealed_bytes: int  # active -> passive
  masked_bytes: int  # passive -> third
  opened_bytes: int  # third -> passive


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
  counts = scheme.count(scheme.probe, matrix.size)

  def timed(role, *inputs):
    start = time.perf_counter()
    out = role(*inputs)
    return out, time.perf_counter() - start

  sealed, encrypting = timed(scheme.encrypt, message, matrix.shape)
  sums, multiplying = timed(scheme.evaluate, sealed, matrix)
  (masked, _), masking = timed(scheme.blind, sums)
  _, decrypting = timed(scheme.decrypt, masked, matrix.shape)
  return Rates(
    encrypt=encrypting / counts.encrypt,
    multiply=multiplying / counts.multiply,
    mask=masking / counts.mask,
    decrypt=decrypting / counts.mask,
  )


def estimate(
  scheme: Optional[Scheme], num_inputs: int, num_outputs: int, nonzeros: int
) -> Cost:
  """See `he.estimate`; without a scheme, floats travel and take no time."""
  if scheme is None:
    return Cost(0.0, 0.0, 0.0, 0.0, 4 * num_inputs, 0, 0)
  rates = measure(scheme)
  counts = scheme.count((num_outputs, num_inputs), nonzeros)
  active = rates.encrypt * counts.encrypt
  passive = rates.multiply * counts.multiply + rates.mask * counts.mask
  third = rates.decrypt * counts.mask
  return Cost(
    math.fsum((active, passive, third)),
    active,
    passive,
    third,
    counts.sealed_bytes,
    counts.masked_bytes,
    counts.opened_bytes,
  )
