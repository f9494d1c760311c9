"""The baseline of reconstructions: where the others start."""

import jax
import jax.numpy as jnp

from labelleak.attacks.reconstruction import guesses
from labelleak.base import Attack, Reconstruction, attack


def random() -> Attack:
  """Builds the attack that guesses: normal pixels with uniform labels.

  They never saw the update; `objective` is 0.
  """

  def infer(key, view, known):
    x_key, label_key = jax.random.split(key)
    num = known.num_examples
    labels = jax.random.randint(label_key, (num,), 0, known.num_classes)
    x = guesses.clip_pixels(guesses.draw(x_key, known), known)
    return Reconstruction(x, jnp.sort(labels), jnp.zeros(()))

  return attack(
    infer, name='reconstruction.random', kind='horizontal', needs=('model',)
  )
