"""Vertical FL: P parties train one model on split features, labels at the last.

A step follows Algorithm 1 of the BLI paper (Liu, Zou et al.). Every party
sends the embedding h_p [B, D] of its bottom model in the clear; the active
party, which holds the labels, forms the loss and returns to each party the
gradient of the batch-mean loss with respect to its embedding, the cut gradient
[B, D], over that party's `Link`. The link's defenses act on it at the active
end, then its aggregator applies the party's vjp, which sums over the batch:
under a sealed link that sum is all that the party learns, and the mask that
keeps it from the third party is the aggregator's business (`he`). An attacker
may send another embedding than its own, and tamper with the message before its
vjp: on a sealed link in an affine way, as part of the map that is applied to
the ciphertexts.

Where an arbiter holds a party's optimizer, that party sees its updates in the
place of its gradient.

One batch is the unit. `init`, `step` have the order of `lax.scan`, so
`lax.scan(protocol.step, state, batches)` trains and returns the views of all
steps, stacked.
"""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple, Optional

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from labelleak import models
from labelleak.base import Batch, Bottom, InputError, Party
from labelleak.defenses import LabelCode, Penalty, label_codes
from labelleak.he import affine
from labelleak.vfl.links import Link
from labelleak.vfl.losses import Loss, cross_entropy
from labelleak.vfl.views import View

_CODE = 2**32 - 1  # a number that no step has
_ATTACK = 2**32 - 2  # and that no party has


class State(NamedTuple):
  """What training carries from step to step.

  Attributes:
    variables: P x Flax's dict.
    opt_states: P.
    link_states: P x (of the defenses, of the tampering).
    top: variables of the top model; {} without one.
    top_opt_state: of the top's optimizer.
    key: constant; steps fold in their number, the code a number of its own.
    count: [] steps done.
  """

  variables: tuple[chex.ArrayTree, ...]
  opt_states: tuple[chex.ArrayTree, ...]
  link_states: tuple[tuple[chex.ArrayTree, chex.ArrayTree], ...]
  top: chex.ArrayTree
  top_opt_state: chex.ArrayTree
  key: chex.PRNGKey
  count: chex.Array


Parts = tuple[chex.Array, ...]  # P x [B, F_p], what each party holds of a batch
Metrics = dict[str, chex.Array]  # {'loss': [], 'accuracy': []}


class Protocol(NamedTuple):
  """Pure functions of one joint model.

  Attributes:
    init: (key, xs) -> `State`.
    step: (state, batch) -> (state, (P views, metrics)).
    predict: (state, xs) -> probabilities of the classes [B, K].
    check: batch, leaves [..., B, ...] -> None; raises where a sealed link would
      reveal its only row. A traced `step`, which counts no rows, reveals NaN.
  """

  init: Callable[[chex.PRNGKey, Parts], State]
  step: Callable[[State, Batch], tuple[State, tuple[tuple[View, ...], Metrics]]]
  predict: Callable[[State, Parts], chex.Array]
  check: Callable[[Batch], None]


def party(model: nn.Module, tx: optax.GradientTransformation) -> Party:
  """Returns a party whose model is a Flax module called (x, train=...)."""
  return Party(model.init, models.forward(model), tx)


def bottom(party: Party) -> Bottom:
  """Returns `Known.bottom` of a party, its pass in training mode."""
  return lambda variables, x, key: party.apply(
    variables, x, train=True, key=key
  )[0]


def view_after_training(state: State, p: int) -> View:
  """Returns what party p sees after training: its bottom, and no batch."""
  return View(None, None, state.variables[p], None, None, None)


def protocol(
  parties: Sequence[Party],
  top: Optional[Party],
  links: Sequence[Link],
  *,
  code: Optional[LabelCode] = None,
  loss: Optional[Loss] = None,
  penalty: Optional[Penalty] = None,
  steps_per_epoch: Optional[int] = None,
) -> Protocol:
  """Returns the joint model and its training step.

  A link's transform gets, beside the embedding as `params`: `key`, `labels`
  (after the code), `index`, `mask`, `epoch` [] and `relabel`: y [B, K] -> the
  cut gradient that this party would get were the labels y.

  Args:
    parties: P >= 2; the last one is active.
    top: trainable model of the active party on the concatenated embeddings
      [B, sum D]; None adds them, so that every D must be the loss's.
    links: P, one for each party, the active one too.
    code: of the labels that enter the loss; `predict` and accuracies decode.
    loss: of the joint logits; None: `cross_entropy()`.
    penalty: (hs, y [B, K], mask [B]) -> [], what the active party adds to its
      loss; y after the code. What a top model sows into the collection
      'penalty' is added, too.
    steps_per_epoch: by which steps become epochs; None: all are epoch 0.

  Raises:
    InputError: fewer than two parties, a link too many or too few. At trace
      time: embeddings that cannot be added, a sealed batch of one row,
      tampering with a sealed message that is not affine.
  """
  if len(parties) < 2 or len(links) != len(parties):
    raise InputError(
      f'{len(parties)} parties with {len(links)} links: vertical FL needs at'
      ' least two parties and one link for each.'
    )

  model = _Model(
    tuple(parties),
    top,
    tuple(links),
    code or LabelCode(),
    loss or cross_entropy(),
    penalty or (lambda hs, y, mask: 0.0),
    steps_per_epoch,
  )
  return Protocol(
    functools.partial(_init, model),
    functools.partial(_step, model),
    functools.partial(_predict, model),
    functools.partial(_check, model),
  )


