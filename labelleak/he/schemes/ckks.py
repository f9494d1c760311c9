"""CKKS, by TenSEAL's binding of SEAL: N / 2 approximate numbers a ciphertext.

Layout. With width w, ciphertext k holds the message entries k w ... k w + w - 1
side by side, the block repeated for r = N / 2w results. The passive party
multiplies it by the r x w block of its map and adds up over k: one plaintext
product deep, no rotation, no relinearisation, no rescaling. Slot (j, i) is then
a share of result j, and the third party adds the w shares of each result after
it has decrypted. Width 1 leaves it nothing to add, as in Algorithm 1, but takes
a ciphertext for each entry of the message.

Scales. The message is divided by `bound`, a row of the map by a power of two c
which bounds what it can reach in a slot, so that every slot stays within 1
whatever the data, and a mask within 2^mask_bits.

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
from typing import Any, NamedTuple, Optional

import numpy as np

from labelleak.he import exchange
from labelleak.he.exchange import Count, Scheme
from labelleak.he.schemes import seal
from labelleak.he.schemes.seal import Public


def scheme(
  degree: int,
  bits: tuple[int, ...],
  fraction_bits: int,
  mask_bits: int,
  bound: float,
  width: Optional[int],
) -> Scheme:
  """The roles under a new key pair; see `he.ckks`."""
  public, decryptor, identity = seal.keys(
    degree, bits, fraction_bits, mask_bits, bound, width
  )
  part = functools.partial
  return Scheme(
    identity=identity,
    bound=public.bound,
    check=lambda matrix: exchange.bounded('the map', matrix, np.inf),
    encrypt=part(encrypt, public),
    evaluate=part(evaluate, public),
    blind=part(blind, public),
    decrypt=part(decrypt, decryptor, public),
    unmask=part(unmask, public),
    error_bound=part(error_bound, public),
    count=part(count, public, len(seal.save(seal.encrypted(public, [0.0])))),
    probe=_probe(public),
  )


class Layout(NamedTuple):
  """How a map of a given shape lies in ciphertexts."""

  width: int  # w, message entries to a ciphertext
  rows: int  # r, results to a ciphertext
  sent: int  # ciphertexts of the message
  returned: int  # ciphertexts of the result


def layout(public: Public, shape: tuple[int, int]) -> Layout:
  """The width with the fewest ciphertexts, unless it is given; shape (O, I)."""
  outputs, inputs = shape
  slots = public.degree // 2
  widths = [2**i for i in range(slots.bit_length())]

  def place(width):
    rows = slots // width
    return Layout(width, rows, -(-inputs // width), -(-outputs // rows))

  if public.width:
    return place(public.width)
  return min(map(place, widths), key=lambda at: at.sent + at.returned)


def _probe(public: Public) -> tuple[int, int]:
  """A shape of ten ciphertexts each way."""
  slots = public.degree // 2
  width = public.width or 2 ** (slots.bit_length() // 2)
  return 10 * slots // width, 10 * width


def encrypt(public: Public, message, shape) -> list[bytes]:
  """Active party: message [I] -> ciphertexts of w entries, repeated r times."""
  at = layout(public, shape)
  message = exchange.bounded('the message', message, public.bound)
  blocks = _pad(message / public.bound, at.sent * at.width)
  return [
    seal.save(seal.encrypted(public, np.tile(block, at.rows)))
    for block in blocks.reshape(at.sent, at.width)
  ]


def evaluate(public: Public, ciphertexts: list[bytes], matrix) -> list:
  """Passive party: [[A m]] in the units of `unmask`, None where A is zero."""
  at = layout(public, matrix.shape)
  blocks, _ = _blocks(at, matrix)
  messages = [seal.load(public, c) for c in ciphertexts]
  scale = 2.0**public.fraction_bits
  sums = []
  for row in blocks:
    total = None
    for message, block in zip(messages, row):
      if not block.any():
        continue
      weights = seal.encoded(public, block.ravel(), scale)
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


def blind(public: Public, sums: list) -> tuple[list[bytes], list]:
  """Passive party: [[A m + r]] and r, complex [N / 2] for each ciphertext.

  The mask is encrypted afresh, so that the ciphertext which the third party
  gets is freshly random whatever the sum is.
  """
  masked, masks = [], []
  for total in sums:
    blinded, mask = _encrypted_mask(public)
    if total is not None:
      public.evaluator.add_inplace(blinded, total)
    masked.append(seal.save(blinded))
    masks.append(mask)
  return masked, masks


def decrypt(decryptor, public: Public, ciphertexts: list[bytes], shape):
  """Third party: the masked results [O], float64 as bytes.

  It adds the shares of each result, so that the passive party learns no share.
  """
  at = layout(public, shape)
  grain = 2.0 ** (public.mask_bits - 50)
  results = []
  for ciphertext in ciphertexts:
    plain = public.seal.Plaintext()
    decryptor.decrypt(seal.load(public, ciphertext), plain)
    slots = np.array(public.encoder.decode_complex(plain)).real
    results.append(_sums(at, np.rint(slots / grain) * grain))
  return np.concatenate(results)[: shape[0]].astype('<f8').tobytes()


def unmask(public: Public, opened: bytes, masks: list, matrix) -> np.ndarray:
  """Passive party: result [O], float64."""
  at = layout(public, matrix.shape)
  _, ranges = _blocks(at, matrix)
  masked = np.frombuffer(opened, '<f8')
  mask = np.concatenate([_sums(at, m.real) for m in masks])[: masked.size]
  return (masked - mask) * ranges * public.bound


def error_bound(public: Public, matrix, message) -> np.ndarray:
  """Largest |result - A m| to be expected, for A [O, I] and m [I] -> [O].

  With c the power of two above the largest share of a row, in units of
  w c bound, where e = 2^-fraction_bits:

    encryption noise        e 8 sqrt(N (1 + 2 N / 3) / 12)
    encoding, both factors  e 8 sqrt(N / 12) (1 + ciphertexts of the message)
    doubles under the mask  2^(mask_bits - 48)

  The first two are eight standard deviations of the noise in a slot; the last
  is four times what was measured. The result is rounded to float32.
  """
  matrix = np.asarray(matrix, np.float64)
  at = layout(public, matrix.shape)
  _, ranges = _blocks(at, matrix)
  n = public.degree
  noise = 8 * math.sqrt(n / 12) * (math.sqrt(1 + 2 * n / 3) + 1 + at.sent)
  slot = noise * 2.0**-public.fraction_bits + 2.0 ** (public.mask_bits - 48)
  error = at.width * ranges * public.bound * slot
  exact = np.abs(matrix) @ np.abs(np.asarray(message, np.float64))
  return error + 2.0**-24 * (exact + error) + 2.0**-149


def count(public: Public, length: int, shape, nonzeros: int) -> Count:
  """Operations and bytes of one batch; blocks count as if none were zero."""
  del nonzeros
  at = layout(public, shape)
  return Count(
    encrypt=at.sent,
    multiply=at.sent * at.returned,
    mask=at.returned,
    sealed_bytes=exchange.frame_bytes(at.sent, length),
    masked_bytes=exchange.frame_bytes(at.returned, length),
    opened_bytes=8 * shape[0],
  )


def _blocks(at: Layout, matrix) -> tuple[np.ndarray, np.ndarray]:
  """Blocks [returned, sent, r, w] of the scaled map, and the scales c [O]."""
  outputs, _ = matrix.shape
  wide = _pad(np.asarray(matrix, np.float64).T, at.sent * at.width).T
  shares = np.abs(wide).reshape(outputs, at.sent, at.width).sum(1)
  peaks = shares.max(1)
  ranges = np.where(peaks > 0, np.exp2(np.ceil(np.log2(peaks + 1e-300))), 1.0)
  scaled = _pad(wide / ranges[:, None], at.returned * at.rows)
  blocks = scaled.reshape(at.returned, at.rows, at.sent, at.width)
  return blocks.transpose(0, 2, 1, 3), ranges


def mask_sizes(public: Public) -> list[float]:
  """Magnitudes of a mask's terms, each 2^mask_bits grains of the one before.

  A term of magnitude z has coefficients up to z times the scale of a product,
  of which a double keeps 53 bits; the last term's grain is a unit.
  """
  sizes = [2.0**public.mask_bits]
  while sizes[-1] * 4.0**public.fraction_bits > 2.0**53:
    sizes.append(sizes[-1] * 2.0 ** (public.mask_bits - 53))
  return sizes


def _encrypted_mask(public: Public) -> tuple[Any, np.ndarray]:
  """A random mask, encrypted, and in the clear, complex [N / 2]."""
  total = public.seal.Ciphertext()
  public.encryptor.encrypt_zero(total)
  total.scale = scale = 4.0**public.fraction_bits
  mask = np.zeros(public.degree // 2, complex)
  for size in mask_sizes(public):
    term = size * _uniform(mask.size)
    plain = seal.encoded(public, term, scale)
    public.evaluator.add_plain_inplace(total, plain)
    mask += term
  return total, mask


def _uniform(size: int) -> np.ndarray:
  """Complex [size], both parts uniform in [-1, 1], from the system's source."""
  words = np.frombuffer(secrets.token_bytes(16 * size), np.uint64) >> 11
  parts = words.reshape(2, size) * 2.0**-52 - 1.0
  return parts[0] + 1j * parts[1]


def _sums(at: Layout, slots: np.ndarray) -> np.ndarray:
  """Shares [N / 2] -> results [r]."""
  return slots[: at.rows * at.width].reshape(at.rows, at.width).sum(1)


def _pad(values: np.ndarray, size: int) -> np.ndarray:
  """The first axis filled up with zeros."""
  return np.pad(
    values, [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1)
  )
