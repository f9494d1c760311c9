"""Scores of fixed sealed steps: the same as recorded, to a digit or two.

`fixed_views_test` holds untrained steps without noise; here are trained ones,
noise, batch norm, layers that rows share, and the attacks that it leaves out.
`python -m tests.attacks.linear.fixed_scores_test` records anew, which only a
change that is meant to move scores may do.
"""

import pathlib

from absl.testing import parameterized
import jax
import numpy as np

from labelleak import attacks
from tests.attacks import fixed_scores
from tests.attacks.linear import trained

FILE = pathlib.Path(__file__).with_name('fixed_scores.json')
KEY = jax.random.key(3)

SURE = dict(width=10)
UNSURE = dict(width=10, scale=0.7, wrong=0.5)
NORMED = dict(width=0, module=trained.Normed(), scale=1.5)
TOKENS = dict(width=0, module=trained.Tokens(), scale=1.5)
# name -> (attack, step, relative noise of its gradients)
CASES = {
  'full, sure': ('full', SURE, 0.0),
  'full, unsure': ('full', UNSURE, 0.0),
  'sparse, sure': ('sparse_bayesian', SURE, 0.0),
  'sparse, noise': ('sparse_bayesian', SURE, 0.03),
  'sparse, normed': ('sparse_bayesian', NORMED, 0.01),
  'sparse, shared': ('sparse_bayesian', TOKENS, 0.01),
  'propagation, unsure': ('expectation_propagation', UNSURE, 0.0),
  'propagation, noise': ('expectation_propagation', UNSURE, 0.03),
  'propagation, shared': ('expectation_propagation', TOKENS, 0.01),
  'ridge, noise': ('least_squares', UNSURE, 0.03),
  'ridge, normed': ('least_squares', NORMED, 0.01),
}


def summary(name):
  """Returns a few numbers that all scores of a case enter."""
  attack, step, noise = CASES[name]
  view, known, _ = trained.observe(**step)
  rng = np.random.default_rng(4)

  def blur(g):
    size = noise * np.sqrt(np.square(g).mean())
    return np.float32(g + size * rng.normal(size=g.shape))

  view = view._replace(param_grads=jax.tree.map(blur, view.param_grads))
  infer = attacks.load(f'linear.{attack}').infer
  quick = dict(xla_backend_optimization_level=0)
  run = jax.jit(lambda view: infer(KEY, view, known), compiler_options=quick)
  return fixed_scores.summarise(run(view), seed=5)


class FixedScoresTest(parameterized.TestCase):
  @parameterized.parameters(*CASES)
  def test_scores(self, name):
    fixed_scores.check(FILE, name, summary(name), atol=0.05)


if __name__ == '__main__':
  fixed_scores.record(FILE, CASES, summary)
