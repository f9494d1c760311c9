"""Polynomials modulo X^N + 1 and q, a product of primes, as SEAL holds them.

SEAL keeps a polynomial as its values at the roots of X^N + 1 modulo each prime
p: at psi^(2 rev(i) + 1), psi the least primitive 2N-th root, rev the reversal
of log2(N) bits. It converts to and from doubles only; here is the exact way, by
the butterflies of Longa and Naehrig (CANS 2016), with Harvey's products.
"""

import functools
from typing import NamedTuple

import numpy as np

_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)


class Factors(NamedTuple):
  """Fixed factors f modulo a prime, below 2^62."""

  values: np.ndarray  # uint64
  quotients: np.ndarray  # floor(f 2^64 / p), uint64


class Ring(NamedTuple):
  """The polynomials of N coefficients modulo q.

  Attributes:
    degree: N, a power of two.
    primes: L, each 1 modulo 2N.
  """

  degree: int
  primes: tuple[int, ...]

  @property
  def modulus(self) -> int:
    """Returns q."""
    return functools.reduce(int.__mul__, self.primes)


def transform(ring: Ring, coefficients: np.ndarray) -> np.ndarray:
  """Evaluates polynomials: integers of any sign [..., N] -> [..., L, N]."""
  return np.stack(
    [_forward((coefficients % p).astype(np.uint64), p) for p in ring.primes],
    -2,
  )


def invert(ring: Ring, values: np.ndarray) -> np.ndarray:
  """Returns the coefficients modulo each prime, uint64, of values [L, N]."""
  return np.stack([_backward(v, p) for v, p in zip(values, ring.primes)])


def compose(ring: Ring, residues: np.ndarray) -> list[int]:
  """Returns the integers in 0..q-1 that have these residues [L, n]."""
  q = ring.modulus
  weights = [q // p * pow(q // p, -1, p) for p in ring.primes]
  return [
    sum(r * w for r, w in zip(column, weights)) % q
    for column in residues.T.tolist()
  ]


def _forward(values: np.ndarray, p: int) -> np.ndarray:
  """Evaluates [..., N], modulo one prime."""
  shape, factors = values.shape, _tables(values.shape[-1], p)[0]
  blocks = 1
  while blocks < shape[-1]:
    a = values.reshape(*shape[:-1], blocks, 2, -1)
    left, right = a[..., 0, :], _product(a[..., 1, :], factors, blocks, p)
    values = np.stack(
      [_reduce(left + right, p), _reduce(left + np.uint64(p) - right, p)], -2
    )
    blocks *= 2
  return values.reshape(shape)


def _backward(values: np.ndarray, p: int) -> np.ndarray:
  """Undoes `_forward`."""
  shape, (_, factors, scale) = values.shape, _tables(values.shape[-1], p)
  blocks = shape[-1]
  while blocks > 1:
    blocks //= 2
    a = values.reshape(*shape[:-1], blocks, 2, -1)
    left, right = a[..., 0, :], a[..., 1, :]
    gap = _reduce(left + np.uint64(p) - right, p)
    values = np.stack(
      [_reduce(left + right, p), _product(gap, factors, blocks, p)], -2
    )
  return _product(values.reshape(*shape[:-1], 1, -1), scale, 0, p).reshape(
    shape
  )


def _product(a: np.ndarray, factors: Factors, blocks: int, p: int):
  """Multiplies a [..., m, t] by factors m to 2m - 1 (m = `blocks`)."""
  end = max(2 * blocks, 1)
  w, quotients = (f[blocks:end, None] for f in factors)
  # The upper half of 128 bits, from products of 32.
  a0, a1 = a & _LOW, a >> _HALF
  q0, q1 = quotients & _LOW, quotients >> _HALF
  middle = a1 * q0 + (a0 * q0 >> _HALF)
  high = a1 * q1 + (middle >> _HALF)
  high += a0 * q1 + (middle & _LOW) >> _HALF
  return _reduce(a * w - high * np.uint64(p), p)  # modulo 2^64, below 2 p


def _reduce(a: np.ndarray, p: int) -> np.ndarray:
  """Returns a modulo p, of a below 2 p."""
  return np.minimum(a, a - np.uint64(p))  # what is negative wraps


@functools.cache
def _tables(degree: int, p: int) -> tuple[Factors, Factors, Factors]:
  """Returns the factors of both ways, and 1 / N."""
  order = np.arange(degree)
  reverse = np.zeros_like(order)
  for _ in range(degree.bit_length() - 1):
    reverse, order = 2 * reverse + order % 2, order // 2
  root = _least_root(2 * degree, p)
  powers = np.array(_powers(root, degree, p), object)
  inverses = np.array(_powers(pow(root, -1, p), degree, p), object)
  return (
    _factors(powers[reverse], p),
    _factors(inverses[reverse], p),
    _factors(np.array([pow(degree, -1, p)], object), p),
  )


def _least_root(order: int, p: int) -> int:
  """Returns the least root of X^(order / 2) + 1 modulo p."""
  root = next(
    root
    for x in range(2, p)
    if pow(root := pow(x, p // order, p), order // 2, p) == p - 1
  )
  return min(_powers(root, order, p)[1::2])


def _powers(base: int, count: int, p: int) -> list[int]:
  """Returns base^0 ... base^(count - 1)."""
  powers = [1]
  for _ in range(count - 1):
    powers.append(powers[-1] * base % p)
  return powers


def _factors(values: np.ndarray, p: int) -> Factors:
  quotients = values * 2**64 // p  # of Python's integers
  return Factors(values.astype(np.uint64), quotients.astype(np.uint64))
