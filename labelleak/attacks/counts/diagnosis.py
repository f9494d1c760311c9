"""Signs that an update contradicts what is said of the client behind it.

Under softmax cross entropy and an optimizer that is linear the entries of the
bias update sum to 0, and its negative ones to at most the steps' gains. What
remains is the evidence of the counts' posterior: with the sign turned it must
not be much larger.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from labelleak import contract
from labelleak.attacks.counts import (
  captured,
  evidence,
  head_update,
  posterior,
  responses,
)
from labelleak.base import InputError
from labelleak.hfl import Client, Known, View

_TURNED = 8.0  # nats of evidence at which sign and scale are doubted
_OTHER = 1.4  # times, at which a scale is another
_SPARSE = 0.02  # labels a class, of which the scale is known to a percent
_SMALL = 0.1  # of an update that only labels nearly even would make
_MOMENTUM = dict(name='sgd', momentum=0.9)


def diagnose(view: View, known: Known) -> tuple[str, ...]:
  """Returns a sentence for each sign that the description is wrong.

  Args:
    view: of a captured head, with values.
    known: sizes, `client` and `defense`; None of these: plain SGD.

  Raises:
    InputError: a traced view; a head without bias.
  """
  if contract.is_traced(view):
    raise InputError(
      'counts.diagnose compares values, and this view is traced; call it'
      ' outside of jit.'
    )
  view, _ = view.check('counts.diagnose', known)
  beta = np.asarray(evidence.bias('counts.diagnose', view), float)
  client = known.client or Client()
  response = responses.tabulate(known)
  if not np.any(beta):
    return ('The bias update is 0 throughout: nothing was trained.',)
  of_sum = _doubt_sum(beta, client, response)
  if of_sum or response.shares is not None:
    return of_sum
  return _doubt_scale(view, known, beta, client, response)


def _doubt_sum(beta, client, response):
  """Returns what the sum of the entries says of loss and optimizer."""
  size = np.abs(beta)
  share = abs(beta.sum()) / size.sum()
  noise = response.noise * len(beta) ** 0.5 / size.sum()
  zero = share < head_update.ROUNDING + 3 * noise
  softmax = client.loss == 'softmax' and response.shares is None
  decays = 'weight_decay' in client.optimizer
  if softmax and size.max() < 1.02 * size.min():
    return (
      'All entries of the bias update are of one size: Adam, or the signs of a'
      ' gradient, would explain it.',
    )
  if softmax and not zero and not decays:
    return (
      f'The bias update sums to {share:.0%} of its size, and one of softmax'
      f' cross entropy under {client.optimizer["name"]} to 0: a sigmoid head,'
      ' Adam, strong weight decay, or weights in the place of an update would'
      ' explain it.',
    )
  if not softmax and zero and len(beta) > 2 and share < 1e-3:
    described = 'a sigmoid head' if client.loss == 'sigmoid' else 'Adam'
    return (
      f'The bias update sums to 0, as of softmax cross entropy under SGD; one'
      f' of {described} would not.',
    )
  return ()


def _doubt_scale(view, known, beta, client, response):
  """Returns what scale and sign of the entries say."""
  free = dataclasses.replace(known, defense=None)
  turned = view._replace(grads=jax.tree.map(jnp.negative, view.grads))
  few = known.num_classes <= head_update.MOST_CLASSES
  infer = captured.infer_counts
  # Both signs at one reach, to compare them; it does not lessen noise.
  if known.client and not few and not response.noise:
    infer = captured.infer_at_typical_reach
  told = beliefs = infer(view, known)
  opposite = infer(turned, known).evidence
  # Of counts far from even the negative entries sum to nearly all the gains.
  least = float(-np.minimum(beta, 0.0).sum()) / response.mass
  if client.loss == 'sigmoid' and client.reduction == 'mean':
    least *= len(beta)
  if known.defense is not None:
    share = known.num_examples / known.num_classes
    plain = client.loss == 'softmax' and not response.noise
    if plain and share < _SPARSE:
      # The softmax hides at most N / K of the gains: the scale is told.
      expected = (1 - share / 2) * (1 - client.label_smoothing)
      at_its_scale = functools.partial(_infer_scaled, infer, least / expected)
      beliefs = at_its_scale(view, known)
      opposite = max(opposite, at_its_scale(turned, known).evidence)
    else:
      # It costs most: a typical reach says if some scale fits far better.
      at_typical_reach = captured.infer_at_typical_reach
      at_any_scale = at_typical_reach if known.client else infer
      beliefs = at_any_scale(view, free)
      doubted = beliefs.evidence > told.evidence + _TURNED
      if doubted or few:
        opposite = max(opposite, at_any_scale(turned, free).evidence)
  if opposite > max(told.evidence, beliefs.evidence) + _TURNED:
    return (
      'The update fits far better with its sign turned: local - server in the'
      ' place of server - local would explain it.',
    )
  if known.defense is None:
    return ()
  noise = 3 * response.noise * len(beta) ** 0.5 / response.mass
  if least > 1 + head_update.ROUNDING + noise:
    cause = _explain(least, client, known)
    return (
      f'The update is at least {least:.3g} times as large as this client can'
      f' make it; {cause} would explain it.',
    )
  if beliefs.evidence > told.evidence + _TURNED:
    doubt = _doubt_fit(known, beta, client, response, beliefs)
    if doubt:
      return (doubt,)
  if least < _SMALL and client.clip_per_example is None:
    cause = 'a smaller learning rate, clipping'
    if client.lr and client.lr < 0.5:
      cause += ', an update that was not divided by the learning rate'
    return (
      f'The update is {least:.2g} of what this client can make it; {cause}, or'
      ' labels that are as even as the softmax would explain it.',
    )
  return ()


def _infer_scaled(infer, scale, view, known):
  """Infers counts of an update that is `scale` times as large as described."""
  grads = jax.tree.map(lambda g: g / scale, view.grads)
  found = infer(view._replace(grads=grads), known)
  change = known.num_classes * np.log(scale)  # of the density's volume
  return found._replace(evidence=found.evidence - change)


def _doubt_fit(known, beta, client, response, beliefs):
  """Returns by which scale an update fits far better; '' of about the same."""
  shares = np.asarray(posterior.mean_counts(beliefs.probs)) / response.num
  moved = np.maximum(shares - 1 / len(beta), 0.0).sum()
  moved *= 1 - client.label_smoothing
  size = -np.minimum(beta, 0.0).sum() / response.mass
  factor = float(size / max(moved, 1 / len(beta)))
  if factor > _OTHER:
    cause = _explain(factor, client, known)
  elif factor < 1 / _OTHER:
    cause = f'a learning rate {factor:.2g} times as large, clipping, or a model'
    cause += ' that was sure of its examples'
    if _gain(client, known.steps) > _OTHER:
      cause = f'plain {client.optimizer["name"]} without momentum, {cause}'
    if client.epochs > 1:
      cause = f'fewer epochs, {cause}'
    if client.lr and 0.5 < factor / client.lr < 2.0:
      cause = f'an update that was not divided by the learning rate, {cause}'
  else:
    return ''
  return (
    f'The update fits far better if it is {factor:.2g} times as large as this'
    f' client makes it; {cause} would explain it.'
  )


def _gain(client, steps):
  """Returns by how much momentum amplifies a step, in the mean."""
  return float(responses.linear_gains(client, steps).mean())


def _explain(least, client, known):
  """Names what would make an update at least so many times as large."""
  causes = [f'a learning rate at least {least:.3g} times as large']
  plain = client.optimizer['name'] == 'sgd' and len(client.optimizer) == 1
  if plain and known.steps > 1:
    momentum = dataclasses.replace(client, optimizer=_MOMENTUM)
    if least <= _gain(momentum, known.steps):
      causes.insert(0, 'momentum .9')
  if least >= 2:
    causes.append(f'{round(least)} or more times as many epochs')
  size = client.batch_size or known.batch_size
  if client.reduction == 'mean' and least > size / 5:
    causes.insert(0, "a loss that is summed (reduction='sum')")
  return ' or '.join(causes)
