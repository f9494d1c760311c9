"""What a receiver can do to a message before its linear map: tampering.

A receiver that reads its messages can do anything to them. Of a sealed one it
can copy ciphertexts, scale them by plaintexts and add to them: t(m) = L m + b.
Then its map A becomes another linear map, A L, which is what runs on the
ciphertexts of any scheme, and A b, which needs none.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
from jax.extend import core
import jax.numpy as jnp

from labelleak import he
from labelleak.base import InputError, Revealed

_NOT_AFFINE = (
  'tampering with a sealed message that is not affine: ciphertexts can be'
  ' copied, scaled and added to, not compared or multiplied with each other;'
  " change the attack, or use aggregate=dict(name='clear')."
)


def received(
  aggregate: Callable,
  tamper: Callable,
  key: chex.PRNGKey,
  linear: Callable,
  message: chex.Array,
) -> tuple[Revealed, Any]:
  """What the aggregator reveals of linear(t(message)), and a new state.

  What tampering keeps between messages cannot depend on one that it does not
  see: the state is then the one after a message of zeros.

  Args:
    aggregate: from `he`.
    tamper: message -> (t(message), new state).
    key: of the aggregator.
    linear: the receiver's map.
    message: as sent.

  Raises:
    InputError: at trace time: t is not affine and the message sealed.
  """
  if not he.hides(aggregate):
    revealed = aggregate(key, lambda m: linear(tamper(m)[0]), message)
    return revealed, tamper(message)[1]
  check_affine(lambda m: tamper(m)[0], message)
  zeros = jnp.zeros_like(message)
  offset, product, state = jax.linearize(tamper, zeros, has_aux=True)
  revealed = aggregate(key, lambda m: linear(product(m)), message)
  result = jax.tree.map(jnp.add, revealed.result, linear(offset))
  return revealed._replace(result=result), state


def check_affine(function: Callable, message: chex.Array) -> None:
  """Refuses a function of a message that no ciphertext allows.

  It judges the form, not values: a transpose exists where each operation on
  the argument is linear, or adds what does not depend on it. Casts have one,
  too, though those to integers or to fewer bits round.

  Raises:
    InputError: the function is not affine.
  """
  jax.eval_shape(function, message)  # with errors of its own
  try:
    jax.eval_shape(jax.linear_transpose(function, message), message)
    rounded = _rounds(jax.make_jaxpr(function)(message).jaxpr, (True,))
  except Exception as e:
    raise InputError(_NOT_AFFINE) from e
  if rounded:
    raise InputError(_NOT_AFFINE)


def _rounds(jaxpr, depends):
  """Whether what depends on the message is cast to integers or fewer bits.

  Args:
    jaxpr: of a function.
    depends: which of its inputs do.
  """
  depending = {v for v, d in zip(jaxpr.invars, depends) if d}
  for eqn in jaxpr.eqns:
    given = [isinstance(v, core.Var) and v in depending for v in eqn.invars]
    if not any(given):
      continue
    depending.update(eqn.outvars)
    for inner in core.jaxprs_in_params(eqn.params):
      if eqn.primitive.name != 'jit':  # a loop, a branch: any real input may
        given = map(_real, inner.invars)
      if _rounds(inner, given):
        return True
    bits = [jnp.finfo(a.aval.dtype).nmant for a in eqn.invars if _real(a)]
    if eqn.primitive.name == 'reduce_precision' or not all(
      _real(v) and jnp.finfo(v.aval.dtype).nmant >= max(bits)
      for v in eqn.outvars
    ):
      return True
  return False


def _real(v):
  return jnp.issubdtype(v.aval.dtype, jnp.inexact)
