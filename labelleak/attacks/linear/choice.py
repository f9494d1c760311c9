"""Labels from every gradient, of first steps and of trained models.

`solver` takes the own softmax for the joint one, but for a constant and for
Gaussian noise, and needs few equations. On a trained model that is wrong, and
shows: its labels leave most of a small gradient unexplained. `sparse` assumes
nothing of softmaxes but that they are mostly right, and reads the batch then.
"""

from collections.abc import Sequence

import jax

from labelleak.attacks.linear import solver, sparse
from labelleak.base import Attack, attack

_NAME = 'linear.full'
# Found on seed 100, digits and MNIST: first steps leave .1 and less, and are of
# size 1 and more; 12 steps on they leave .7 and more, and are of size .3. What
# noise leaves unexplained is large.
_UNEXPLAINED = 0.5
_SMALL = 0.5
_LEARN = 1  # sets the key of `sparse` apart


def full(*, code: Sequence[dict] = ()) -> Attack:
  """Builds the attack that solves a gradient by what explains it.

  Scores are label probabilities [B, K]: of `expectation_propagation`, unless
  its labels leave more than half of a gradient unexplained that is less than
  half of what untrained softmaxes make it: of `sparse_bayesian` then, where
  `sparse.fits` and no code is assumed.

  Args:
    code: as of `expectation_propagation`.

  Raises:
    InputError: no such code. (infer) Logits that are not K wide.
  """

  def infer(key, view, known):
    rows = solver.encode(code, known.num_classes)
    found = solver.solve(key, view, known, rows=rows)
    if code or not sparse.fits(view):
      return found.y

    def learn():
      learn_key = jax.random.fold_in(key, _LEARN)
      posterior = sparse.learn(learn_key, view, known)
      return sparse.read_labels(posterior, view.h)

    is_trained = (found.unexplained > _UNEXPLAINED) & (found.size < _SMALL)
    return jax.lax.cond(is_trained, learn, lambda: found.y)

  return attack(infer, name=_NAME, kind='vertical', needs=('bottom',))
