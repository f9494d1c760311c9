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

from labelleak import he
from labelleak.base import Attack, InputError, Party
from labelleak.defenses import label_codes
from labelleak.he import affine

_CODE = 2**32 - 1  # a number that no step has
_ATTACK = 2**32 - 2  # and that no party has


class Link(NamedTuple):
  """The way of a cut gradient from the active party to one party."""

  tx: optax.GradientTransformation  # chain of defenses on [B, D]
  aggregate: he.Aggregate
  attack: Attack = Attack()  # of that party: its `send` and `tamper`


class View(NamedTuple):
  """Everything that one party learns in a step."""

  x: chex.Array  # [B, F]
  h: chex.Array  # [B, D] sent
  variables: chex.ArrayTree  # of this very forward pass
  key: chex.PRNGKey  # of this very forward pass
  param_grads: chex.ArrayTree  # like variables['params'], of the mean loss
  cut_grads: Optional[chex.Array]  # [B, D]; None when sealed


class Traffic(NamedTuple):
  """Bytes of a step's messages between the active party and one other."""

  embedding: int  # h, in the clear, to the active party
  gradient: int  # the cut gradient, sealed or not, back
  masked: int  # what the third party decrypts
  opened: int  # what it returns


class State(NamedTuple):
  """What training carries from step to step."""

  variables: tuple  # P x Flax's dict
  opt_states: tuple  # P
  link_states: tuple  # P x (of the defenses, of the tampering)
  top: chex.ArrayTree  # variables of the top model; {} without one
  top_opt_state: chex.ArrayTree
  key: chex.PRNGKey  # constant; steps fold in their number, the code `_CODE`
  count: chex.Array  # [] steps done


class Protocol(NamedTuple):
  """Pure functions of one joint model."""

  init: Callable  # (key, xs) -> State
  # (State, Batch) -> (State, (P views, {'loss': [], 'accuracy': []}))
  step: Callable
  predict: Callable  # (State, xs) -> probabilities [B, K]


def link(
  *txs: optax.GradientTransformation,
  aggregate: Optional[he.Aggregate] = None,
  attack: Optional[Attack] = None,
) -> Link:
  """A link whose transforms act in order; in plaintext unless told otherwise.

  Args:
    *txs: defenses, at the active end.
    aggregate: from `he`.
    attack: of the party at the other end, whose `send` and `tamper` are used.
  """
  tx = optax.with_extra_args_support(optax.chain(optax.identity(), *txs))
  attack = attack or Attack()
  if attack.tamper:
    tamper = optax.with_extra_args_support(attack.tamper)
    attack = attack._replace(tamper=tamper)
  return Link(tx, aggregate or he.plaintext(), attack)


def party(model: nn.Module, tx: optax.GradientTransformation) -> Party:
  """A party whose bottom (or top) is a Flax module called (x, train=...).

  In training, what else `apply` is given goes to the module (`bert.Mix`).
  """

  def apply(variables, x, *, train, key, **inputs):
    if not train:
      return model.apply(variables, x, train=False), variables
    rest = {k: v for k, v in variables.items() if k != 'params'}
    options = dict(rngs={'dropout': key}, mutable=list(rest))
    h, updated = model.apply(variables, x, train=True, **inputs, **options)
    return h, {**variables, **updated}

  return Party(model.init, apply, tx)


def bottom(party: Party) -> Callable:
  """`Known.bottom` of a party: (variables, x, key) -> h, in training mode."""
  return lambda variables, x, key: party.apply(
    variables, x, train=True, key=key
  )[0]


def final(state: State, p: int) -> View:
  """What party p holds after training: its bottom; no batch passes any more."""
  return View(None, None, state.variables[p], None, None, None)


def cross_entropy(
  logits: chex.Array, y: chex.Array, mask: chex.Array
) -> chex.Array:
  """Mean cross entropy over the rows that are not padding, [B, K] -> []."""
  losses = optax.softmax_cross_entropy(logits, y)
  return (losses * mask).sum() / jnp.maximum(mask.sum(), 1.0)


def weighted_cross_entropy(weights: Sequence[float]) -> Callable:
  """`cross_entropy` of classes that weigh `weights` [K].

  A mean weighted by the labels' weights, as in PyTorch: over w_{y_n} and not
  over the rows (Fu et al. on unbalanced data).

  Raises:
    InputError: a weight is not positive.
  """
  if not min(weights) > 0:
    raise InputError(f'class_weights={tuple(weights)} must all be positive.')
  weights = np.asarray(weights, np.float32)
  weights = weights / weights.min()  # changes nothing: no mask between 0 and 1
  return lambda logits, y, mask: cross_entropy(logits, y, mask * (y @ weights))


