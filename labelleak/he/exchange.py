"""Steps 8, 10 and 11 of Algorithm 1 (BLI, Liu et al.), one encrypted batch.

    active party, public key     encrypts the message [I]
    passive party, public key    applies its map [O, I], then adds a random mask
    third party, secret key      decrypts the masked result
    passive party                takes the mask off: the result [O]

A `Scheme` holds the roles as host functions. What passes between them is bytes,
sealed against whoever carries them (see `he.frames`). The third party counts
what it opens, and the passive party refuses a result that its map cannot have.

What each learns: the active party nothing from here, but all embeddings in the
clear, which the protocol sends it. The passive party its result, if it follows
the protocol: it may put any map in the place of its own, the identity too. The
third party sizes and how often it is asked; what it decrypts is uniform. With
the messages or the masks of another party it would read everything.

Masks and encryption draw from the operating system, not from the jax key: they
must be secret, and they cancel, so that results are deterministic up to the
stated error all the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from labelleak.base import InputError
from labelleak.he import frames
from labelleak.he.checks import Ledger
from labelleak.he.frames import Channel

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
    channel: what the parties agreed on at set-up.
    ledger: the third party's, of what it has opened.
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

  channel: Channel
  ledger: Ledger
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
  """The frames that passed between the roles, and what came of them."""

  sealed: bytes  # active -> passive
  masked: bytes  # passive -> third
  opened: bytes  # third -> passive
  result: np.ndarray  # [O] float64


def exchange(
  scheme: Scheme, matrix: np.ndarray, message: np.ndarray
) -> Exchange:
  """Runs one batch through all roles: map [O, I], message [I] -> result [O].

  Raises:
    InputError: what is not finite, too large, or under another key; a frame
      that was changed, more results than the ledger allows.
  """
  channel, shape = scheme.channel, matrix.shape
  scheme.check(matrix)
  sent = scheme.encrypt(message, shape)
  sealed = frames.pack(channel, 'sealed', sent)
  received = frames.unpack(channel, 'sealed', sealed)
  ciphertexts, masks = scheme.blind(scheme.evaluate(received, matrix))
  masked = frames.pack(channel, 'masked', ciphertexts)
  scheme.ledger.open(len(matrix))
  answer = scheme.decrypt(frames.unpack(channel, 'masked', masked), shape)
  opened = frames.pack(channel, 'opened', [answer])
  (answer,) = frames.unpack(channel, 'opened', opened)
  result = scheme.unmask(answer, masks, matrix)
  check_result(scheme, matrix, result)
  return Exchange(sealed, masked, opened, result)


def check_result(
  scheme: Scheme, matrix: np.ndarray, result: np.ndarray
) -> None:
  """Refuses a result [O] beyond what map and bound allow.

  Raises:
    InputError: says by how much.
  """
  largest = np.full(matrix.shape[1], scheme.bound)
  allowed = np.abs(np.asarray(matrix, np.float64)) @ largest
  allowed += scheme.error_bound(matrix, largest)
  beyond = ~(np.abs(result) <= allowed)
  if beyond.any():
    row = int(np.argmax(beyond))
    raise InputError(
      f'{beyond.sum()} results are beyond what the map and bound='
      f'{scheme.bound:.3g} allow, such as {result[row]:.3g} where'
      f' {allowed[row]:.3g} is the most; a ciphertext or an answer was changed,'
      ' send the batch again.'
    )
