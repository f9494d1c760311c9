"""Steps 8, 10 and 11 of Algorithm 1 (BLI, Liu et al.), one sealed batch.

    active party, public key     encrypts the message [I]
    passive party, public key    applies its map [O, I], then adds a random mask
    third party, secret key      decrypts the masked result
    passive party                takes the mask off: the result [O]

A `Scheme` holds the roles as host functions. What passes between them is
bytes, each batch of ciphertexts framed with the digest of the key that it was
encrypted under: CKKS decrypts with any key, wrongly and without a word.

Masks and encryption draw from the operating system, not from the jax key: they
must be secret, and they cancel, so that results are deterministic up to the
stated error all the same.
"""

from collections.abc import Callable
import hashlib
import importlib
import struct
from typing import Any, NamedTuple

import chex
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from labelleak.base import InputError, Revealed

# Entries of a materialised map: 256 MiB in float32.
_MOST_ENTRIES = 2**26
_HEADER = struct.Struct('>32sI')
_LENGTH = struct.Struct('>I')


class Count(NamedTuple):
  """Operations and bytes of one batch."""

  encrypt: int  # ciphertexts that the active party sends
  multiply: int  # products that the passive party adds up
  mask: int  # ciphertexts that the passive party sends
  sealed_bytes: int  # active -> passive
  masked_bytes: int  # passive -> third
  opened_bytes: int  # third -> passive


class Scheme(NamedTuple):
  """The roles of Algorithm 1 under one key pair. A shape is (O, I), public."""

  identity: bytes  # digest of the public key, 32 bytes
  bound: float  # public: the largest magnitude of a message entry
  check: Callable  # (matrix [O, I]) -> None; the passive party, beforehand
  encrypt: Callable  # (message [I], shape) -> ciphertexts
  evaluate: Callable  # (ciphertexts, matrix [O, I]) -> sums
  blind: Callable  # sums -> (ciphertexts, masks)
  decrypt: Callable  # (ciphertexts, shape) -> bytes: the masked result
  unmask: Callable  # (bytes, masks, matrix [O, I]) -> result [O]
  error_bound: Callable  # (matrix [O, I], message [I]) -> [O]
  count: Callable  # (shape, nonzeros) -> Count
  probe: tuple[int, int]  # a shape that takes some ten operations of each kind


class Exchange(NamedTuple):
  """What passed between the roles, and what came of it."""

  sealed: bytes  # active -> passive
  masked: bytes  # passive -> third
  opened: bytes  # third -> passive
  result: np.ndarray  # [O] float64


def exchange(
  scheme: Scheme, matrix: np.ndarray, message: np.ndarray
) -> Exchange:
  """One batch: map [O, I] and message [I] -> result [O], by way of all roles.

  Raises:
    InputError: what is not finite, too large, or under another key.
  """
  scheme.check(matrix)
  sealed = pack(scheme.identity, scheme.encrypt(message, matrix.shape))
  sums = scheme.evaluate(unpack(scheme.identity, sealed), matrix)
  ciphertexts, masks = scheme.blind(sums)
  masked = pack(scheme.identity, ciphertexts)
  opened = scheme.decrypt(unpack(scheme.identity, masked), matrix.shape)
  return Exchange(sealed, masked, opened, scheme.unmask(opened, masks, matrix))


def pack(identity: bytes, ciphertexts: list[bytes]) -> bytes:
  """Frames ciphertexts with the digest of their key [32] and their lengths."""
  parts = [_HEADER.pack(identity, len(ciphertexts))]
  for ciphertext in ciphertexts:
    parts += [_LENGTH.pack(len(ciphertext)), ciphertext]
  return b''.join(parts)


def unpack(identity: bytes, frame: bytes) -> list[bytes]:
  """The ciphertexts of a frame, all of them and under this very key.

  Raises:
    InputError: a frame of another key, or one that was cut.
  """
  cut = InputError(
    f'ciphertexts: {len(frame)} bytes are not what the frame announces; they'
    ' were cut or changed on the way, send them again.'
  )
  if len(frame) < _HEADER.size:
    raise cut
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
      raise cut
    (length,) = _LENGTH.unpack_from(frame, position)
    position += _LENGTH.size
    ciphertexts.append(frame[position : position + length])
    position += length
  if position != len(frame):
    raise cut
  return ciphertexts


def frame_bytes(count: int, length: int) -> int:
  """Size of a frame of `count` ciphertexts of `length` bytes each."""
  return _HEADER.size + count * (_LENGTH.size + length)


