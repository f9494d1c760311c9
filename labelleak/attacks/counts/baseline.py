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

  return attack(infer, name='counts.random', kind='horizontal')


def draw_labels(key: chex.PRNGKey, known: Known) -> chex.Array:
  """Draws a label for each example behind the update, [C * B] int."""
  return jax.random.randint(key, (known.num_examples,), 0, known.num_classes)
