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
import os
import secrets
import tempfile
from typing import Any, NamedTuple, Optional

import numpy as np

from labelleak.base import InputError
from labelleak.he import protocol
from labelleak.he.protocol import Count, Scheme

_SEAL = 'tenseal.sealapi'


class Public(NamedTuple):
  """What every party holds: SEAL's tools and the public parameters."""

  context: Any
  encryptor: Any
  evaluator: Any
  encoder: Any
  degree: int  # N
  fraction_bits: int
  mask_bits: int
  bound: float
  width: Optional[int]


def scheme(
  degree: int,
  bits: tuple[int, ...],
  fraction_bits: int,
  mask_bits: int,
  bound: float,
  width: Optional[int],
) -> Scheme:
  """The roles under a new key pair; see `he.ckks`."""
  seal = protocol.library(_SEAL)
  _validate(seal, degree, bits, fraction_bits, mask_bits, bound, width)
  parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
  parameters.set_poly_modulus_degree(degree)
  parameters.set_coeff_modulus(seal.CoeffModulus.Create(degree, list(bits)))
  context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
  if not context.parameters_set():
    raise InputError(
      f'coeff_mod_bit_sizes={bits} with poly_modulus_degree={degree}: SEAL'
      f' says {context.parameters_error_message()}; choose others.'
    )
  generator = seal.KeyGenerator(context)
  key = seal.PublicKey()
  generator.create_public_key(key)
  public = Public(
    context=context,
    encryptor=seal.Encryptor(context, key),
    evaluator=seal.Evaluator(context),
    encoder=seal.CKKSEncoder(context),
    degree=degree,
    fraction_bits=fraction_bits,
    mask_bits=mask_bits,
    bound=bound,
    width=width,
  )
  decryptor = seal.Decryptor(context, generator.secret_key())
  part = functools.partial
  return Scheme(
    identity=protocol.digest(_save(key)),
    check=lambda matrix: protocol.bounded('the map', matrix, np.inf),
    encrypt=part(encrypt, public),
    evaluate=part(evaluate, public),
    decrypt=part(decrypt, decryptor, public),
    unmask=part(unmask, public),
    error_bound=part(error_bound, public),
    count=part(count, public, len(_save(_encrypted(public, [0.0])))),
    probe=_probe(public),
  )


