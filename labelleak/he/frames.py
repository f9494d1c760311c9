"""Messages on their way: frames that name the key and every length, sealed.

A batch of ciphertexts travels with the digest of the key that it was encrypted
under: CKKS decrypts with any key, wrongly and without a word. And a ciphertext
with one bit changed decrypts to something else, so that every frame ends in a
keyed digest (BLAKE2b). Its key is agreed on by the three parties at set-up and
known to nobody else: who forwards or stores frames can neither change one nor
pass one for another kind of message. It protects against no party, each of
which can seal what it likes, nor against a frame of this run sent twice.
"""

import hashlib
import hmac
import secrets
import struct
from typing import NamedTuple

from labelleak.base import InputError

_HEADER = struct.Struct('>32sI')
_LENGTH = struct.Struct('>I')
_DIGEST = 32  # bytes


class Channel(NamedTuple):
  """What all three parties hold after set-up.

  Attributes:
    identity: digest of the public key, 32 bytes.
    secret: key of the frames' digests, 32 bytes.
  """

  identity: bytes
  secret: bytes


def agree(public_key: bytes) -> Channel:
  """Draws a channel's secret for the parties of a public key."""
  identity = hashlib.sha256(public_key).digest()
  return Channel(identity, secrets.token_bytes(32))


def pack(channel: Channel, kind: str, messages: list[bytes]) -> bytes:
  """Frames messages with their key, kind (at most 16 letters) and lengths."""
  parts = [_HEADER.pack(channel.identity, len(messages))]
  for message in messages:
    parts += [_LENGTH.pack(len(message)), message]
  frame = b''.join(parts)
  return frame + _digest(channel, kind, frame)


def unpack(channel: Channel, kind: str, frame: bytes) -> list[bytes]:
  """Returns the messages of a frame of this kind, under this very key.

  Raises:
    InputError: a frame of another key or kind, or one that was changed.
  """
  body, digest = frame[:-_DIGEST], frame[-_DIGEST:]
  if len(body) >= _HEADER.size:
    sender, _ = _HEADER.unpack_from(body)
    if sender != channel.identity:
      raise InputError(
        f'ciphertexts under key {sender.hex()[:12]} met key'
        f' {channel.identity.hex()[:12]}, which would decrypt them wrongly;'
        " give all parties the third party's current public key."
      )
  if not hmac.compare_digest(digest, _digest(channel, kind, body)):
    raise InputError(
      f'{kind}: {len(frame)} bytes are not what their digest announces; they'
      ' were cut or changed on the way, send them again.'
    )
  _, count = _HEADER.unpack_from(body)
  messages, position = [], _HEADER.size
  for _ in range(count):
    (length,) = _LENGTH.unpack_from(body, position)
    position += _LENGTH.size
    messages.append(body[position : position + length])
    position += length
  return messages


def size(count: int, length: int) -> int:
  """Counts the bytes of a frame of `count` messages of `length` bytes."""
  return _HEADER.size + count * (_LENGTH.size + length) + _DIGEST


def _digest(channel: Channel, kind: str, body: bytes) -> bytes:
  return hashlib.blake2b(
    body, digest_size=_DIGEST, key=channel.secret, person=kind.encode()
  ).digest()
