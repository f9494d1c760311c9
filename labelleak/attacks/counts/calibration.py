"""The Bayes allocation under a model of the update: the attack of this package.

Where the published attacks subtract a fixed impact greedily, this one predicts
what each class would show with k examples (`likelihood`) and names the B labels
of highest expected count accuracy (`posterior`). `expectation` is the model of
the mean softmax, `head_input` reads the kernel along with the bias, and
`allocation` puts all of it together.
"""

import functools

import chex
import jax
import jax.numpy as jnp

from labelleak import hfl, validate
from labelleak.attacks.counts import (
  allocation,
  evidence,
  expectation,
  head_input,
  head_update,
  integration,
  posterior,
)
from labelleak.base import Attack, InputError, attack
from labelleak.hfl import Known, View

_EXAMPLES = 32  # dummies
_PATH_ERROR = 0.3  # relative, of the mean softmax that a replay or a line tells


def calibrated(
  *, examples: int = _EXAMPLES, replay: int = 4, replays: int = 3
) -> Attack:
  """Builds the calibrated attack: names labels by their expected accuracy.

  The prediction knows the ragged last step; takes the mean softmax and its
  spread from the model's own outputs and from replaying the local steps; and
  infers, from the update itself, what clipping left of its scale, how noisy it
  is, and how many examples an ordinary class holds. Where steps are clipped and
  noisy, the model also tells how to read the kernel along with the bias, and
  the norm that the clip acted on.

  It uses what is granted of `known.model`, `labelled` or `unlabelled` examples
  (else it draws dummies; without labels there is one softmax for all classes),
  `lr`, and `defense` (None, or others than 'clip', 'gaussian', 'laplace':
  unknown scale and noise). Without labels the head tells a path of the softmax,
  too, and the update's evidence weighs both.

  Without a model, and wherever `known.client` says how the client trains but no
  labelled examples say what the model makes of them, the softmax follows from
  the head (`head_update`): the kernel's update tells the mean input, the
  client's steps where the logits go. From a bias alone it is taken as uniform.

  Args:
    examples: dummy inputs drawn where no auxiliary examples are granted.
    replay: inputs that the local steps are replayed on.
    replays: how often they are at most, each time with the latest counts.

  Raises:
    InputError: an argument below 1. (infer) A head without bias; a client that
      is not modelled, such as one whose optimizer mixes entries.
  """
  validate.whole('calibrated: examples', examples, 1)
  validate.whole('calibrated: replay', replay, 1)
  validate.whole('calibrated: replays', replays, 1)

  def infer(key, view, known):
    beliefs = _infer(key, view, known, examples, replay, replays)
    return posterior.allocate(beliefs.probs)

  return attack(infer, name='counts.calibrated', kind='horizontal')


def infer_posterior(
  key: chex.PRNGKey, view: View, known: Known
) -> posterior.Posterior:
  """Infers what `calibrated` believes of the counts, before it names any.

  `posterior.interval` makes intervals of it; P(class i is there) is
  1 - probs[i, 0].

  Args:
    key: of dummies, where no examples are granted.
    view: of one round.
    known: what is granted, as to `calibrated`.

  Raises:
    InputError: as `calibrated`; a view that contradicts `known`.
  """
  view, _ = view.check('counts.infer_posterior', known)
  return _infer(key, view, known)


def _infer(key, view, known, examples=_EXAMPLES, replay=4, replays=3):
  """Infers the counts' posterior by what is granted."""
  known = allocation.forget_unmodelled(known)
  beta = evidence.bias('counts.calibrated', view)
  if known.model is None or (known.client and not known.labelled):
    return head_update.infer_counts(view, known)
  _check_modelled(view, known)
  x = _inputs(key, known, examples)
  softmax = expectation.measure(view, known, x)
  reading = _read_head(view, known, x, beta)
  weigh = functools.partial(
    allocation.weigh_counts,
    reading.beta,
    known=known,
    quiet=reading.quiet,
    ratio=reading.ratio,
  )
  if known.labelled:
    return weigh(softmax)
  if expectation.tells_end(view, known):
    replayed = lambda: _replay_counts(
      view, known, x[:replay], softmax, weigh, replays
    )
    # It pays where the softmax moved by a part of what an example adds.
    large = softmax.shift > 0.05 / known.batch_size
    modelled = jax.lax.cond(large, replayed, lambda: weigh(softmax))
  else:
    modelled = weigh(softmax)
  kernel, _ = hfl.head(view.grads)
  if kernel is None:  # which tells another path
    return modelled
  # A density of less noise is higher, whatever it says.
  less = known.num_classes * jnp.log(reading.quiet)
  modelled = modelled._replace(evidence=modelled.evidence + less)
  return integration.mix(
    modelled,
    head_update.infer_told(view, known, reaches=(head_update.TYPICAL_REACH,)),
  )


def _check_modelled(view, known):
  """Refuses a model without its variables, or under a sigmoid loss."""
  if not view.variables:
    raise InputError(
      'counts.calibrated is granted known.model without view.variables, what'
      ' the server sent; add them, or drop the model.'
    )
  if known.client and known.client.loss == 'sigmoid':
    raise InputError(
      'counts.calibrated reads labelled examples by their softmax, and the loss'
      ' of known.client is sigmoid; drop known.labelled.'
    )


def _inputs(key, known, num):
  """Inputs of the model, [M, ...]: those granted, else `num` dummies."""
  if known.labelled:
    return known.labelled.x
  if known.unlabelled is not None:
    return known.unlabelled
  return expectation.draw_dummies(key, num, known.model.shape)


def _read_head(view, known, x, beta) -> head_input.Reading:
  """Reads bias and kernel together where steps are clipped and noisy."""
  noise, clip = allocation.granted_defense(known)
  kernel, _ = hfl.head(view.grads)
  if not (noise and clip) or kernel is None or known.clients > 1:
    return head_input.Reading(beta)
  mean = head_input.mean_input(view, known, x)
  h = head_input.rescale(beta, kernel, mean)
  louder = jnp.linalg.norm(h) / jnp.linalg.norm(mean)
  ratio = head_input.norm_ratio(view, known, x, louder)
  beta, quiet = head_input.fuse(beta, kernel, h)
  return head_input.Reading(beta, quiet, ratio)


def _replay_counts(view, known, x, softmax, weigh, replays):
  """Alternates between the counts and the path that they make.

  An error of the counts moves the path, and that the counts, often past the
  truth: the mean of the paths so far damps it.
  """
  # A path errs most on the classes that it gives most.
  weigh = functools.partial(weigh, error=_PATH_ERROR)

  def refine(state):
    num, _, counts, mean, _ = state
    path = expectation.replay(view, known, x, counts)
    mean = mean + (path - mean) / num
    beliefs = weigh(softmax._replace(mean=mean[None]))
    refined = posterior.allocate(beliefs.probs)
    return num + 1, (refined != counts).any(), refined, mean, beliefs

  def may_change(state):
    num, changed, *_ = state
    return changed & (num <= replays)

  beliefs = weigh(softmax)
  counts = posterior.allocate(beliefs.probs)
  mean = jnp.zeros_like(softmax.mean[0])
  start = jnp.asarray(1), jnp.asarray(True), counts, mean, beliefs
  # The first stands outside the loop: matmuls in loops are slow on CPUs.
  return jax.lax.while_loop(may_change, refine, refine(start))[-1]
