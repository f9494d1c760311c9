"""The baseline of attacks on label counts."""

import chex
import jax
import jax.numpy as jnp

from labelleak.base import Attack, attack, check_kind
from labelleak.hfl import Known


def random() -> Attack:
  """Builds the attack that guesses: uniform labels."""

  def infer(key, view, known):
    labels = draw_labels(key, known)
    return jnp.bincount(labels, length=known.num_classes)

  name, kind = 'counts.random', 'horizontal'
  checked = attack(infer, name=name, kind=kind)

  def infer_all(key, view, known):
    # One round tells a guess as much as all of them.
    check_kind(name, kind, known.kind)
    return checked.infer(key, view, known.of_mean())

  return checked._replace(infer=infer_all)


def draw_labels(key: chex.PRNGKey, known: Known) -> chex.Array:
  """Draws a label for each example that is counted, [N] int."""
  return jax.random.randint(key, (known.num_examples,), 0, known.num_classes)
