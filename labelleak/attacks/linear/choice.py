"""Labels from every gradient, of first steps and of trained models.

`solver` takes the own softmax for the joint one, but for a constant and for
Gaussian noise, and needs few equations. On a trained model that is wrong, and
shows: it finds none that explain a gradient as small as that. `sparse` assumes
nothing of softmaxes but that they are mostly right, and reads the batch then.
"""

from collections.abc import Sequence
from typing import Optional

import chex
import jax
import jax.numpy as jnp

from labelleak import vfl
from labelleak.attacks.linear import equations, matrix, solver, sparse
from labelleak.base import Attack, attack

_NAME = 'linear.full'
# Found on seeds 100 to 102, digits and MNIST: untrained models leave less than
# .1, sure of all labels, and are of size 1 and more; after 6 steps .5 is left,
# and the size is .7. The gradient that noise leaves unexplained is large.
_UNEXPLAINED = 0.2
_SURE = 0.95
_SMALL = 1.0
_ROUNDS = 3  # of a look in haste
_DOUBT = 1e-3  # least variance that a prior leaves
LEAST = 1e-4  # probability that a step leaves to a label
_LEARN = 2**32 - 7  # sets the key of `sparse` apart


def full(*, code: Sequence[dict] = ()) -> Attack:
  """Builds the attack that solves a gradient by what explains it.

  Scores are label probabilities [B, K]: of `expectation_propagation`, unless
  the gradient is smaller than own softmaxes would make it, and labels that are
  sure do not explain it: of `sparse_bayesian` then, where `matrix.fits` and no
  code is assumed.

  Args:
    code: as of `expectation_propagation`.

  Raises:
    InputError: no such code. (infer) Logits that are not K wide.
  """

  def infer(key, view, known):
    view, known = equations.read_logits(_NAME, view, known)
    rows = solver.encode(code, known.num_classes)
    found = solver.solve(key, view, known, rows=rows)
    if code or not matrix.fits(view):
      return found.y

    def learn():
      learn_key = jax.random.fold_in(key, _LEARN)
      posterior = sparse.learn(learn_key, view, known)
      return sparse.read_labels(posterior, view.h)

    return jax.lax.cond(_is_trained(found), learn, lambda: found.y)

  return attack(infer, name=_NAME, kind='vertical', needs=('bottom',))


def weigh(
  key: chex.PRNGKey,
  view: vfl.View,
  known: vfl.Known,
  log_prior: Optional[chex.Array] = None,
) -> chex.Array:
  """Returns what a batch's equations say of its labels, log odds [B, K].

  The attack that explains the gradient is chosen as by `full`, but is in haste:
  `sparse` without a prior is less exact than it is there.

  Args:
    key: of the attack.
    view: of the batch, its link sealed or not.
    known: with `bottom`.
    log_prior: [B, K] of labels, from elsewhere; what is returned does not hold
      it.

  Raises:
    InputError: logits that are not K wide.
  """
  view, known = equations.read_logits(_NAME, view, known)
  found = solver.solve(key, view, known)
  odds = jnp.log(jnp.maximum(found.y, LEAST))
  if not matrix.fits(view):
    return odds

  def learn():
    first = None
    if log_prior is not None:
      prior = jax.nn.softmax(log_prior)
      first = prior * (1 - prior) + _DOUBT
    learn_key = jax.random.fold_in(key, _LEARN)
    posterior = sparse.learn(
      learn_key, view, known, rounds=_ROUNDS, first=first, quick=True
    )
    return jnp.maximum(sparse.weigh(posterior), jnp.log(LEAST))

  return jax.lax.cond(_is_trained(found), learn, lambda: odds)


def _is_trained(found):
  """Returns whether labels that are sure do not explain a small gradient."""
  sure = found.y.max(1).mean() > _SURE
  explained = sure & (found.unexplained < _UNEXPLAINED)
  return ~explained & (found.size < _SMALL)
