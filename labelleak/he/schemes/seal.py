"""SEAL by TenSEAL's binding: secure parameters, keys, ciphertexts as bytes."""

import os
import tempfile
from typing import Any, NamedTuple, Optional

import numpy as np

from labelleak.base import InputError
from labelleak.he import checks, frames


class Parameters(NamedTuple):
  """Public parameters of CKKS; see `he.ckks`."""

  degree: int  # N
  bits: tuple[int, ...]  # of each prime of the modulus
  fraction_bits: int
  mask_bits: int
  bound: float
  width: Optional[int]


class Public(NamedTuple):
  """What every party holds: SEAL's tools and the public parameters."""

  seal: Any  # the library
  context: Any
  encryptor: Any
  evaluator: Any
  encoder: Any
  parameters: Parameters


def generate_keys(parameters: Parameters) -> tuple[Public, Any, bytes]:
  """Generates a key pair: public tools, decryptor, the public key's digest.

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
  public = Public(
    seal=seal,
    context=context,
    encryptor=seal.Encryptor(context, key),
    evaluator=seal.Evaluator(context),
    encoder=seal.CKKSEncoder(context),
    parameters=parameters._replace(bound=checks.round_up(parameters.bound)),
  )
  decryptor = seal.Decryptor(context, generator.secret_key())
  return public, decryptor, frames.digest(save(key))


def encode(public: Public, values: np.ndarray, scale: float) -> Any:
  """Encodes up to N / 2 values, real or complex, as a plaintext."""
  plain = public.seal.Plaintext()
  public.encoder.encode(np.asarray(values).tolist(), scale, plain)
  return plain


def encrypt(public: Public, values: np.ndarray) -> Any:
  """Encrypts up to N / 2 values afresh, at the scale of a factor."""
  ciphertext = public.seal.Ciphertext()
  plain = encode(public, values, 2.0**public.parameters.fraction_bits)
  public.encryptor.encrypt(plain, ciphertext)
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
  ciphertext = public.seal.Ciphertext()
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


def _validate(seal: Any, parameters: Parameters) -> None:
  """Refuses what is insecure, and what leaves results or masks no room."""
  degree, bits, fraction_bits, mask_bits, _, width = parameters
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
  if fraction_bits < 1 or not 1 <= mask_bits <= 40:
    raise InputError(
      f'fraction_bits={fraction_bits} must be positive and'
      f' mask_bits={mask_bits} in 1..40; a double has 53 bits for both.'
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