def _validate(seal, degree, bits, fraction_bits, mask_bits, bound, width):
  """Refuses what is insecure, and what leaves results or masks no room."""
  if degree not in (1024, 2048, 4096, 8192, 16384, 32768):
    raise InputError(
      f'poly_modulus_degree={degree} must be a power of two in 1024..32768.'
    )
  secure = seal.CoeffModulus.MaxBitCount(degree, seal.SEC_LEVEL_TYPE.TC128)
  if sum(bits) > secure:
    raise InputError(
      f'coeff_mod_bit_sizes={tuple(bits)} add up to {sum(bits)} bits;'
      f' poly_modulus_degree={degree} is 128-bit secure up to {secure}; take'
      ' fewer bits or a larger degree.'
    )
  if not (fraction_bits >= 1 and 1 <= mask_bits <= 40 and bound > 0):
    raise InputError(
      f'fraction_bits={fraction_bits}, mask_bits={mask_bits} (at most 40) and'
      f' bound={bound:g} must be positive.'
    )
  # Of the modulus without its special prime: sign, carry and product scale.
  room, needed = sum(bits[:-1]), 2 * fraction_bits + mask_bits + 3
  if needed > room:
    raise InputError(
      f'fraction_bits={fraction_bits} and mask_bits={mask_bits} need'
      f' 2 * {fraction_bits} + {mask_bits} + 3 = {needed} bits, and all'
      f' primes but the last have {room}; lower them or add primes.'
    )
  if width is not None and not (
    1 <= width <= degree // 2 and width & (width - 1) == 0
  ):
    raise InputError(
      f'width={width} must be a power of two up to {degree // 2}.'
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
  message = protocol.bounded('the message', message, public.bound)
  blocks = _pad(message / public.bound, at.sent * at.width)
  return [
    _save(_encrypted(public, np.tile(block, at.rows)))
    for block in blocks.reshape(at.sent, at.width)
  ]


def evaluate(public: Public, ciphertexts: list[bytes], matrix):
  """Passive party: [[A m + r]], and what it needs to take the mask off.

  The sum starts from the fresh encryption of the mask, so that the ciphertext
  the third party gets is freshly random whatever is added to it.
  """
  at = layout(public, matrix.shape)
  blocks, ranges = _blocks(at, matrix)
  messages = [_load(public, c) for c in ciphertexts]
  scale = 2.0**public.fraction_bits
  product = protocol.library(_SEAL).Ciphertext()
  masked, masks = [], []
  for rows in blocks:
    total, mask = _masked_zero(public)
    for message, block in zip(messages, rows):
      if not block.any():
        continue
      weights = _encoded(public, block.ravel(), scale)
      if weights.is_zero():  # rounded to it; SEAL refuses a product with zero
        continue
      public.evaluator.multiply_plain(message, weights, product)
      public.evaluator.add_inplace(total, product)
    masked.append(_save(total))
    masks.append(_sums(at, mask.real))
  return masked, (np.concatenate(masks), ranges)


def decrypt(decryptor, public: Public, ciphertexts: list[bytes], shape):
  """Third party: the masked results [O], float64 as bytes.

  It adds the shares of each result, so that the passive party learns no share.
  """
  at = layout(public, shape)
  grain = 2.0 ** (public.mask_bits - 50)
  results = []
  for ciphertext in ciphertexts:
    plain = protocol.library(_SEAL).Plaintext()
    decryptor.decrypt(_load(public, ciphertext), plain)
    slots = np.array(public.encoder.decode_complex(plain)).real
    results.append(_sums(at, np.rint(slots / grain) * grain))
  return np.concatenate(results)[: shape[0]].astype('<f8').tobytes()


def unmask(public: Public, opened: bytes, mask) -> np.ndarray:
  """Passive party: result [O], float64."""
  masks, ranges = mask
  masked = np.frombuffer(opened, '<f8')
  return (masked - masks[: masked.size]) * ranges * public.bound


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
    sealed_bytes=protocol.frame_bytes(at.sent, length),
    masked_bytes=protocol.frame_bytes(at.returned, length),
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


def _masked_zero(public: Public) -> tuple[Any, np.ndarray]:
  """A fresh encryption of a random mask, and the mask, complex [N / 2]."""
  scale = 4.0**public.fraction_bits
  total, mask, size = None, 0.0, 2.0**public.mask_bits
  while True:
    term = size * _uniform(public.degree // 2)
    plain = _encoded(public, term, scale)
    mask = mask + term
    if total is None:
      total = protocol.library(_SEAL).Ciphertext()
      public.encryptor.encrypt(plain, total)
    else:
      public.evaluator.add_plain_inplace(total, plain)
    if size * scale <= 2.0**53:  # doubles are exact down to units
      return total, mask
    size *= 2.0 ** (public.mask_bits - 53)


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


def _encoded(public: Public, values, scale: float):
  plain = protocol.library(_SEAL).Plaintext()
  public.encoder.encode(np.asarray(values).tolist(), scale, plain)
  return plain


def _encrypted(public: Public, values):
  ciphertext = protocol.library(_SEAL).Ciphertext()
  plain = _encoded(public, values, 2.0**public.fraction_bits)
  public.encryptor.encrypt(plain, ciphertext)
  return ciphertext


def _save(item) -> bytes:
  """SEAL's serialisation, which the binding writes to files only."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'item')
    item.save(path)
    with open(path, 'rb') as file:
      return file.read()


def _load(public: Public, data: bytes):
  """A ciphertext from bytes; SEAL checks that it fits the parameters."""
  ciphertext = protocol.library(_SEAL).Ciphertext()
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'item')
    with open(path, 'wb') as file:
      file.write(data)
    try:
      ciphertext.load(public.context, path)
    except (RuntimeError, ValueError) as e:
      raise InputError(
        f'a ciphertext of {len(data)} bytes cannot be read ({e}); it was cut'
        ' or changed on the way, or belongs to other parameters: send it again.'
      ) from e
  return ciphertext
