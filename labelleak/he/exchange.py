"""Steps 8, 10 and 11 of Algorithm 1 (BLI, Liu et al.), one encrypted batch.

    active party, public key     encrypts the message [I]
    passive party, public key    applies its map [O, I], then adds a random mask
    third party, secret key      decrypts the masked result
    passive party                takes the mask off: the result [O]

A `Scheme` holds the roles as host functions. What passes between them is bytes
(see `he.frames`).

Masks and encryption draw from the operating system, not from the jax key: they
must be secret, and they cancel, so that results are deterministic up to the
stated error all the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from labelleak.he import frames

Shape = tuple[int, int]  # (O, I) of a map, public
Sums = list[Any]  # ciphertexts of [[A m]], objects of the scheme's library
Masks = list[Any]  # in the clear, one for each ciphertext of the result


class MessageBytes(NamedTuple):
  """Sizes of what is sent for one batch.

  Attributes:
    sealed: active -> passive.
    masked: passive -> third.
    opened: third -> passive.
  """

  sealed: int
  masked: int
  opened: int


class Count(NamedTuple):
  """Operations and bytes of one batch."""

  encrypt: int  # ciphertexts that the active party sends
  multiply: int  # products that the passive party adds up
  mask: int  # ciphertexts that the passive party sends
  sent: MessageBytes


class Scheme(NamedTuple):
  """The roles of Algorithm 1 under one key pair.

  Attributes:
    identity: digest of the public key, 32 bytes.
    bound: public: the largest magnitude of a message entry.
    check: (matrix [O, I]); raises where the passive party's map does not fit.
    encrypt: (message [I], shape) -> ciphertexts.
    evaluate: (ciphertexts, matrix [O, I]) -> sums.
    blind: sums -> (ciphertexts, masks).
    decrypt: (ciphertexts, shape) -> the masked result as bytes.
    unmask: (bytes, masks, matrix [O, I]) -> result [O].
    error_bound: (matrix [O, I], message [I]) -> largest error [O].
    count: (shape, nonzeros of the matrix) -> Count.
    probe: a shape that takes some ten operations of each kind.
  """

  identity: bytes
  bound: float
  check: Callable[[np.ndarray], None]
  encrypt: Callable[[np.ndarray, Shape], list[bytes]]
  evaluate: Callable[[list[bytes], np.ndarray], Sums]
  blind: Callable[[Sums], tuple[list[bytes], Masks]]
  decrypt: Callable[[list[bytes], Shape], bytes]
  unmask: Callable[[bytes, Masks, np.ndarray], np.ndarray]
  error_bound: Callable[[np.ndarray, np.ndarray], np.ndarray]
  count: Callable[[Shape, int], Count]
  probe: Shape


class Exchange(NamedTuple):
  """What passed between the roles, and what came of it."""

  sealed: bytes  # frame, active -> passive
  masked: bytes  # frame, passive -> third
  opened: bytes  # third -> passive
  result: np.ndarray  # [O] float64


def exchange(
  scheme: Scheme, matrix: np.ndarray, message: np.ndarray
) -> Exchange:
  """Runs one batch through all roles: map [O, I], message [I] -> result [O].

  Raises:
    InputError: what is not finite, too large, or under another key.
  """
  scheme.check(matrix)
  sealed = frames.pack(scheme.identity, scheme.encrypt(message, matrix.shape))
  sums = scheme.evaluate(frames.unpack(scheme.identity, sealed), matrix)
  ciphertexts, masks = scheme.blind(sums)
  masked = frames.pack(scheme.identity, ciphertexts)
  opened = scheme.decrypt(frames.unpack(scheme.identity, masked), matrix.shape)
  return Exchange(sealed, masked, opened, scheme.unmask(opened, masks, matrix))
