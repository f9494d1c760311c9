"""Guessed images: how they start, what bounds them, which of them is kept."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak.base import InputError, Reconstruction, check_needs, list_grants
from labelleak.hfl import Known

# An objective [] and the guess that has it.
Judged = tuple[chex.Array, chex.ArrayTree]
Objective = Callable[[chex.ArrayTree], chex.Array]
Project = Callable[[chex.ArrayTree], chex.ArrayTree]


def check(name: str, known: Known) -> None:
  """Refuses what a reconstruction cannot run on.

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


def descend(
  objective: Objective,
  tx: optax.GradientTransformation,
  guess: chex.ArrayTree,
  steps: int,
  project: Project = lambda guess: guess,
) -> Judged:
  """Runs `steps` steps from a guess; returns the best of all that it visits.

  The last one is judged, too; NaN is never lower. `project` bounds each guess.
  """
  tx = optax.with_extra_args_support(tx)
  lower = lambda best, other: jax.tree.map(
    lambda a, b: jnp.where(other[0] < best[0], b, a), best, other
  )

  def step(carry, _):
    guess, state, best = carry
    value, slope = jax.value_and_grad(objective)(guess)
    best = lower(best, (value, guess))
    updates, state = tx.update(
      slope, state, guess, value=value, grad=slope, value_fn=objective
    )
    return (project(optax.apply_updates(guess, updates)), state, best), None

  carry = guess, tx.init(guess), (jnp.asarray(jnp.inf), guess)
  (guess, _, best), _ = jax.lax.scan(step, carry, length=steps)
  return lower(best, (objective(guess), guess))


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
