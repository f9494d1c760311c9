"""What a receiver can do to a message before its linear map: tampering.

A receiver that reads its messages can do anything to them. Of a sealed one it
can copy ciphertexts, scale them by plaintexts and add to them: t(m) = L m + b.
Then its map A becomes another linear map, A L, which is what runs on the
ciphertexts of any scheme, and A b, which needs none.
"""

from collections.abc import Callable, Iterable

import chex
import jax
from jax.extend import core
import jax.numpy as jnp

from labelleak.base import InputError, Revealed
from labelleak.he import Aggregate, Linear

# message [B, D] -> (the message that the map is applied to, a new state)
Tamper = Callable[[chex.Array], tuple[chex.Array, chex.ArrayTree]]

_NOT_AFFINE = (
  'tampering with a sealed message that is not affine: ciphertexts can be'
  ' copied, scaled and added to, not compared or multiplied with each other;'
  " change the attack, or use aggregate=dict(name='plaintext')."
)


def reveal_tampered(
  key: chex.PRNGKey,
  aggregate: Aggregate,
  tamper: Tamper,
  linear: Linear,
  message: chex.Array,
) -> tuple[Revealed, chex.ArrayTree]:
  """Reveals linear(t(message)), and returns the tampering's new state.

  What tampering keeps between messages cannot depend on one that it does not
  see: the state is then the one after a message of zeros.

  Args:
    key: of the aggregator.
    aggregate: from `he`.
    tamper: message -> (t(message), new state).
    linear: the receiver's map.
    message: as sent.

  Raises:
    InputError: at trace time: t is not affine and the message sealed.
  """
  if not aggregate.sealed:
    revealed = aggregate.reveal(key, lambda m: linear(tamper(m)[0]), message)
    return revealed, tamper(message)[1]
  check_affine(lambda m: tamper(m)[0], message)
  zeros = jnp.zeros_like(message)
  offset, product, state = jax.linearize(tamper, zeros, has_aux=True)
  revealed = aggregate.reveal(key, lambda m: linear(product(m)), message)
  result = jax.tree.map(jnp.add, revealed.result, linear(offset))
  return revealed._replace(result=result), state


def check_affine(
  function: Callable[[chex.Array], chex.ArrayTree], message: chex.Array
) -> None:
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


def _rounds(jaxpr: core.Jaxpr, dependent: Iterable[bool]) -> bool:
  """Whether what depends on the message is cast to integers or fewer bits.

  Args:
    jaxpr: of a function.
    dependent: which of its inputs depend on the message.
  """
  variables = {v for v, d in zip(jaxpr.invars, dependent) if d}
  for eqn in jaxpr.eqns:
    inputs = [isinstance(v, core.Var) and v in variables for v in eqn.invars]
    if not any(inputs):
      continue
    variables.update(eqn.outvars)
    for inner in core.jaxprs_in_params(eqn.params):
      if eqn.primitive.name != 'jit':  # a loop, a branch: any real input may
        inputs = map(_is_real, inner.invars)
      if _rounds(inner, inputs):
        return True
    bits = [jnp.finfo(a.aval.dtype).nmant for a in eqn.invars if _is_real(a)]
    if eqn.primitive.name == 'reduce_precision' or not all(
      _is_real(v) and jnp.finfo(v.aval.dtype).nmant >= max(bits)
      for v in eqn.outvars
    ):
      return True
  return False


def _is_real(v: core.Var) -> bool:
  return jnp.issubdtype(v.aval.dtype, jnp.inexact)
