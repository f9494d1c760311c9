"""Homomorphic encryption: a map is applied to a message, its result revealed.

`Aggregate.reveal: (key, linear, message) -> Revealed`. In horizontal FL
`linear` is the mean over clients, the message their stacked updates. In
vertical FL it is a party's vjp, the message the cut gradient [B, D].

`plaintext` and `ideal` are pure and exact. `paillier` and `ckks` run steps 8,
10 and 11 of Algorithm 1 (BLI, Liu et al.) on ciphertexts, in a host callback
(see `he.exchange`). They materialise the map, [O, I] for I entries of the
message and O entries of the result, so they serve linear and small bottoms. Ask
`estimate` what a batch costs before a run starts.
"""

import functools
from typing import Any, NamedTuple, Optional, Protocol

import chex
import jax

from labelleak import base, lazy, registry
from labelleak.base import Revealed
from labelleak.he import cost as costs
from labelleak.he import products, schemes
from labelleak.he.cost import Cost
from labelleak.he.exchange import MessageBytes, Scheme
from labelleak.he.products import Linear
from labelleak.he.schemes.seal import Parameters


class Reveal(Protocol):
  """Applies a linear map to a message and reveals what the receiver may see."""

  def __call__(
    self, key: chex.PRNGKey, linear: Linear, message: chex.ArrayTree
  ) -> Revealed:
    """Returns linear(message), and the message where it is not sealed."""


class Aggregate(NamedTuple):
  """An aggregator.

  Attributes:
    reveal: (key, linear, message) -> Revealed.
    sealed: whether the receiver sees the result alone.
    scheme: of real encryption; None where nothing is encrypted.
  """

  reveal: Reveal
  sealed: bool
  scheme: Optional[Scheme] = None


KINDS = (Aggregate,)

__getattr__, __dir__ = lazy.modules(__name__)


def load(name: str, **hyper: Any) -> Aggregate:
  """Builds an aggregator by its name, `load('ideal')`: `registry.load`."""
  return registry.load('he', name, **hyper)


def names() -> list[str]:
  """Lists what `load` builds."""
  return registry.names('he')


def plaintext() -> Aggregate:
  """Seals nothing: the receiver reads the message and the result."""
  return Aggregate(
    lambda key, linear, message: Revealed(linear(message), message),
    sealed=False,
  )


def ideal() -> Aggregate:
  """Seals ideally: exact arithmetic, nothing encrypted, the message is None."""
  return Aggregate(
    lambda key, linear, message: Revealed(linear(message), None), sealed=True
  )


