"""Guessed images: how they start, what bounds them, which of them is kept."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from labelleak.base import InputError, Reconstruction, check_needs, list_grants
from labelleak.hfl import Known

# An objective [] and the guess that has it.
Judged = tuple[chex.Array, chex.ArrayTree]


def check(name: str, known: Known) -> None:
  """Refuses what a reconstruction cannot run on.

  Args:
    name: of the attack.
    known: with `model`.

  Raises:
    InputError: examples that are no images, an update of several steps without
      `lr`, or the mean of several clients' updates of several steps.
  """
  if known.steps > 1:
    check_needs(name, ('lr',), list_grants(known))
  if len(known.model.shape) != 3:
    raise InputError(
      f'{name} restores images [H, W, C], not examples of shape'
      f' {known.model.shape}; use image data.'
    )
  if known.steps > 1 and known.clients > 1:
    raise InputError(
      f'the mean update of clients={known.clients} after local_steps='
      f'{known.steps} is that of no single batch; set one of them to 1.'
    )


def draw(key: chex.PRNGKey, known: Known) -> chex.Array:
  """Draws standard normal images [B, H, W, C] in the model's input space."""
  return jax.random.normal(key, (known.num_examples, *known.model.shape))


def clip_pixels(x: chex.Array, known: Known) -> chex.Array:
  """Clips pixels to black and white, where the attacker knows them."""
  model = known.model
  if model.pixel_range is None:
    return x
  low, high = (
    jnp.broadcast_to(b, model.shape)[None] for b in model.pixel_range
  )
  return jnp.clip(x, low, high)


def keep_lower(best: Judged, other: Judged) -> Judged:
  """Returns the guess of lower objective; NaN is never lower."""
  return jax.tree.map(
    lambda a, b: jnp.where(other[0] < best[0], b, a), best, other
  )


def restart(
  run: Callable[[chex.PRNGKey], Reconstruction],
  key: chex.PRNGKey,
  restarts: int,
) -> Reconstruction:
  """Runs from several guesses side by side; returns the lowest objective."""
  if restarts == 1:  # spares XLA the batched form of every layer
    return run(key)
  ends = jax.vmap(run)(jax.random.split(key, restarts))
  value = jnp.where(jnp.isnan(ends.objective), jnp.inf, ends.objective)
  return jax.tree.map(lambda a: a[value.argmin()], ends)
