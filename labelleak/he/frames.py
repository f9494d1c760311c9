"""Ciphertexts on their way: frames that name the key and every length.

A batch of ciphertexts travels with the digest of the key that it was encrypted
under: CKKS decrypts with any key, wrongly and without a word.
"""

import hashlib
import struct

from labelleak.base import InputError

_HEADER = struct.Struct('>32sI')
_LENGTH = struct.Struct('>I')


def pack(identity: bytes, ciphertexts: list[bytes]) -> bytes:
  """Frames ciphertexts with the digest of their key [32] and their lengths."""
  parts = [_HEADER.pack(identity, len(ciphertexts))]
  for ciphertext in ciphertexts:
    parts += [_LENGTH.pack(len(ciphertext)), ciphertext]
  return b''.join(parts)


def unpack(identity: bytes, frame: bytes) -> list[bytes]:
  """Returns the ciphertexts of a frame, all of them and under this very key.

  Raises:
    InputError: a frame of another key, or one that was cut.
  """
  broken = InputError(
    f'ciphertexts: {len(frame)} bytes are not what the frame announces; they'
    ' were cut or changed on the way, send them again.'
  )
  if len(frame) < _HEADER.size:
    raise broken
  sender, count = _HEADER.unpack_from(frame)
  if sender != identity:
    raise InputError(
      f'ciphertexts under key {sender.hex()[:12]} met key'
      f' {identity.hex()[:12]}, which would decrypt them wrongly; give all'
      " parties the third party's current public key."
    )
  ciphertexts, position = [], _HEADER.size
  for _ in range(count):
    if len(frame) < position + _LENGTH.size:
      raise broken
    (length,) = _LENGTH.unpack_from(frame, position)
    position += _LENGTH.size
    ciphertexts.append(frame[position : position + length])
    position += length
  if position != len(frame):
    raise broken
  return ciphertexts


def size(count: int, length: int) -> int:
  """Counts the bytes of a frame of `count` ciphertexts of `length` bytes."""
  return _HEADER.size + count * (_LENGTH.size + length)


def digest(public_key: bytes) -> bytes:
  """Returns what a key is known by, 32 bytes."""
  return hashlib.sha256(public_key).digest()