def digest(public_key: bytes) -> bytes:
  """What a key is known by, 32 bytes."""
  return hashlib.sha256(public_key).digest()


def limit(bound: float) -> float:
  """A public bound on float32 entries, rounded up, so that 1 / B admits itself.

  Raises:
    InputError: not positive, or beyond float32.
  """
  if not 2.0**-126 <= bound < 2.0**127:
    raise InputError(
      f'bound={bound:g} must be positive and a float32; give the largest'
      ' magnitude that a message entry can have.'
    )
  return float(np.nextafter(np.float32(bound), np.float32(np.inf)))


def bounded(name: str, values: np.ndarray, bound: float) -> np.ndarray:
  """The values in float64, if they are finite and within the bound.

  Raises:
    InputError: they are not.
  """
  values = np.asarray(values, np.float64)
  if not np.isfinite(values).all():
    raise InputError(
      f'{name} has {np.sum(~np.isfinite(values))} entries that are not finite,'
      ' which cannot be encrypted; look for the step that made them.'
    )
  peak = np.abs(values).max(initial=0.0)
  if peak > bound:
    raise InputError(
      f'{name} has magnitude {peak:.3g}, beyond bound={bound:.3g}; raise the'
      " aggregator's bound, or scale the loss."
    )
  return values


def library(name: str) -> Any:
  """A module of the extra `he`, imported when a scheme first needs it.

  Raises:
    InputError: not installed.
  """
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as e:
    raise InputError(
      f'{name} is not installed, and this aggregator needs it; pip install'
      " 'labelleak[he]', or use aggregate sealed."
    ) from e


def materialise(
  key: chex.PRNGKey, linear: Callable, message: chex.ArrayTree
) -> tuple[chex.Array, chex.Array, chex.Array, Callable]:
  """The matrix of a linear map, column by column from unit vectors.

  Args:
    key: for the vector on which matrix and map are compared.
    linear: a pytree of I entries -> one of O entries.
    message: of the map's input structure.

  Returns:
    matrix [O, I] and message [I] in float32; the largest disagreement of
    matrix and map, relative to the sum of magnitudes, [], of the order of 1
    where the map is not linear; and the function from [O] to the result.

  Raises:
    InputError: the matrix would not fit.
  """
  flat, unravel = ravel_pytree(message)
  zeros = lambda s: jnp.zeros(s.shape, s.dtype)
  empty, restore = ravel_pytree(
    jax.tree.map(zeros, jax.eval_shape(linear, message))
  )
  if flat.size * empty.size > _MOST_ENTRIES:
    raise InputError(
      f'a map of {flat.size} message entries to {empty.size} results is too'
      f' large to materialise ({_MOST_ENTRIES} entries at most); use aggregate'
      ' sealed, or a smaller batch or bottom model.'
    )

  def column(vector):
    return ravel_pytree(linear(unravel(vector)))[0].astype(jnp.float32)

  with jax.default_matmul_precision('highest'):
    matrix = jax.vmap(column)(jnp.eye(flat.size, dtype=flat.dtype)).T
    probe = jax.random.normal(key, flat.shape, flat.dtype)
    gap = jnp.abs(column(probe) - matrix @ probe)
    scale = jnp.abs(matrix) @ jnp.abs(probe)
  disagreement = jnp.max(gap / jnp.maximum(scale, 1e-30))
  back = lambda result: restore(result.astype(empty.dtype))
  return matrix, flat.astype(jnp.float32), disagreement, back


def aggregate(scheme: Scheme) -> Callable:
  """The aggregator that runs a scheme; it carries it as `aggregate.scheme`.

  The exchange is a `pure_callback`: it works under jit, scan and vmap, and it
  may be left out where nobody reads the result, or repeated, since no state
  hangs on it. Its body is numpy and the HE library only: a jax operation in a
  callback can hang on CPU.
  """

  def host(matrix, message, disagreement):
    if not np.asarray(disagreement) < 1e-3:
      raise InputError(
        'the map given to the aggregator is not linear, or not finite; only'
        ' linear maps run on ciphertexts.'
      )
    done = exchange(scheme, np.asarray(matrix), np.asarray(message))
    return done.result.astype(np.float32)

  def run(key, linear, message):
    matrix, flat, disagreement, back = materialise(key, linear, message)
    shape = jax.ShapeDtypeStruct(matrix.shape[:1], jnp.float32)
    result = jax.pure_callback(
      host, shape, matrix, flat, disagreement, vmap_method='sequential'
    )
    return Revealed(back(result), None)

  run.scheme = scheme
  return run
