"""CKKS, by TenSEAL's binding of SEAL: N / 2 approximate numbers a ciphertext.

Scales. The message is divided by `bound` and the map as `packing` says, so that
every slot stays within 1 whatever the data, and a mask within 2^mask_bits.

Masks. They fill the real and the imaginary part of all slots, uniformly, so
that the rounding noise of the scheme is hidden with the values. A double holds
53 bits, so that one encoded mask would leave the lowest bits of a coefficient
bare: masks are sums, each term as fine as the last one's grain, down to 1.

Decryption. What it returns of a CKKS ciphertext holds noise that depends on the
secret key (Li and Micciancio, EUROCRYPT 2021), so the third party rounds it to
multiples of 2^(mask_bits - 50), by default coarser than the noise. That is a
precaution, not a proof.
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
from labelleak.he.schemes import packing, seal
from labelleak.he.schemes.seal import Parameters, Public


def scheme(parameters: Parameters) -> Scheme:
  """Builds the roles under a new key pair; see `he.ckks`."""
  public, decryptor, identity = seal.generate_keys(parameters)
  part = functools.partial
  length = len(seal.save(seal.encrypt(public, [0.0])))
  return Scheme(
    identity=identity,
    bound=public.parameters.bound,
    check=check,
    encrypt=part(encrypt, public),
    evaluate=part(evaluate, public),
    blind=part(blind, public),
    decrypt=part(decrypt, decryptor, public),
    unmask=part(unmask, public),
    error_bound=part(error_bound, public),
    count=part(count, public, length),
    probe=packing.probe(public.parameters),
  )


def check(matrix: np.ndarray) -> None:
  """Refuses a map that is not finite."""
  checks.validate('the map', matrix, np.inf)


def encrypt(public: Public, message: np.ndarray, shape: Shape) -> list[bytes]:
  """Encrypts a message [I] (active): w entries a ciphertext, r times each."""
  at = packing.layout(public.parameters, shape)
  bound = public.parameters.bound
  message = checks.validate('the message', message, bound)
  blocks = packing.pad(message / bound, at.sent * at.width)
  return [
    seal.save(seal.encrypt(public, np.tile(block, at.rows)))
    for block in blocks.reshape(at.sent, at.width)
  ]


def evaluate(
  public: Public, ciphertexts: list[bytes], matrix: np.ndarray
) -> Sums:
  """Multiplies by A, in the units of `unmask`; None where A is 0 (passive)."""
  at = packing.layout(public.parameters, matrix.shape)
  blocks, _ = packing.split(at, matrix)
  messages = [seal.load(public, c) for c in ciphertexts]
  scale = 2.0**public.parameters.fraction_bits
  sums = []
  for row in blocks:
    total = None
    for message, block in zip(messages, row):
      if not block.any():
        continue
      weights = seal.encode(public, block.ravel(), scale)
      if weights.is_zero():  # rounded to it; SEAL refuses a product with zero
        continue
      product = public.seal.Ciphertext()
      public.evaluator.multiply_plain(message, weights, product)
      if total is None:
        total = product
      else:
        public.evaluator.add_inplace(total, product)
    sums.append(total)
  return sums


def blind(public: Public, sums: Sums) -> tuple[list[bytes], Masks]:
  """Adds masks r: [[A m + r]] and r, complex [N / 2] each (passive).

  A mask is encrypted afresh, so that the ciphertext which the third party
  gets is freshly random whatever the sum is.
  """
  ciphertexts, masks = [], []
  for total in sums:
    ciphertext, mask = _encrypt_mask(public)
    if total is not None:
      public.evaluator.add_inplace(ciphertext, total)
    ciphertexts.append(seal.save(ciphertext))
    masks.append(mask)
  return ciphertexts, masks


def decrypt(
  decryptor: Any, public: Public, ciphertexts: list[bytes], shape: Shape
) -> bytes:
  """Decrypts the masked results [O], float64 as bytes (third).

  It adds the shares of each result, so that the passive party learns no share.
  """
  at = packing.layout(public.parameters, shape)
  grain = 2.0 ** (public.parameters.mask_bits - 50)
  results = []
  for ciphertext in ciphertexts:
    plain = public.seal.Plaintext()
    decryptor.decrypt(seal.load(public, ciphertext), plain)
    slots = np.array(public.encoder.decode_complex(plain)).real
    results.append(packing.sum_shares(at, np.rint(slots / grain) * grain))
  return np.concatenate(results)[: shape[0]].astype('<f8').tobytes()


def unmask(
  public: Public, opened: bytes, masks: Masks, matrix: np.ndarray
) -> np.ndarray:
  """Takes the masks off: the result [O], float64 (passive)."""
  at = packing.layout(public.parameters, matrix.shape)
  _, ranges = packing.split(at, matrix)
  masked = np.frombuffer(opened, '<f8')
  mask = np.concatenate([packing.sum_shares(at, m.real) for m in masks])
  return (masked - mask[: masked.size]) * ranges * public.parameters.bound


def error_bound(
  public: Public, matrix: np.ndarray, message: np.ndarray
) -> np.ndarray:
  """Bounds |result - A m| to be expected, for A [O, I] and m [I] -> [O].

  With c the power of two above the largest share of a row, in units of
  w c bound, where e = 2^-fraction_bits:

    encryption noise        e 8 sqrt(N (1 + 2 N / 3) / 12)
    encoding, both factors  e 8 sqrt(N / 12) (1 + ciphertexts of the message)
    doubles under the mask  2^(mask_bits - 48)

  The first two are eight standard deviations of the noise in a slot; the last
  is four times what was measured. The result is rounded to float32.
  """
  matrix = np.asarray(matrix, np.float64)
  at = packing.layout(public.parameters, matrix.shape)
  _, ranges = packing.split(at, matrix)
  n, bound = public.parameters.degree, public.parameters.bound
  bits, mask_bits = public.parameters.fraction_bits, public.parameters.mask_bits
  noise = 8 * math.sqrt(n / 12) * (math.sqrt(1 + 2 * n / 3) + 1 + at.sent)
  slot = noise * 2.0**-bits + 2.0 ** (mask_bits - 48)
  error = at.width * ranges * bound * slot
  exact = np.abs(matrix) @ np.abs(np.asarray(message, np.float64))
  return error + 2.0**-24 * (exact + error) + 2.0**-149


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
      opened=8 * shape[0],
    ),
  )


def mask_sizes(parameters: Parameters) -> list[float]:
  """Returns the magnitudes of a mask's terms, 2^mask_bits grains of the last.

  A term of magnitude z has coefficients up to z times the scale of a product,
  of which a double keeps 53 bits; the last term's grain is a unit.
  """
  sizes = [2.0**parameters.mask_bits]
  while sizes[-1] * 4.0**parameters.fraction_bits > 2.0**53:
    sizes.append(sizes[-1] * 2.0 ** (parameters.mask_bits - 53))
  return sizes


def _encrypt_mask(public: Public) -> tuple[Any, np.ndarray]:
  """Draws a mask; returns it encrypted and in the clear, complex [N / 2]."""
  total = public.seal.Ciphertext()
  public.encryptor.encrypt_zero(total)
  total.scale = scale = 4.0**public.parameters.fraction_bits
  mask = np.zeros(public.parameters.degree // 2, complex)
  for size in mask_sizes(public.parameters):
    term = size * _uniform(mask.size)
    plain = seal.encode(public, term, scale)
    public.evaluator.add_plain_inplace(total, plain)
    mask += term
  return total, mask


def _uniform(size: int) -> np.ndarray:
  """Complex [size], both parts uniform in [-1, 1], from the system's source."""
  words = np.frombuffer(secrets.token_bytes(16 * size), np.uint64) >> 11
  parts = words.reshape(2, size) * 2.0**-52 - 1.0
  return parts[0] + 1j * parts[1]
