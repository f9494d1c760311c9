"""Aggregators: a linear map of a sealed message; only its result is revealed.

`Aggregate: (key, linear, message) -> Revealed`. In horizontal FL `linear` is
the mean over clients, the message their stacked updates. In vertical FL it is
a party's vjp, the message the cut gradient [B, D].

`clear` and `sealed` are pure and exact. `paillier` and `ckks` run steps 8, 10
and 11 of Algorithm 1 (BLI, Liu et al.) on ciphertexts, in a host callback (see
`he.protocol`). They materialise the map, [O, I] for I entries of the message
and O entries of the result, so they serve linear and small bottoms. Ask
`estimate` what a batch costs before a run starts.
"""

from collections.abc import Callable
from typing import Optional

import jax
import jax.numpy as jnp

from labelleak import base
from labelleak.base import Revealed
from labelleak.he import cost as costs
from labelleak.he import exchange, schemes
from labelleak.he.cost import Cost


def clear() -> Callable:
  """No secrecy: the receiver reads the message and the result."""
  return lambda key, linear, message: Revealed(linear(message), message)


def sealed() -> Callable:
  """Ideal secrecy: exact arithmetic, nothing encrypted, the message is None."""
  return lambda key, linear, message: Revealed(linear(message), None)


def paillier(
  *,
  key_bits: int = 2048,
  fraction_bits: int = 32,
  bound: float = 2.0**32,
  insecure_for_tests: bool = False,
) -> Callable:
  """Paillier's scheme (phe, gmpy2): exact integers, uniform masks.

  Error of a result: `schemes.paillier.error_bound`, about 2^-fraction_bits
  times the sum of |map| and |message| along a row.

  Args:
    key_bits: size of the modulus n.
    fraction_bits: message and map are rounded to multiples of 2^-fraction_bits.
    bound: public; a message entry of larger magnitude is refused, and so is a
      map whose results could then leave the plaintext ring.
    insecure_for_tests: allows keys below 2048 bits.

  Raises:
    InputError: a key below 2048 bits, or phe and gmpy2 are not installed.
  """
  return exchange.aggregate(
    schemes.paillier.scheme(key_bits, fraction_bits, bound, insecure_for_tests)
  )


def ckks(
  *,
  poly_modulus_degree: int = 8192,
  coeff_mod_bit_sizes: tuple[int, ...] = (60, 60, 60),
  fraction_bits: int = 42,
  mask_bits: int = 24,
  bound: float = 1.0,
  width: Optional[int] = None,
) -> Callable:
  """CKKS (TenSEAL): approximate numbers, thousands to a ciphertext.

  Error of a result: `schemes.ckks.error_bound`, about 2^(mask_bits - 48) of
  `bound` times the sum of |map| along a row. Where the message is known to be
  small, say so: the cut gradient of a mean cross entropy stays within 1 / B.

  Args:
    poly_modulus_degree: N; a ciphertext has N / 2 slots.
    coeff_mod_bit_sizes: primes of the modulus, the last one special. At most
      the total that SEAL holds to be 128-bit secure for N.
    fraction_bits: scale of message and map each, 2^fraction_bits.
    mask_bits: a mask is 2^mask_bits times as large as what it hides, so that
      what the third party sees of a slot is within 2^-mask_bits, in total
      variation, of what it would see of any other value.
    bound: public; a message entry of larger magnitude is refused.
    width: message entries to a ciphertext; the third party sums so many slots
      for each result. None takes what needs the fewest ciphertexts; with 1
      the third party only decrypts, as in Algorithm 1.

  Raises:
    InputError: parameters that are insecure or leave no room for results and
      masks, or TenSEAL is not installed.
  """
  return exchange.aggregate(
    schemes.ckks.scheme(
      poly_modulus_degree,
      coeff_mod_bit_sizes,
      fraction_bits,
      mask_bits,
      bound,
      width,
    )
  )


def estimate(
  aggregate: Callable,
  num_inputs: int,
  num_outputs: int,
  num_nonzeros: Optional[int] = None,
) -> Cost:
  """Seconds and bytes of one batch, from some ten operations of each kind.

  Args:
    aggregate: from a constructor of this module.
    num_inputs: I, entries of the message: B * D.
    num_outputs: O, entries of the result: parameters of the party.
    num_nonzeros: of the map [O, I], which need no work where they are zero; a
      dense map by default. A linear bottom has B * O.
  """
  return costs.estimate(
    getattr(aggregate, 'scheme', None),
    num_inputs,
    num_outputs,
    num_inputs * num_outputs if num_nonzeros is None else num_nonzeros,
  )


def traffic(
  aggregate: Callable, num_inputs: int, num_outputs: int
) -> tuple[int, int, int]:
  """Bytes of one batch: active -> passive, passive -> third, and back.

  Where nothing is encrypted float32 travels; `sealed` is counted as if a
  ciphertext had the size of its plaintext, the least that any scheme could
  send. I and O are those of `estimate`.
  """
  if scheme := getattr(aggregate, 'scheme', None):
    shape = num_outputs, num_inputs
    counts = scheme.count(shape, num_inputs * num_outputs)
    return counts.sealed_bytes, counts.masked_bytes, counts.opened_bytes
  back = 4 * num_outputs if hides(aggregate) else 0
  return 4 * num_inputs, back, back


def hides(aggregate: Callable) -> bool:
  """Whether the receiver of a message sees the result alone."""
  message = jax.ShapeDtypeStruct((2,), jnp.float32)
  reveal = lambda key, m: aggregate(key, lambda a: a.sum()[None], m)
  return jax.eval_shape(reveal, jax.random.key(0), message).message is None


def check(cost: Cost, steps: int, max_hours: float) -> None:
  """Refuses a run of so many batches that would take longer than allowed.

  Raises:
    InputError: with the figures of the estimate.
  """
  hours = cost.seconds * steps / 3600
  if hours > max_hours:
    total = cost.sealed_bytes + cost.masked_bytes + cost.opened_bytes
    raise base.InputError(
      f'{steps} encrypted steps of {cost.seconds:.3g} s and'
      f' {total / 1e6:.3g} MB would take {hours:.3g} h (active party'
      f' {cost.active:.3g}, passive {cost.passive:.3g}, third'
      f' {cost.third:.3g} s a step), more than he.max_hours={max_hours:g};'
      ' train fewer or smaller steps, use aggregate sealed, or raise it.'
    )