def paillier(
  *,
  key_bits: int = 2048,
  fraction_bits: int = 32,
  bound: float = 2.0**32,
  insecure_for_tests: bool = False,
) -> Aggregate:
  """Runs Paillier's scheme (phe, gmpy2): exact integers, uniform masks.

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
  return _build(
    schemes.paillier.scheme(
      key_bits=key_bits,
      fraction_bits=fraction_bits,
      bound=bound,
      insecure_for_tests=insecure_for_tests,
    )
  )


def ckks(
  *,
  poly_modulus_degree: int = 8192,
  coeff_mod_bit_sizes: tuple[int, ...] = (60, 60, 60),
  fraction_bits: int = 84,
  mask_bits: int = 44,
  bound: float = 1.0,
  width: Optional[int] = None,
  insecure_for_tests: bool = False,
) -> Aggregate:
  """Runs CKKS (TenSEAL): approximate numbers, thousands to a ciphertext.

  Error of a result: `schemes.ckks.error_bound`, at most about 2^(mask_bits + 10
  - fraction_bits) of `bound` times the sum of |map| along a row. Where the
  message is known to be small, say so: the cut gradient of a mean cross entropy
  stays within 1 / B.

  A key pair opens 2^(mask_bits - 20) results at most, 2^24 by default: what
  they show of the scheme's noise, and thereby of the secret key, stays within a
  statistical distance of 2^-20 for all of them together.

  Args:
    poly_modulus_degree: N; a ciphertext has N coefficients.
    coeff_mod_bit_sizes: primes of the modulus, the last one special. At most
      the total that SEAL holds to be 128-bit secure for N.
    fraction_bits: scale of the message, 2^fraction_bits; the map has what the
      modulus leaves.
    mask_bits: an answer is rounded to 2^mask_bits standard deviations of the
      noise that it holds; at least 20.
    bound: public; a message entry of larger magnitude is refused.
    width: message entries to a ciphertext. None takes what needs the fewest
      ciphertexts; with 1 each is encrypted by itself, as in Algorithm 1.
    insecure_for_tests: allows any mask_bits, below zero too, and any number of
      results.

  Raises:
    InputError: parameters that are insecure or leave no room for results, or
      TenSEAL is not installed.
  """
  parameters = Parameters(
    degree=poly_modulus_degree,
    bits=coeff_mod_bit_sizes,
    fraction_bits=fraction_bits,
    mask_bits=mask_bits,
    bound=bound,
    width=width,
    insecure_for_tests=insecure_for_tests,
  )
  return _build(schemes.ckks.scheme(parameters))


def _build(scheme: Scheme) -> Aggregate:
  """Returns the aggregator that runs a scheme."""
  reveal = functools.partial(products.reveal, scheme=scheme)
  return Aggregate(reveal, sealed=True, scheme=scheme)


def estimate(
  aggregate: Aggregate,
  *,
  num_inputs: int,
  num_outputs: int,
  num_nonzeros: Optional[int] = None,
) -> Cost:
  """Estimates seconds and bytes of one batch, from some ten operations each.

  Args:
    aggregate: from a constructor of this module.
    num_inputs: I, entries of the message: B * D.
    num_outputs: O, entries of the result: parameters of the party.
    num_nonzeros: of the map [O, I], which need no work where they are zero; a
      dense map by default. A linear bottom has B * O.
  """
  shape = num_outputs, num_inputs
  nonzeros = num_outputs * num_inputs if num_nonzeros is None else num_nonzeros
  return costs.estimate(aggregate.scheme, shape, nonzeros)


def traffic(
  aggregate: Aggregate, *, num_inputs: int, num_outputs: int
) -> MessageBytes:
  """Counts the bytes of one batch.

  Where nothing is encrypted float32 travels; `ideal` is counted as if a
  ciphertext had the size of its plaintext, the least that any scheme could
  send. I and O are those of `estimate`.
  """
  if aggregate.scheme:
    shape = num_outputs, num_inputs
    return aggregate.scheme.count(shape, num_inputs * num_outputs).sent
  back = 4 * num_outputs if aggregate.sealed else 0
  return MessageBytes(4 * num_inputs, back, back)


def devices(aggregate: Aggregate) -> list[jax.Device]:
  """Lists the devices that can share trials under an aggregator.

  Encryption is a callback on the host. It needs a thread of XLA:CPU, and other
  devices that wait for its result hold them all.
  """
  return jax.devices()[: 1 if aggregate.scheme else None]


def check_openings(
  aggregate: Aggregate, *, num_outputs: int, steps: int
) -> None:
  """Refuses a run whose results one key pair cannot open safely.

  Args:
    aggregate: from a constructor of this module.
    num_outputs: O, entries of a result.
    steps: batches of the run, of all parties that share the key.

  Raises:
    InputError: names the parameter to raise.
  """
  if aggregate.scheme:
    aggregate.scheme.ledger.check(steps * num_outputs)


def check_hours(cost: Cost, *, steps: int, max_hours: float) -> None:
  """Refuses a run of so many batches that would take longer than allowed.

  Raises:
    InputError: with the figures of the estimate.
  """
  hours = cost.seconds * steps / 3600
  if hours > max_hours:
    raise base.InputError(
      f'{steps} encrypted steps of {cost.seconds:.3g} s and'
      f' {sum(cost.sent) / 1e6:.3g} MB would take {hours:.3g} h (active party'
      f' {cost.active:.3g}, passive {cost.passive:.3g}, third'
      f' {cost.third:.3g} s a step), more than he.max_hours={max_hours:g};'
      ' train fewer or smaller steps, use aggregate ideal, or raise it.'
    )
