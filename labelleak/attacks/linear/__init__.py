"""Labels from a party's own parameter gradients, by linear algebra.

With sum aggregation and mean cross entropy the cut gradient of a batch is

  U = dL/dH = (S - Y) / B,   S = softmax(H^p + H^a)

and the gradient of every bottom parameter is linear in it (see `equations`).
`last_layer` is the closed form of Liu, Zou et al. (arXiv 2112.05409), Theorem
1, which reads the classifier alone, `least_squares` reads every leaf it needs.
`expectation_propagation` adds what makes U a label: rows of Y are one-hot, S is
near the own softmax. `sparse_bayesian` assumes that most of U is next to
nothing, as it is when a model is trained. `full` takes the first of these two
unless it explains little.
"""

from labelleak.attacks.linear.choice import full
from labelleak.attacks.linear.closed_form import last_layer
from labelleak.attacks.linear.ridge import least_squares
from labelleak.attacks.linear.solver import expectation_propagation
from labelleak.attacks.linear.sparse import sparse_bayesian

__all__ = (
  'expectation_propagation',
  'full',
  'last_layer',
  'least_squares',
  'sparse_bayesian',
)
