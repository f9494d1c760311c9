"""Labels behind a label code, by attackers who know that there is one.

Under a code the cut gradient of a row is (S - c_k) / B, with k its label and c
[K, K] the fake labels of the classes. The published attacks read the class from
which most was taken, which is one that the label was hidden behind. But a code
that gives every class one fake label, as CoAE does (`coae`), leaves K distinct
rows around which everything else is scattered by what the attacker does not
know of S:

  softmax(h) - B U = c_k - (S - softmax(h))

The rows can be told apart, and named: a class is missing from its own fake
label. `mixture` does so where the cut gradient is in the clear, knowing nothing
of c; `linear.expectation_propagation` from sums over the batch, for a c that it
assumes.

What no code hides is what the attacker's own bottom has learned (`logits`), as
long as it knows how to decode it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from labelleak import defenses, validate
from labelleak.attacks.linear import equations
from labelleak.attacks.scores import readout
from labelleak.base import Attack, attack

_RULES = {'argmin': readout.argmin, 'complement': readout.complement}
_SMALL = 1e-8  # variance; below it is rounding


def mixture(*, rounds: int = 100, names: str = 'least') -> Attack:
  """Builds EM on the rows of the cut gradient, a mixture of K Gaussians.

  softmax(h) - B U is c_k and noise of one variance for all classes and entries;
  c, the variance and the shares of the classes are estimated. Of two starts,
  clusters by the smallest entry of U and by the largest, the likelier end is
  kept. Scores are log posteriors [B, K].

  Args:
    rounds: of EM.
    names: which cluster is which class. 'least': all of them together such that
      the least of the fake labels' mass is on the true class, as codes have it
      that contrast. 'granted': by the labelled rows `known.labelled`.

  Raises:
    InputError: an option out of range. At trace time: a sealed view, or a cut
      that is not K wide.
  """
  validate.whole('mixture: rounds', rounds, 1)
  validate.one_of('mixture: names', names, ('least', 'granted'))

  def infer(key, view, known):
    view, known = equations.read_logits('decoding.mixture', view, known)
    cut = readout.cut_gradient('decoding.mixture', view)
    u = known.batch_size * cut
    rows = jax.nn.softmax(view.h) - u
    starts = jax.nn.one_hot(
      jnp.stack([u.argmin(-1), u.argmax(-1)]), u.shape[-1]
    )
    fits = jax.vmap(lambda start: _fit(rows, start, rounds))(starts)
    best = fits.likelihood.argmax()
    fit = jax.tree.map(lambda leaf: leaf[best], fits)
    cost = fit.centers
    if names == 'granted':
      x, y = known.labelled
      members = jax.nn.softmax(fit.scores)
      same = readout.match_rows(view.x, x).astype(members.dtype)
      cost = -members.T @ (same @ y)  # labelled rows of class j in cluster k
    cluster, name = optax.assignment.hungarian_algorithm(cost)
    return fit.scores[:, cluster[jnp.argsort(name)]]

  needs = ('labelled',) if names == 'granted' else ()
  return attack(infer, name='decoding.mixture', kind='vertical', needs=needs)


class _Mixture(NamedTuple):
  """A mixture of K Gaussians on B rows."""

  scores: chex.Array  # [B, K] log posteriors
  centers: chex.Array  # [K, K]
  likelihood: chex.Array  # [] mean log likelihood


def _fit(rows, start, rounds) -> _Mixture:
  """Runs EM on rows [B, K] from memberships [B, K]."""
  classes = rows.shape[-1]

  def evidence(members):
    counts = members.sum(0)[:, None]
    matmul = lambda a, b: jnp.matmul(a, b, precision='highest')
    centers = matmul(members.T, rows) / jnp.maximum(counts, _SMALL)
    squared = jnp.sum((rows[:, None] - centers[None]) ** 2, -1)
    mean = (members * squared).sum() / (rows.shape[0] * (classes - 1))
    var = jnp.maximum(mean, _SMALL)
    shares = jnp.maximum(counts[:, 0] / rows.shape[0], _SMALL)
    logits = jnp.log(shares)[None] - squared / (2 * var)
    return logits - (classes - 1) / 2 * jnp.log(var), centers

  step = lambda members, _: (jax.nn.softmax(evidence(members)[0]), None)
  members, _ = jax.lax.scan(step, start, None, length=rounds)
  logits, centers = evidence(members)
  return _Mixture(
    scores=jax.nn.log_softmax(logits),
    centers=centers,
    likelihood=jax.nn.logsumexp(logits, -1).mean(),
  )


def least_squares(
  *, rule: str = 'complement', steps: int = 100, ridge: float = 1e-4
) -> Attack:
  """Builds least squares for U on all gradients, whitened; no prior.

  Args:
    rule: 'complement' or 'argmin', see `readout`.
    steps: of conjugate gradients.
    ridge: on the whitened equations.

  Raises:
    InputError: no such rule. At trace time: a cut that is not K wide.
  """
  validate.one_of('least_squares: rule', rule, _RULES)

  def infer(key, view, known):
    view, known = equations.read_logits('decoding.least_squares', view, known)
    with jax.default_matmul_precision('highest'):
      eq = equations.whiten(key, view, known)
      operator = lambda z: eq.apply(eq.adjoint(z)) + ridge * z
      z = equations.conjugate_gradient(operator, eq.observed, steps)
      return _RULES[rule](eq.adjoint(z))

  return attack(
    infer, name='decoding.least_squares', kind='vertical', needs=('bottom',)
  )


def complements(*, num: int) -> Attack:
  """Builds the reading of drawn complements: the least likely class not drawn.

  A row's cut is S - 1 / num where `label_codes.draw` drew and S elsewhere, so
  that its `num` smallest entries are those drawn, none the label. A model
  trained on complements has S least for the label; untrained, this guesses
  among the others. (`decoding.drawn` in rows.)

  Raises:
    InputError: at trace time: a sealed view, or a cut that is not K wide.
  """

  def infer(key, view, known):
    view, known = equations.read_logits('decoding.complements', view, known)
    cut = readout.cut_gradient('decoding.complements', view)
    u = known.batch_size * cut
    rank = u.argsort(-1).argsort(-1)
    return jnp.where(rank < num, -2.0, -u)

  return attack(infer, name='decoding.complements', kind='vertical')


drawn = complements  # its name in rows


def logits(*, code: Sequence[dict] = ()) -> Attack:
  """Builds the reading of the attacker's own logits, decoded.

  That is what its bottom has been taught; no gradient is read. Untrained it is
  at chance; a code that serves the main
  task cannot keep a trained bottom from it, but for what decoding needs.

  Args:
    code: what the attacker takes for the code; see
      `linear.expectation_propagation`.

  Raises:
    InputError: at trace time: a cut that is not K wide.
  """

  def infer(key, view, known):
    view, known = equations.read_logits('decoding.logits', view, known)
    assumed = defenses.build(code, known.num_classes, only='labels').labels
    return assumed.decode(jax.nn.softmax(view.h))

  return attack(infer, name='decoding.logits', kind='vertical')