class _Model(NamedTuple):
  """What `protocol` was given."""

  parties: tuple[Party, ...]
  top: Optional[Party]
  links: tuple[Link, ...]
  code: LabelCode
  loss: Loss
  penalty: Penalty
  steps_per_epoch: Optional[int]


def _init(model, key, xs):
  parties, top = model.parties, model.top
  party_key, top_key, step_key = jax.random.split(key, 3)
  keys = jax.random.split(party_key, len(parties))
  variables = tuple(p.init(k, x) for p, k, x in zip(parties, keys, xs))
  hs = _evaluate(parties, variables, xs)
  top_variables = top.init(top_key, jnp.concatenate(hs, -1)) if top else {}
  return State(
    variables=variables,
    opt_states=tuple(
      p.tx.init(v['params']) for p, v in zip(parties, variables)
    ),
    link_states=tuple(
      (
        each.tx.init(h),
        each.tampering.tamper.init(h) if each.tampering.tamper else (),
      )
      for each, h in zip(model.links, hs)
    ),
    top=top_variables,
    top_opt_state=top.tx.init(top_variables['params']) if top else (),
    key=step_key,
    count=jnp.zeros((), jnp.int32),
  )


def _step(model, state, batch):
  _check(model, batch)
  parties, top, num = model.parties, model.top, len(model.parties)
  step_key = jax.random.fold_in(state.key, state.count)
  top_key, key = jax.random.split(step_key)
  keys, link_keys, he_keys = jax.random.split(key, (3, num))
  attack_key = jax.random.fold_in(key, _ATTACK)
  send_keys, tamper_keys = jax.random.split(attack_key, (2, num))
  own, pulls, new = _pull_back(parties, state.variables, batch.xs, keys)
  hs = _send(model.links, send_keys, own, batch)
  joint = functools.partial(_loss, model, state.top, batch, top_key)
  code_key = jax.random.fold_in(state.key, _CODE)
  y = label_codes.encode_rows(code_key, model.code, batch.y, batch.index)
  params = state.top.get('params', {})
  loss_and_grads = jax.value_and_grad(joint, (0, 1), has_aux=True)
  (_, (metrics, new_top)), (top_grads, cuts) = loss_and_grads(params, hs, y)
  relabel = lambda y: jax.grad(joint, 1, has_aux=True)(params, hs, y)[0]
  epoch = state.count // (model.steps_per_epoch or jnp.iinfo(jnp.int32).max)
  public = dict(index=batch.index, mask=batch.mask, epoch=epoch)
  views, link_states = [], []
  for p, link in enumerate(model.links):
    tx_state, tamper_state = state.link_states[p]
    cut, tx_state = link.tx.update(
      cuts[p],
      tx_state,
      hs[p],
      key=link_keys[p],
      labels=y,
      relabel=lambda y, p=p: relabel(y)[p],
      **public,
    )
    tamper_args = dict(public, key=tamper_keys[p], notes=batch.notes)
    revealed, tamper_state = _reveal(
      he_keys[p], link, tamper_state, own[p], pulls[p], cut, tamper_args
    )
    views.append(
      View(
        x=batch.xs[p],
        h=hs[p],
        variables=state.variables[p],
        key=keys[p],
        param_grads=_hide(link, revealed.result, batch.mask),
        cut_grads=revealed.message,
        index=jnp.where(batch.mask > 0, batch.index, -1),
      )
    )
    link_states.append((tx_state, tamper_state))
  variables, opt_states, updates = zip(
    *(
      _update(party.tx, view.param_grads, opt_state, v)
      for party, view, opt_state, v in zip(
        parties, views, state.opt_states, new
      )
    )
  )
  views = [
    view._replace(param_grads=None, updates=each) if link.coordinated else view
    for link, view, each in zip(model.links, views, updates)
  ]
  state = state._replace(
    variables=variables,
    opt_states=opt_states,
    link_states=tuple(link_states),
    count=state.count + 1,
  )
  if top:
    new_top, opt_state, _ = _update(
      top.tx, top_grads, state.top_opt_state, new_top
    )
    state = state._replace(top=new_top, top_opt_state=opt_state)
  return state, (tuple(views), metrics)


