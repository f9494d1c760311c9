"""Paillier's scheme, by phe and gmpy2: one integer modulo n to a ciphertext.

Numbers are fixed point, round(v 2^f), so a product carries 2^-2f. They are
kept as plain integers: phe's floats let exponents grow with every product.
The sum over i of A_ji m_i is the product of powers [[m_i]]^A_ji modulo n^2.

Masks are uniform over the plaintext ring Z_n: what the third party decrypts is
uniform and independent of the message. The mask is added as a fresh encryption,
so that the ciphertext it gets is freshly random too.
"""

import functools
import secrets
from typing import Any, NamedTuple

import numpy as np

from labelleak.base import InputError
from labelleak.he import checks, frames
from labelleak.he.exchange import (
  Count,
  Masks,
  MessageBytes,
  Scheme,
  Shape,
  Sums,
)

_SECURE_BITS = 2048
_WINDOW = 4  # bits of an exponent that one multiplication handles


class Public(NamedTuple):
  """What every party holds."""

  key: Any  # phe's, of the modulus n
  fraction_bits: int
  bound: float


def scheme(
  key_bits: int, fraction_bits: int, bound: float, insecure_for_tests: bool
) -> Scheme:
  """Builds the roles under a new key pair; see `he.paillier`."""
  if key_bits < _SECURE_BITS and not insecure_for_tests:
    raise InputError(
      f'key_bits={key_bits} is not secure, {_SECURE_BITS} is the least; tests'
      ' may set insecure_for_tests=True.'
    )
  if not 1 <= fraction_bits <= 52:
    raise InputError(
      f'fraction_bits={fraction_bits} must be in 1..52; a float32 has 24.'
    )
  bound = checks.round_up(bound)
  checks.import_library('gmpy2')  # without it phe is twenty times slower
  phe = checks.import_library('phe')
  key, secret = phe.generate_paillier_keypair(n_length=key_bits)
  public, part = Public(key, fraction_bits, bound), functools.partial
  return Scheme(
    channel=frames.agree(str(key.n).encode()),
    ledger=checks.Ledger(),
    bound=bound,
    check=part(check, public),
    encrypt=part(encrypt, public),
    evaluate=part(evaluate, public),
    blind=part(blind, key),
    decrypt=part(decrypt, secret),
    unmask=part(unmask, public),
    error_bound=part(error_bound, fraction_bits),
    count=part(count, key_bits),
    probe=(20, 20),
  )


def check(public: Public, matrix: np.ndarray) -> None:
  """Refuses a map that could carry a result past n / 2, where signs turn."""
  key, fraction_bits, bound = public
  rows = checks.validate('the map', matrix, np.inf)
  largest = max(sum(map(abs, row)) for row in _encode(rows, fraction_bits))
  if 2 * largest * round(bound * 2**fraction_bits) >= key.n:
    raise InputError(
      f'results up to {largest * bound / 2**fraction_bits:.3g} at'
      f' fraction_bits={fraction_bits} overflow the ring of a'
      f' {key.n.bit_length()}-bit key; lower bound={bound:.3g} or'
      ' fraction_bits, or take a longer key.'
    )


def encrypt(public: Public, message: np.ndarray, shape: Shape) -> list[bytes]:
  """Encrypts a message [I], I ciphertexts, each freshly random (active)."""
  del shape
  key = public.key
  message = checks.validate('the message', message, public.bound)
  return [
    key.raw_encrypt(value % key.n).to_bytes(_width(key), 'big')
    for value in _encode(message, public.fraction_bits)
  ]


def evaluate(
  public: Public, ciphertexts: list[bytes], matrix: np.ndarray
) -> Sums:
  """Multiplies by A: [[A m]], by products of powers modulo n^2 (passive).

  Exact zeros of A cost nothing. Negative entries are gathered apart, so that a
  row takes one modular inverse instead of exponents of the size of n.
  """
  gmpy2 = checks.import_library('gmpy2')
  square = gmpy2.mpz(public.key.nsquare)
  tables = [_powers(_read(public.key, c), square) for c in ciphertexts]
  sums = []
  for row in _encode(np.asarray(matrix, np.float64), public.fraction_bits):
    plus = _product(tables, [max(a, 0) for a in row], square)
    minus = _product(tables, [max(-a, 0) for a in row], square)
    sums.append(plus * gmpy2.invert(minus, square) % square)
  return sums