def traffic(
  aggregate: he.Aggregate, h: chex.Array, params: chex.ArrayTree
) -> Traffic:
  """Messages of one passive party in a step, in bytes; see `he.traffic`.

  Args:
    aggregate: of the party's link.
    h: its embedding [B, D], or the shape of it.
    params: of its bottom, or their shapes.
  """
  outputs = sum(leaf.size for leaf in jax.tree.leaves(params))
  sent = he.traffic(aggregate, num_inputs=h.size, num_outputs=outputs)
  return Traffic(
    embedding=h.size * h.dtype.itemsize,
    gradient=sent.message,
    masked=sent.masked,
    opened=sent.opened,
  )


def protocol(
  parties: Sequence[Party],
  top: Optional[Party],
  links: Sequence[Link],
  *,
  code: Optional[label_codes.LabelCode] = None,
  loss: Callable = cross_entropy,
  penalty: Optional[Callable] = None,
  steps_per_epoch: Optional[int] = None,
) -> Protocol:
  """The joint model and its training step.

  A link's transform gets, beside the embedding as `params`: `key`, `labels`
  (after the code), `index`, `mask`, `epoch` [] and `relabel`: y [B, K] -> the
  cut gradient that this party would get were the labels y.

  Args:
    parties: P >= 2; the last one is active.
    top: trainable model of the active party on the concatenated embeddings
      [B, sum D]; None adds them, so that every D must be K.
    links: P, one for each party, the active one too.
    code: of the labels that enter the loss; `predict` and accuracies decode.
    loss: (logits [B, K], y [B, K], mask [B]) -> [], a mean over the mask.
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
    code or label_codes.identity(),
    loss,
    penalty or (lambda hs, y, mask: 0.0),
    steps_per_epoch,
  )
  return Protocol(
    functools.partial(_init, model),
    functools.partial(_step, model),
    functools.partial(_predict, model),
  )


class _Model(NamedTuple):
  """What `protocol` was given."""

  parties: tuple
  top: Optional[Party]
  links: tuple
  code: label_codes.LabelCode
  loss: Callable
  penalty: Callable
  steps_per_epoch: Optional[int]


def _init(model, key, xs):
  parties, top = model.parties, model.top
  party_key, top_key, step_key = jax.random.split(key, 3)
  keys = jax.random.split(party_key, len(parties))
  variables = tuple(p.init(k, x) for p, k, x in zip(parties, keys, xs))
  hs = _forward(parties, variables, xs, keys, train=False)
  top_variables = top.init(top_key, jnp.concatenate(hs, -1)) if top else {}
  return State(
    variables=variables,
    opt_states=tuple(
      p.tx.init(v['params']) for p, v in zip(parties, variables)
    ),
    link_states=tuple(
      (
        each.tx.init(h),
        each.attack.tamper.init(h) if each.attack.tamper else (),
      )
      for each, h in zip(model.links, hs)
    ),
    top=top_variables,
    top_opt_state=top.tx.init(top_variables['params']) if top else (),
    key=step_key,
    count=jnp.zeros((), jnp.int32),
  )


def _step(model, state, batch):
  parties, top = model.parties, model.top
  step_key = jax.random.fold_in(state.key, state.count)
  top_key, key = jax.random.split(step_key)
  keys, link_keys, he_keys = jax.random.split(key, (3, len(parties)))
  own, pulls, updated = _pullbacks(parties, state.variables, batch.xs, keys)
  attack_key = jax.random.fold_in(key, _ATTACK)
  send_keys, tamper_keys = jax.random.split(attack_key, (2, len(parties)))
  hs = _sent(model.links, send_keys, own, batch)
  joint = functools.partial(_loss, model, state.top, batch, top_key)
  code_key = jax.random.fold_in(state.key, _CODE)
  y = label_codes.encode(model.code, code_key, batch.y, batch.index)
  params = state.top.get('params', {})
  grad = jax.value_and_grad(joint, (0, 1), has_aux=True)
  (_, (metrics, top_updated)), (top_grads, cuts) = grad(params, hs, y)
  relabelled = lambda y: jax.grad(joint, 1, has_aux=True)(params, hs, y)[0]
  epoch = state.count // (model.steps_per_epoch or jnp.iinfo(jnp.int32).max)
  views, link_states = [], []
  for p, each in enumerate(model.links):
    tx_state, tamper_state = state.link_states[p]
    public = dict(index=batch.index, mask=batch.mask, epoch=epoch)
    cut, tx_state = each.tx.update(
      cuts[p],
      tx_state,
      hs[p],
      key=link_keys[p],
      labels=y,
      relabel=lambda y, p=p: relabelled(y)[p],
      **public,
    )
    public |= dict(key=tamper_keys[p], notes=batch.notes)
    revealed, tamper_state = _received(
      each, tamper_state, own[p], he_keys[p], pulls[p], cut, public
    )
    _check_sealed(revealed.message, batch)
    seen = batch.xs[p], hs[p], state.variables[p], keys[p]
    views.append(View(*seen, *revealed))
    link_states.append((tx_state, tamper_state))
  learned = [
    _updated(each.tx, view.param_grads, opt_state, new)
    for each, view, opt_state, new in zip(
      parties, views, state.opt_states, updated
    )
  ]
  variables, opt_states = zip(*learned)
  top_state = state.top, state.top_opt_state
  if top:
    top_state = _updated(top.tx, top_grads, state.top_opt_state, top_updated)
  links = tuple(link_states)
  rest = state.key, state.count + 1
  state = State(variables, opt_states, links, *top_state, *rest)
  return state, (tuple(views), metrics)


def _predict(model, state, xs):
  keys = (None,) * len(xs)
  hs = _forward(model.parties, state.variables, xs, keys, train=False)
  logits, _ = _join(model.top, state.top, hs, key=None, train=False)
  return model.code.decode(jax.nn.softmax(logits))


def _forward(parties, variables, xs, keys, train):
  """Embeddings of all parties."""
  return tuple(
    each.apply(v, x, train=train, key=key)[0]
    for each, v, x, key in zip(parties, variables, xs, keys, strict=True)
  )


def _pullbacks(parties, variables, xs, keys):
  """Embeddings, each party's vjp to its parameters, and its new variables."""
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