def _predict(model, state, xs):
  hs = _evaluate(model.parties, state.variables, xs)
  logits, _ = _join(model.top, state.top, hs, key=None, train=False)
  return model.code.decode(model.loss.predict(logits))


def _evaluate(parties, variables, xs):
  """Returns the embeddings of all parties in evaluation mode."""
  return tuple(
    each.apply(v, x, train=False, key=None)[0]
    for each, v, x in zip(parties, variables, xs, strict=True)
  )


def _pull_back(parties, variables, xs, keys):
  """Returns embeddings, vjps to the parties' parameters, new variables."""
  hs, pulls, updated = [], [], []
  for each, v, x, key in zip(parties, variables, xs, keys, strict=True):

    def forward(params, each=each, v=v, x=x, key=key):
      return each.apply({**v, 'params': params}, x, train=True, key=key)

    h, pull, new = jax.vjp(forward, v['params'], has_aux=True)
    chex.assert_rank(h, 2)
    hs.append(h)
    pulls.append(pull)
    updated.append(new)
  return tuple(hs), pulls, updated


def _send(links, keys, hs, batch):
  """Returns embeddings as they reach the active party."""
  return tuple(
    each.tampering.send(key, h, mask=batch.mask, notes=batch.notes)
    if each.tampering.send
    else h
    for each, key, h in zip(links, keys, hs)
  )


def _reveal(key, link, state, h, pull, cut, extra):
  """Returns what is revealed of a cut, and the tampering's new state."""
  vjp = lambda cut: pull(cut)[0]
  if not link.tampering.tamper:
    return link.aggregate.reveal(key, vjp, cut), state
  tamper = lambda cut: link.tampering.tamper.update(cut, state, h, **extra)
  return affine.reveal_tampered(key, link.aggregate, tamper, vjp, cut)


def _join(top, variables, hs, *, key, train):
  """Returns logits [B, K] of the joint model, and the top's new variables."""
  if top:
    h = jnp.concatenate(hs, -1)
    return top.apply(variables, h, train=train, key=key)
  widths = [h.shape[-1] for h in hs]
  if len(set(widths)) > 1:
    raise InputError(
      f'embeddings of widths {widths} cannot be added; make them equal to the'
      ' number of logits or use a top model.'
    )
  return sum(hs[1:], hs[0]), variables


def _loss(model, variables, batch, key, params, hs, y):
  """Returns (loss, (metrics, new variables)) of the top's params, hs and y."""
  top = model.top
  full = {**variables, 'params': params} if top else variables
  logits, updated = _join(top, full, hs, key=key, train=True)
  width = model.loss.width(batch.y.shape[-1])
  if logits.shape[-1] != width:
    raise InputError(
      f'{logits.shape[-1]} joint logits for {batch.y.shape[-1]} classes, of'
      f' which this loss reads {width}; without a top model every bottom must'
      ' return as many.'
    )
  value = model.loss.mean(logits, y, batch.mask)
  value += model.penalty(hs, y, batch.mask)
  value += sum(jax.tree.leaves(updated.get('penalty', {})))
  decoded = model.code.decode(model.loss.predict(logits))
  hits = (decoded.argmax(-1) == batch.y.argmax(-1)) * batch.mask
  accuracy = hits.sum() / jnp.maximum(batch.mask.sum(), 1.0)
  return value, (dict(loss=value, accuracy=accuracy), updated)


def _update(tx, grads, opt_state, variables):
  """Returns variables after a step of `tx`, its state, and what it added."""
  params = variables['params']
  updates, opt_state = tx.update(grads, opt_state, params)
  params = optax.apply_updates(params, updates)
  return {**variables, 'params': params}, opt_state, updates


def _check(model, batch):
  """Refuses a batch [..., B] of which a sealed link would reveal the only row.

  A trace knows the size alone; `_hide` does the rest.
  """
  size = batch.mask.shape[-1]
  if not any(link.aggregate.sealed for link in model.links):
    return
  rows = np.full((), size)
  if not isinstance(batch.mask, jax.core.Tracer):
    rows = (np.asarray(batch.mask) > 0).sum(-1)
  if (rows == 1).any():
    raise InputError(
      f'a sealed batch of 1 row and {size - 1} of padding: its sum over the'
      ' batch reveals that row; use at least 2 rows.'
    )


def _hide(link, grads, mask):
  """Returns what is revealed; NaN of a single row that only a run can count."""
  if not (link.aggregate.sealed and isinstance(mask, jax.core.Tracer)):
    return grads
  single = (mask > 0).sum() == 1
  return jax.tree.map(lambda g: jnp.where(single, jnp.nan, g), grads)
