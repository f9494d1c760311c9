"""Of how many examples an update is, where nobody says so."""

from collections.abc import Sequence
import dataclasses

import chex
import jax
import jax.numpy as jnp

from labelleak import validate
from labelleak.attacks.counts import head_update, responses
from labelleak.base import InputError
from labelleak.hfl import Known, View


def infer_size(view: View, known: Known, sizes: Sequence[int]) -> chex.Array:
  """Infers of how many examples a client's update is, [len(sizes)].

  Counts are whole numbers: of the wrong size no counts fit. Without that, as
  under noise, the number of local steps tells it to about a local batch.

  Args:
    view: as of `infer_counts`.
    known: says the client, whose optimizer is linear, and that nothing defends
      the update; `batch_size` is not read.
    sizes: N that are possible; each is as likely as 1 / N before.

  Returns:
    The probability of each.

  Raises:
    InputError: no client, or one whose optimizer is not linear; a defense; no
      sizes, or such that are none; a view that contradicts `known`.
  """
  client = known.client
  view, _ = view.check('counts.infer_size', known)
  if not sizes:
    raise InputError('counts.infer_size: sizes are empty; give one or more.')
  for size in sizes:
    validate.whole('counts.infer_size: sizes', size, 1)
  if client is None or client.lr is None or known.defense != ():
    raise InputError(
      'counts.infer_size needs known.client with its lr, and defense=(): of'
      ' another scale any size would do; say them.'
    )
  told = [
    responses.tabulate(dataclasses.replace(known, batch_size=size, steps=1))
    for size in sizes
  ]
  if told[0].shares is not None:
    raise InputError(
      f'counts.infer_size cannot read {client.optimizer["name"]}, which hides'
      ' sizes; say how many examples there are.'
    )
  return _weigh_sizes(view, known, responses.stack(told))


@jax.jit
def _weigh_sizes(view, known, told):
  """Returns the probability of each response."""
  evidence = lambda one: (
    head_update.infer_told(
      view, known, one, reaches=(head_update.TYPICAL_REACH,)
    ).evidence
  )
  # What the path errs in adds up over the steps, so that they say less.
  steps = (told.gains > 0).sum(1)
  logs = jax.lax.map(evidence, told) / steps - jnp.log(told.num)
  return jax.nn.softmax(logs)
