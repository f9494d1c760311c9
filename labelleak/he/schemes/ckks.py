"""CKKS keys and ciphertexts (TenSEAL's SEAL), N fixed-point numbers to each.

Scales. The message is divided by `bound` and the map as `packing` says, so that
a result stays within 1 whatever the data. Both lie in coefficients, as integers
modulo q, and all that follows is exact but for the scheme's own noise.

Masks are uniform modulo q, over whole polynomials: what the third party
decrypts is uniform and independent of the message, however often it does.

Decryption. What it returns holds noise that is linear in the secret key: with
the ciphertext, a few exact results give the key away (Li and Micciancio,
EUROCRYPT 2021, IND-CPA-D). So the third party rounds its answer to multiples of
a grain, 2^mask_bits times the noise. As its masks are uniform, the passive
party sees the result plus a number that is uniform over a grain, and noise in
it changes what it sees with the probability |noise| / grain. Over a run of n
results that is at most n 2^-mask_bits, by the union bound, in the mean over
keys and for maps that do not depend on the key. The third party counts results
and stops at n 2^-mask_bits = 2^-LEAK_BITS.
"""

import functools
import math
import secrets
from typing import Any

import numpy as np

from labelleak.he import checks, frames
from labelleak.he.exchange import (
  Count,
  Masks,
  MessageBytes,
  Scheme,
  Shape,
  Sums,
)
from labelleak.he.schemes import packing, rings, seal
from labelleak.he.schemes.packing import Layout
from labelleak.he.schemes.seal import Parameters, Public

# A whole run is within 2^-LEAK_BITS, in total variation, of one without noise.
LEAK_BITS = 20


def scheme(parameters: Parameters) -> Scheme:
  """Builds the roles under a new key pair; see `he.ckks`."""
  public, decryptor, channel = seal.generate_keys(parameters)
  part = functools.partial
  length = len(seal.save(seal.encrypt(public)))
  most = None
  if not parameters.insecure_for_tests:
    most = 2 ** (parameters.mask_bits - LEAK_BITS)
  return Scheme(
    channel=channel,
    ledger=checks.Ledger(most),
    bound=public.parameters.bound,
    check=check,
    encrypt=part(encrypt, public),
    evaluate=part(evaluate, public),
    blind=part(blind, public),
    decrypt=part(decrypt, decryptor, public),
    unmask=part(unmask, public),
    error_bound=part(error_bound, public.parameters),
    count=part(count, public, length),
    probe=packing.probe(public.parameters),
  )


def check(matrix: np.ndarray) -> None:
  """Refuses a map that is not finite."""
  checks.validate('the map', matrix, np.inf)


def encrypt(public: Public, message: np.ndarray, shape: Shape) -> list[bytes]:
  """Encrypts a message [I], w entries to a ciphertext (active)."""
  at = packing.layout(public.parameters, shape)
  bound, degree = public.parameters.bound, public.parameters.degree
  message = checks.validate('the message', message, bound)
  scaled = np.rint(message / bound * 2.0**public.parameters.fraction_bits)
  numbers = np.array([int(v) for v in scaled], object)  # beyond 64 bits
  blocks = packing.pad(numbers, at.sent * at.width).reshape(at.sent, -1)
  return [
    seal.save(seal.encrypt(public, packing.pad(block, degree)))
    for block in blocks
  ]


def evaluate(
  public: Public, ciphertexts: list[bytes], matrix: np.ndarray
) -> Sums:
  """Multiplies by A, in the units of `unmask`; None where A is 0 (passive)."""
  at = packing.layout(public.parameters, matrix.shape)
  blocks, _ = packing.split(at, matrix)
  messages = [seal.load(public, c) for c in ciphertexts]
  weights = np.rint(blocks * 2.0**public.parameters.map_bits).astype(np.int64)
  sums = []
  for row in weights:
    total = None
    for message, block in zip(messages, row):
      if not block.any():  # SEAL refuses a product with zero
        continue
      product = public.seal.Ciphertext()
      plain = seal.encode(public, rings.transform(public.ring, block))
      public.evaluator.multiply_plain(message, plain, product)
      if total is None:
        total = product
      else:
        public.evaluator.add_inplace(total, product)
    sums.append(total)
  return sums


def blind(public: Public, sums: Sums) -> tuple[list[bytes], Masks]:
  """Adds masks r: [[A m + r]], and r as values [L, N] each (passive).

  A mask is encrypted afresh, so that the ciphertext which the third party
  gets is freshly random whatever the sum is.
  """
  ciphertexts, masks = [], []
  for total in sums:
    mask = _draw_mask(public.ring)
    ciphertext = seal.encrypt(public)
    public.evaluator.add_plain_inplace(ciphertext, seal.encode(public, mask))
    if total is not None:
      public.evaluator.add_inplace(ciphertext, total)
    ciphertexts.append(seal.save(ciphertext))
    masks.append(mask)
  return ciphertexts, masks


