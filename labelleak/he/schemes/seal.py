"""SEAL by TenSEAL's binding: secure parameters, keys, ciphertexts as bytes."""

import math
import os
import struct
import tempfile
from typing import Any, NamedTuple, Optional

import numpy as np

from labelleak.base import InputError
from labelleak.he import checks, frames
from labelleak.he.frames import Channel
from labelleak.he.schemes import rings
from labelleak.he.schemes.rings import Ring

_LEAST_MASK = 20  # bits
_LEAST_RESULT = 10  # bits above the grain of an answer
_PLAIN = struct.Struct('<Qd')  # entries, scale
_ARRAY = struct.Struct('<Q')  # entries


class Parameters(NamedTuple):
  """Public parameters of CKKS; see `he.ckks`."""

  degree: int  # N
  bits: tuple[int, ...]  # of each prime of the modulus
  fraction_bits: int
  mask_bits: int
  bound: float
  width: Optional[int]
  insecure_for_tests: bool

  @property
  def map_bits(self) -> int:
    """Returns the scale of the map: what message, sign and carry leave."""
    return min(52, sum(self.bits[:-1]) - 3 - self.fraction_bits)

  @property
  def product_bits(self) -> int:
    """Returns the scale of a product: a result of 1 is 2^product_bits."""
    return self.fraction_bits + self.map_bits


class Public(NamedTuple):
  """What every party holds: SEAL's tools and the public parameters."""

  seal: Any  # the library
  context: Any
  encryptor: Any
  evaluator: Any
  ring: Ring  # of ciphertexts: the modulus without its special prime
  parameters: Parameters


def generate_keys(parameters: Parameters) -> tuple[Public, Any, Channel]:
  """Generates a key pair: public tools, decryptor, the parties' channel.

  Raises:
    InputError: see `he.ckks`.
  """
  seal = checks.import_library('tenseal.sealapi')
  _validate(seal, parameters)
  degree, bits = parameters.degree, parameters.bits
  encryption = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
  encryption.set_poly_modulus_degree(degree)
  encryption.set_coeff_modulus(seal.CoeffModulus.Create(degree, list(bits)))
  context = seal.SEALContext(encryption, True, seal.SEC_LEVEL_TYPE.TC128)
  if not context.parameters_set():
    raise InputError(
      f'coeff_mod_bit_sizes={bits} with poly_modulus_degree={degree}: SEAL'
      f' says {context.parameters_error_message()}; choose others.'
    )
  generator = seal.KeyGenerator(context)
  key = seal.PublicKey()
  generator.create_public_key(key)
  primes = context.first_context_data().parms().coeff_modulus()
  public = Public(
    seal=seal,
    context=context,
    encryptor=seal.Encryptor(context, key),
    evaluator=seal.Evaluator(context),
    ring=Ring(degree, tuple(p.value() for p in primes)),
    parameters=parameters._replace(bound=checks.round_up(parameters.bound)),
  )
  decryptor = seal.Decryptor(context, generator.secret_key())
  return public, decryptor, frames.agree(save(key))


def find_noise(parameters: Parameters, rows: int) -> float:
  """Returns the standard deviation of a product's noise, in its last unit.

  SEAL encrypts under q and the special prime and then divides by it: what is
  left in a coefficient is the rounding of both parts, t + t' s, each uniform in
  [-1/2, 1/2], for a ternary key s of 2 N / 3 coefficients. A product adds it up
  with the squares of the weights, which are 4^map_bits in each of r rows at
  most, and the mask's own noise comes on top.
  """
  fresh = (1 + 2 * parameters.degree / 3) / 12
  return math.sqrt(fresh * (rows * 4.0**parameters.map_bits + 1))


def encode(public: Public, values: np.ndarray) -> Any:
  """Makes a plaintext of a polynomial's values [L, N], as `rings` has them.

  The binding encodes doubles only, hence by SEAL's format of files.
  """
  header = bytearray(save(public.seal.Plaintext())[:16])
  header[5] = 0  # not compressed
  wrap = lambda body: bytes(header[:8]) + _ARRAY.pack(16 + len(body)) + body
  body = np.array(public.context.first_parms_id(), '<u8').tobytes()
  body += _PLAIN.pack(values.size, 1.0)
  body += wrap(_ARRAY.pack(values.size) + values.tobytes())
  return _load(public, public.seal.Plaintext(), wrap(body))


def read(public: Public, plain: Any) -> np.ndarray:
  """Returns the values [L, N] of a plaintext."""
  values = np.array([plain.data(i) for i in range(plain.coeff_count())])
  return values.astype(np.uint64).reshape(len(public.ring.primes), -1)


def encrypt(public: Public, numbers: Optional[np.ndarray] = None) -> Any:
  """Encrypts coefficients [N] afresh, integers; zeros by default."""
  ciphertext = public.seal.Ciphertext()
  public.encryptor.encrypt_zero(ciphertext)
  if numbers is not None:
    plain = encode(public, rings.transform(public.ring, numbers))
    public.evaluator.add_plain_inplace(ciphertext, plain)
  return ciphertext


def save(item: Any) -> bytes:
  """Serialises an object of SEAL, which the binding writes to files only."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'item')
    item.save(path)
    with open(path, 'rb') as file:
      return file.read()


def load(public: Public, data: bytes) -> Any:
  """Reads a ciphertext from bytes; SEAL checks that it fits the parameters.

  Raises:
    InputError: it does not.
  """
  try:
    return _load(public, public.seal.Ciphertext(), data)
  except (RuntimeError, ValueError) as e:
    raise InputError(
      f'a ciphertext of {len(data)} bytes cannot be read ({e}); it was cut'
      ' or changed on the way, or belongs to other parameters: send it again.'
    ) from e


def _load(public: Public, item: Any, data: bytes) -> Any:
  """Reads an object of SEAL from bytes, and returns it."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'item')
    with open(path, 'wb') as file:
      file.write(data)
    item.load(public.context, path)
  return item


def _validate(seal: Any, parameters: Parameters) -> None:
  """Refuses what is insecure, and what leaves results no room."""
  degree, bits, width = parameters.degree, parameters.bits, parameters.width
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
  if width is not None and not (
    1 <= width <= degree and width & (width - 1) == 0
  ):
    raise InputError(f'width={width} must be a power of two up to {degree}.')
  if parameters.fraction_bits < 1 or parameters.map_bits < 1:
    raise InputError(
      f'fraction_bits={parameters.fraction_bits} must be positive and leave'
      f' the map a bit of the {sum(bits[:-1])} of all primes but the last, with'
      ' 3 for sign and carry; lower it or add primes.'
    )
  if not parameters.insecure_for_tests:
    _validate_grain(parameters)


def _validate_grain(parameters: Parameters) -> None:
  """Refuses answers that show the noise, or nothing of a result."""
  mask_bits = parameters.mask_bits
  if mask_bits < _LEAST_MASK:
    raise InputError(
      f'mask_bits={mask_bits} lets the noise show in results, and with it the'
      f' secret key; {_LEAST_MASK} is the least, tests may set'
      ' insecure_for_tests=True.'
    )
  noise = math.ceil(math.log2(find_noise(parameters, parameters.degree)))
  left = parameters.product_bits - mask_bits - noise
  if left < _LEAST_RESULT:
    raise InputError(
      f'fraction_bits={parameters.fraction_bits} and mask_bits={mask_bits}'
      f' leave {left} bits of a result above its grain, and {_LEAST_RESULT} are'
      ' the least; raise fraction_bits, lower mask_bits or add primes.'
    )
