"""The baseline of attacks on label counts."""

import chex
import jax
import jax.numpy as jnp

from labelleak.base import Attack, attack
from labelleak.hfl import Known


def random() -> Attack:
  """Builds the attack that guesses: uniform labels."""

  def infer(key, view, known):
    labels = draw_labels(key, known)
    return jnp.bincount(labels, length=known.num_classes)

  checked = attack(infer, name='counts.random', kind='horizontal')
  # One round tells a guess as much as all of them.
  return checked._replace(
    infer=lambda key, view, known: checked.infer(key, view, known.of_mean())
  )


def draw_labels(key: chex.PRNGKey, known: Known) -> chex.Array:
  """Draws a label for each example that is counted, [N] int."""
  return jax.random.randint(key, (known.num_examples,), 0, known.num_classes)