def _sent(links, keys, hs, batch):
  """Embeddings as they reach the active party."""
  return tuple(
    each.attack.send(key, h, mask=batch.mask, notes=batch.notes)
    if each.attack.send
    else h
    for each, key, h in zip(links, keys, hs)
  )


def _received(link, state, h, key, pull, cut, extra):
  """(what the aggregator reveals of a cut, the tampering's new state)."""
  vjp = lambda cut: pull(cut)[0]
  if not link.attack.tamper:
    return link.aggregate.reveal(key, vjp, cut), state
  tamper = lambda cut: link.attack.tamper.update(cut, state, h, **extra)
  return affine.reveal_tampered(key, link.aggregate, tamper, vjp, cut)


def _join(top, variables, hs, *, key, train):
  """Logits [B, K] of the joint model, and the top's new variables."""
  if top:
    h = jnp.concatenate(hs, -1)
    return top.apply(variables, h, train=train, key=key)
  widths = [h.shape[-1] for h in hs]
  if len(set(widths)) > 1:
    raise InputError(
      f'embeddings of widths {widths} cannot be added; make them equal to the'
      ' number of classes or use a top model.'
    )
  return sum(hs[1:], hs[0]), variables


def _loss(model, variables, batch, key, params, hs, y):
  """(loss, (metrics, new variables)) of the top's params, hs and labels y."""
  top = model.top
  full = {**variables, 'params': params} if top else variables
  logits, updated = _join(top, full, hs, key=key, train=True)
  if logits.shape != batch.y.shape:
    raise InputError(
      f'logits of shape {logits.shape} for labels of shape {batch.y.shape};'
      ' without a top model every bottom must return one logit a class.'
    )
  value = model.loss(logits, y, batch.mask)
  value += model.penalty(hs, y, batch.mask)
  value += sum(jax.tree.leaves(updated.get('penalty', {})))
  decoded = model.code.decode(jax.nn.softmax(logits))
  hits = (decoded.argmax(-1) == batch.y.argmax(-1)) * batch.mask
  accuracy = hits.sum() / jnp.maximum(batch.mask.sum(), 1.0)
  return value, (dict(loss=value, accuracy=accuracy), updated)


def _updated(tx, grads, opt_state, variables):
  """Variables after a step of `tx` on their params, and its state."""
  params = variables['params']
  updates, opt_state = tx.update(grads, opt_state, params)
  params = optax.apply_updates(params, updates)
  return {**variables, 'params': params}, opt_state


def _check_sealed(message, batch):
  if message is None and batch.mask.shape[0] == 1:
    raise InputError(
      'a sealed batch of 1 row: its sum over the batch reveals that row; use at'
      ' least 2 rows.'
    )