def blind(key: Any, sums: Sums) -> tuple[list[bytes], Masks]:
  """Adds masks: [[A m + r]] and r, uniform over Z_n (passive)."""
  masks = [secrets.randbelow(key.n) for _ in sums]
  products = [
    int(value * key.raw_encrypt(mask) % key.nsquare)
    for value, mask in zip(sums, masks)
  ]
  return [value.to_bytes(_width(key), 'big') for value in products], masks


def decrypt(secret: Any, ciphertexts: list[bytes], shape: Shape) -> bytes:
  """Decrypts the masked result (third): O integers, uniform over Z_n."""
  del shape
  key = secret.public_key
  return b''.join(
    secret.raw_decrypt(int(_read(key, c))).to_bytes(_width(key) // 2, 'big')
    for c in ciphertexts
  )


def unmask(
  public: Public, opened: bytes, masks: Masks, matrix: np.ndarray
) -> np.ndarray:
  """Takes the masks off: the result [O], float64 (passive)."""
  del matrix
  n, width = public.key.n, _width(public.key) // 2
  result = []
  for j, mask in enumerate(masks):
    masked = int.from_bytes(opened[j * width : (j + 1) * width], 'big')
    value = (masked - mask) % n
    value -= n if 2 * value > n else 0  # the upper half: negative
    result.append(value / (1 << 2 * public.fraction_bits))
  return np.array(result)


def error_bound(
  fraction_bits: int, matrix: np.ndarray, message: np.ndarray
) -> np.ndarray:
  """Bounds |result - A m|, for A [O, I] and m [I] -> [O].

  Rounding moves an entry by at most d = 2^-(f+1), so a product a m by at most
  d (|a| + |m|) + d^2; and the result is rounded to float32.
  """
  matrix = np.abs(np.asarray(matrix, np.float64))
  message = np.abs(np.asarray(message, np.float64))
  move = 2.0 ** -(fraction_bits + 1)
  fixed = move * (matrix.sum(1) + message.sum()) + message.size * move**2
  return fixed + 2.0**-24 * (matrix @ message + fixed) + 2.0**-149


def count(key_bits: int, shape: Shape, nonzeros: int) -> Count:
  """Counts operations and bytes of one batch."""
  outputs, inputs = shape
  length = 2 * -(-key_bits // 8)  # of a residue modulo n^2
  return Count(
    encrypt=inputs,
    multiply=nonzeros,
    mask=outputs,
    sent=MessageBytes(
      sealed=frames.size(inputs, length),
      masked=frames.size(outputs, length),
      opened=frames.size(1, outputs * length // 2),
    ),
  )


def _encode(values: np.ndarray, fraction_bits: int) -> list:
  """Rounds to multiples of 2^-fraction_bits, as integers."""
  scaled = np.rint(values * 2.0**fraction_bits)
  return [
    [int(v) for v in row] if isinstance(row, list) else int(row)
    for row in scaled.tolist()
  ]


def _width(key: Any) -> int:
  """Counts the bytes of a ciphertext, an even number."""
  return 2 * -(-key.n.bit_length() // 8)


def _read(key: Any, ciphertext: bytes) -> Any:
  """Reads a ciphertext as an integer modulo n^2."""
  value = int.from_bytes(ciphertext, 'big')
  if len(ciphertext) != _width(key) or not 0 < value < key.nsquare:
    raise InputError(
      f'a ciphertext of {len(ciphertext)} bytes is none under a key of'
      f' {key.n.bit_length()} bits ({_width(key)} bytes); it was cut or'
      ' changed on the way, send it again.'
    )
  return checks.import_library('gmpy2').mpz(value)


def _powers(base: Any, modulus: Any) -> list:
  """Returns base^0 ... base^(2^_WINDOW - 1)."""
  powers = [base**0]
  for _ in range(2**_WINDOW - 1):
    powers.append(powers[-1] * base % modulus)
  return powers


def _product(tables: list, exponents: list[int], modulus: Any) -> Any:
  """Multiplies base_i^exponent_i, with the squarings shared (Straus)."""
  terms = [(t, e) for t, e in zip(tables, exponents) if e]
  longest = max((e.bit_length() for _, e in terms), default=0)
  product = tables[0][0]
  for shift in reversed(range(0, longest, _WINDOW)):
    for _ in range(_WINDOW):
      product = product * product % modulus
    for table, exponent in terms:
      digit = exponent >> shift & 2**_WINDOW - 1
      if digit:
        product = product * table[digit] % modulus
  return product