def decrypt(
  decryptor: Any, public: Public, ciphertexts: list[bytes], shape: Shape
) -> bytes:
  """Decrypts the masked results [O], each as so many grains (third)."""
  at = packing.layout(public.parameters, shape)
  grain = find_grain(public.parameters, at)
  answers = []
  for ciphertext in ciphertexts:
    plain = public.seal.Plaintext()
    decryptor.decrypt(seal.load(public, ciphertext), plain)
    masked = _results(public, at, seal.read(public, plain))
    answers += [(value + grain // 2) // grain for value in masked]
  length = _answer_length(public, at)
  return b''.join(a.to_bytes(length, 'big') for a in answers[: shape[0]])


def unmask(
  public: Public, opened: bytes, masks: Masks, matrix: np.ndarray
) -> np.ndarray:
  """Takes the masks off: the result [O], float64 (passive)."""
  at = packing.layout(public.parameters, matrix.shape)
  _, ranges = packing.split(at, matrix)
  grain, length = find_grain(public.parameters, at), _answer_length(public, at)
  q, unit = public.ring.modulus, 2**public.parameters.product_bits
  hidden = [r for mask in masks for r in _results(public, at, mask)]
  results = []
  for start, mask in zip(range(0, len(opened), length), hidden):
    answer = int.from_bytes(opened[start : start + length], 'big')
    value = (answer * grain - mask) % q
    results.append((value - q if 2 * value > q else value) / unit)
  return np.array(results) * ranges * public.parameters.bound


def find_grain(parameters: Parameters, at: Layout) -> int:
  """Returns what answers are multiples of, a power of two; see the module."""
  noise = seal.find_noise(parameters, at.rows)
  return 2 ** max(0, parameters.mask_bits + math.ceil(math.log2(noise)))


def error_bound(
  parameters: Parameters, matrix: np.ndarray, message: np.ndarray
) -> np.ndarray:
  """Bounds |result - A m| to be expected, for A [O, I] and m [I] -> [O].

  With c the power of two above the sum of a row's magnitudes:

    rounding to the grain   c bound grain / 2 of a product's unit
    encryption noise        c bound, eight of its standard deviations
    encoding of the map     c 2^-(map_bits + 1) sum |m|
    and of the message      bound 2^-(fraction_bits + 1) sum |a|

  The result is rounded to float32.
  """
  matrix = np.abs(np.asarray(matrix, np.float64))
  message = np.abs(np.asarray(message, np.float64))
  at = packing.layout(parameters, matrix.shape)
  _, ranges = packing.split(at, matrix)
  noise = 8 * seal.find_noise(parameters, at.rows)
  slack = (find_grain(parameters, at) / 2 + noise) / 2**parameters.product_bits
  encoding = message.sum() * 2.0 ** -(parameters.map_bits + 1)
  bits = max(-53, -parameters.fraction_bits - 1)  # doubles are scaled
  error = ranges * (parameters.bound * slack + encoding)
  error += parameters.bound * matrix.sum(1) * 2.0**bits
  return error + 2.0**-24 * (matrix @ message + error) + 2.0**-149


def count(public: Public, length: int, shape: Shape, nonzeros: int) -> Count:
  """Counts operations and bytes of one batch, as if no block were zero."""
  del nonzeros
  at = packing.layout(public.parameters, shape)
  return Count(
    encrypt=at.sent,
    multiply=at.sent * at.returned,
    mask=at.returned,
    sent=MessageBytes(
      sealed=frames.size(at.sent, length),
      masked=frames.size(at.returned, length),
      opened=frames.size(1, _answer_length(public, at) * shape[0]),
    ),
  )


def _results(public: Public, at: Layout, values: np.ndarray) -> list[int]:
  """Returns the coefficients that hold results, r integers modulo q."""
  coefficients = rings.invert(public.ring, values)
  return rings.compose(public.ring, coefficients[:, at.places])


def _answer_length(public: Public, at: Layout) -> int:
  """Counts the bytes of an answer, which is at most q / grain, rounded up."""
  most = public.ring.modulus // find_grain(public.parameters, at) + 1
  return -(-most.bit_length() // 8)


def _draw_mask(ring: rings.Ring) -> np.ndarray:
  """Draws a polynomial, uniform modulo q, by its values uint64 [L, N]."""
  return np.stack([_uniform(p, ring.degree) for p in ring.primes])


def _uniform(p: int, size: int) -> np.ndarray:
  """Draws integers below p from the system's source, by rejection."""
  values = np.zeros(0, np.uint64)
  while len(values) < size:
    words = np.frombuffer(secrets.token_bytes(16 * size), np.uint64)
    words = words >> np.uint64(64 - p.bit_length())
    values = np.concatenate([values, words[words < p]])
  return values[:size]
