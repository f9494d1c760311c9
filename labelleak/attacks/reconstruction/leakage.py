"""Deep leakage: images and labels together, by the distance of updates."""

import jax
import optax

from labelleak import validate
from labelleak.attacks.reconstruction import guesses, matching
from labelleak.base import Attack, Reconstruction, attack

_NAME = 'reconstruction.deep_leakage'


def deep_leakage(*, steps: int = 300, restarts: int = 1) -> Attack:
  """Builds DLG: images and label logits together, by L-BFGS.

  optax's L-BFGS searches along the line, where torch's, as released, took full
  steps of 1 and diverged from many guesses. Needs the grants of
  `inverting_gradients`; labels are read from the guess, not extracted.

  Args:
    steps: iterations.
    restarts: guesses optimised side by side; the lowest objective is kept.

  Raises:
    InputError: a value below 1. At trace time: as `inverting_gradients`.
  """
  validate.whole('steps', steps, 1)
  validate.whole('restarts', restarts, 1)

  def infer(key, view, known):
    guesses.check(_NAME, known)
    run = lambda key: _leak(key, view, known, steps)
    return guesses.restart(run, key, restarts)

  return attack(infer, name=_NAME, kind='horizontal', needs=('model',))


@jax.default_matmul_precision('highest')
def _leak(key, view, known, steps):
  """Runs DLG from one guess."""
  x_key, label_key, key = jax.random.split(key, 3)
  distance = matching.squared_distance(key, view, known)
  num = known.num_examples
  logits = jax.random.normal(label_key, (num, known.num_classes))

  objective = lambda guess: distance(guess[0], jax.nn.softmax(guess[1]))
  guess = guesses.draw(x_key, known), logits
  end = guesses.descend(objective, optax.lbfgs(), guess, steps)
  value, (x, logits) = end
  return Reconstruction(guesses.clip_pixels(x, known), logits.argmax(-1), value)
