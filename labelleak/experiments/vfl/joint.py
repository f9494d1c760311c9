"""The joint model of a vertical config: parties, links, batches, training."""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple, Optional

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax

from labelleak import (
  base,
  data,
  defenses,
  he,
  models,
  registry,
  sweep,
  train,
  vfl,
)
from labelleak.base import Batch, InputError
from labelleak.defenses import accounting, label_codes
from labelleak.experiments import grants, inputs

_EVALUATED = 2048  # rows of a batch when accuracy is measured
_DELTA = 1e-5  # of differential privacy


class Joint(NamedTuple):
  """What a config's vertical model consists of."""

  protocol: vfl.Protocol
  parties: tuple  # P x base.Party
  links: tuple  # P x vfl.Link
  split: Callable  # x [n, ...] -> P x [n, ...]


def source(config: ConfigDict, split: Optional[str] = None) -> data.Source:
  """A split of the config's data, of the first `classes` where it is trained.

  Untrained models draw their classes anew for every trial (`attacked`).
  """
  found = inputs.source(config, split)
  most, num = found.num_classes, config.classes
  if num is not None and not 2 <= num <= most:
    raise InputError(
      f'classes={num} must lie in 2..{most}, the number of {found.name}; change'
      ' it.'
    )
  return (
    data.of_classes(found, range(num or most)) if trained(config) else found
  )


def trained(config: ConfigDict) -> bool:
  """Whether the joint model is trained before it is attacked."""
  return config.train.steps > 0


def build(
  config: ConfigDict,
  source: data.Source,
  attack: Optional[base.Attack] = None,
  attackers: Sequence[int] = (),
) -> Joint:
  """Parties with bottoms of one kind, passive links defended and aggregated.

  The active party's own link is plaintext and carries no defense, unless
  `defend_active` says so, as in the code of Fu et al.

  Args:
    config: of the point.
    source: gives the shape of an example and the number of classes.
    attack: whose `send`, `tamper` and `optimizer` the `attackers` use.
    attackers: parties that do not follow the protocol.

  Raises:
    InputError: a split, model, defense, aggregator or optimizer that does not
      exist or does not fit, an attacker who is no passive party.
  """
  fields = ['dataset', 'split', 'model', 'aggregate', 'optimizer']
  optional = ('top', 'top_optimizer', 'penalty')
  for field in (*fields, *(f for f in optional if config[f])):
    if 'name' not in config[field]:
      raise InputError(f'config.{field} lacks a name; add it.')
  split = registry.load('data', shape=source.shape, **config.split.to_dict())
  num = len(split(np.zeros((1, *source.shape), np.float32)))
  for each in (config.attacker, *attackers):
    if not 0 <= each < num - 1:
      raise InputError(
        f'attacker={each} must be a passive party, 0 to {num - 2} of'
        f' {num} parties; the last one holds the labels.'
      )
  aggregate = registry.load('he', **config.aggregate.to_dict())
  steps_per_epoch = _epoch(config, len(source.y), aggregate.sealed)
  tx = _optimizer(config.optimizer.to_dict(), steps_per_epoch)
  width = config.cut_width or source.num_classes
  bottom = models.load(num_classes=width, **config.model.to_dict())
  parties = [vfl.party(bottom, tx)] * num
  if attack and attack.optimizer:
    options = config.optimizer.to_dict()
    own = _optimizer(options, steps_per_epoch, attack.optimizer)
    for p in attackers:
      parties[p] = vfl.party(bottom, own)
  parties = tuple(parties)
  top = None
  if config.top:
    model = models.load(num_classes=source.num_classes, **dict(config.top))
    if config.top_optimizer:
      tx = _optimizer(dict(config.top_optimizer), steps_per_epoch)
    top = vfl.party(model, tx)
  defense = defenses.build(config.defense)
  own = vfl.link(defense) if config.defend_active else vfl.link()
  passive = [
    vfl.link(
      defense, aggregate=aggregate, attack=attack if p in attackers else None
    )
    for p in range(num - 1)
  ]
  links = (*passive, own)
  penalty = config.penalty and registry.load(
    'defenses.penalties', **dict(config.penalty)
  )
  protocol = vfl.protocol(
    parties,
    top,
    links,
    code=label_codes.build(config.code, source.num_classes),
    loss=_loss(config, source.num_classes),
    penalty=penalty,
    steps_per_epoch=steps_per_epoch,
  )
  return Joint(protocol, parties, links, split)


def _epoch(config, held, sealed):
  """Training steps of an epoch over `held` rows."""
  size = config.train.batch_size
  if size < 1:
    raise InputError(f'train.batch_size={size} must be at least 1; raise it.')
  if trained(config) and sealed and (size == 1 or held % size == 1):
    raise InputError(
      f'train.batch_size={size} leaves a sealed batch of 1 of {held} rows: its'
      ' sum over the batch reveals that row; change it.'
    )
  return -(-held // size)


def _loss(config, num_classes):
  """Cross entropy, of weighted classes where the config weighs them."""
  weights = config.get('class_weights', ())
  if not weights:
    return vfl.cross_entropy
  if len(weights) != num_classes:
    raise InputError(
      f'class_weights={tuple(weights)} are not one for each of {num_classes}'
      ' classes; change them.'
    )
  return vfl.weighted_cross_entropy(weights)


def _optimizer(options, steps_per_epoch, make=None):
  """An optimizer; `decay` 'epoch' is VFLAIR's schedule, a tuple Fu et al.'s.

  Its name is one of optax or, dotted, of `attacks`; `make` takes its place.
  `rates` has other rates for the modules whose names begin so, at any level:
  {'head': 5e-4} where all else learns at `lr`.
  """
  lr, decay = options.pop('lr', None), options.pop('decay', None)
  rates = options.pop('rates', {})
  name = options.pop('name')
  for field, rate in (
    ('lr', lr),
    *((f'rates.{k}', v) for k, v in rates.items()),
  ):
    if rate is None or rate <= 0:
      raise InputError(f'optimizer.{field}={rate} must be a positive number.')

  def built(rate):
    schedule = _schedule(rate, decay, steps_per_epoch)
    if make:
      return make(name=name, learning_rate=schedule, **options)
    if '.' in name:
      return registry.load('attacks', name, learning_rate=schedule, **options)
    return train.optimizer(name, schedule, **options)

  if not rates:
    return built(lr)
  groups = {'': built(lr)} | {k: built(rate) for k, rate in rates.items()}
  return optax.multi_transform(groups, functools.partial(_groups, tuple(rates)))


def _groups(prefixes, params):
  """The longest prefix of a module on the path of each leaf, or ''."""

  def group(path, _):
    found = [p for p in prefixes if any(k.key.startswith(p) for k in path[:-1])]
    return max(found, key=len, default='')

  found = jax.tree.map_with_path(group, params)
  for prefix in {*prefixes} - {*jax.tree.leaves(found)}:
    raise InputError(
      f'optimizer.rates.{prefix} is of no module; those of the model are'
      f' {", ".join(params)}.'
    )
  return found


def _schedule(lr, decay, steps_per_epoch):
  """A rate, or its schedule over the steps."""
  if decay is None:
    return lr
  if decay == 'epoch':
    epoch = lambda step: jnp.maximum(step // steps_per_epoch, 1)
    return lambda step: lr / jnp.sqrt(epoch(step).astype(jnp.float32))
  if isinstance(decay, tuple):
    drops = {epoch * steps_per_epoch: 0.1 for epoch in decay}
    return optax.piecewise_constant_schedule(lr, drops)
  raise InputError(
    f"optimizer.decay={decay!r} is unknown; use 'epoch' (lr over the square"
    ' root of the epoch), a tuple of epochs after which lr is a tenth, or'
    ' None.'
  )


def attacked(config: ConfigDict, source: data.Source, trial: int) -> tuple:
  """(source of the trial's classes, rows of its batch [B]).

  `config.draw` 'random' draws classes and rows anew for every trial, as the
  BLI paper does; 'first' takes the first of both, as VFLAIR does.

  Raises:
    InputError: an unknown draw, or more rows than these classes hold.
  """
  rng = np.random.default_rng([config.seed, trial])
  classes = np.arange(source.num_classes)
  if config.draw == 'random':
    classes = np.sort(rng.permutation(classes)[: config.classes])
  elif config.draw == 'first':
    classes = classes[: config.classes]
  else:
    raise InputError(
      f"draw={config.draw!r} is unknown; use 'random' or 'first'."
    )
  part = data.of_classes(source, classes)
  size, held = config.batch_size, len(part.y)
  if not 2 <= size <= held:
    raise InputError(
      f'batch_size={size} must lie in 2..{held}, the rows of'
      f' {len(classes)} classes of {source.name}; change it.'
    )
  rows = np.arange(size)
  if config.draw == 'random':
    rows = rng.choice(held, size, replace=False)
  return part, rows


def batches(
  config: ConfigDict, source: data.Source, split: Callable, index: np.ndarray
) -> Batch:
  """Batches of the trials `index` [n], leaves [n, B, ...]."""
  each = []
  for trial in index:
    part, rows = attacked(config, source, int(trial))
    each.append(batch_of(part, split, rows, np.ones(len(rows), np.float32)))
  return jax.tree.map(lambda *a: np.stack(a), *each)


def batch_of(
  source: data.Source, split: Callable, index: np.ndarray, mask: np.ndarray
) -> Batch:
  """Rows `index` [..., B] of the data."""
  x = source.take(index.reshape(-1))
  xs = tuple(a.reshape(*index.shape, *a.shape[1:]) for a in split(x))
  y = np.eye(source.num_classes, dtype=np.float32)[source.y[index]]
  return Batch(xs, y, index, mask)


def accuracy(joint: Joint, state: vfl.State, source: data.Source) -> float:
  """Share of `source` that the joint model classifies right."""
  p = on_rows(joint, joint.protocol.predict, state, source)
  return int((p.argmax(-1) == source.y).sum()) / len(source.y)


def on_rows(
  joint: Joint, function: Callable, state: vfl.State, source: data.Source
) -> np.ndarray:
  """(state, xs of a batch) -> [B, ...], for all rows of `source`, [N, ...]."""
  run = jax.jit(function)
  return scores(joint.split, lambda xs: run(state, xs), source)


def scores(
  split: Callable,
  predict: Callable,
  source: data.Source,
  rows: Optional[np.ndarray] = None,
) -> np.ndarray:
  """What `predict` says of rows of the data, [n, ...].

  Args:
    split: x [B, ...] -> what `predict` takes.
    predict: that of a batch -> [B, ...].
    source: the data.
    rows: [n]; None: all.
  """
  rows = np.arange(len(source.y)) if rows is None else rows
  found, size = [], len(rows)
  for start in range(0, size, _EVALUATED):
    # The last batch wraps around, so that all of them have one shape.
    index = rows[np.arange(start, start + min(_EVALUATED, size)) % size]
    found.append(np.asarray(predict(split(source.take(index)))))
  return np.concatenate(found)[:size]


def traffic(
  joint: Joint, source: data.Source, batch_size: int
) -> tuple[vfl.Traffic, ...]:
  """Bytes of a step's messages, for each passive party.

  Raises:
    InputError: a step that cannot be traced.
  """
  hs, variables = _shapes(joint, source, batch_size)
  return tuple(
    vfl.traffic(link.aggregate, h, v['params'])
    for link, h, v in zip(joint.links[:-1], hs, variables)
  )


def check_cost(
  config: ConfigDict, joint: Joint, source: data.Source, size: int, steps: int
) -> Optional[he.Cost]:
  """Refuses what encryption would draw out beyond `he.max_hours`.

  Returns:
    what one step of batch size `size` costs the first party; None where
    nothing is encrypted.
  """
  aggregate = joint.links[0].aggregate
  if not aggregate.scheme:
    return None
  hs, variables = _shapes(joint, source, size)
  outputs = sum(a.size for a in jax.tree.leaves(variables[0]['params']))
  cost = he.estimate(aggregate, num_inputs=hs[0].size, num_outputs=outputs)
  he.check_hours(
    cost,
    steps=steps * (len(joint.parties) - 1),
    max_hours=config.he.max_hours,
  )
  return cost


def _shapes(joint, source, batch_size):
  """Shapes of every party's embedding and variables, from a step's trace.

  Raises:
    InputError: a model that the protocol cannot train.
  """
  key, index = jax.random.key(0), np.zeros(batch_size, np.int64)
  batch = batch_of(source, joint.split, index, np.ones(batch_size, np.float32))
  state = jax.eval_shape(joint.protocol.init, key, batch.xs)
  _, (views, _) = jax.eval_shape(joint.protocol.step, state, batch)
  return [view.h for view in views], state.variables


def facts(
  config: ConfigDict,
  source: data.Source,
  batch_size: int,
  accuracy: Optional[float] = None,
) -> dict:
  """Row fields that all attacks of a point share."""
  model = sweep.describe(config.model)
  full, _ = grants.chain(config.defense)
  return dict(
    setting=dict(
      data=config.stands_for.data or source.name,
      model=config.stands_for.model or model,
      top=sweep.describe(config.top) if config.top else 'sum',
      split=sweep.describe(config.split),
      attacker=config.attacker,
      num_classes=source.num_classes,
      batch_size=batch_size,
      draw=config.draw,
      step=config.train.steps,
      trained=trained(config),
      accuracy=accuracy,
      aggregate=sweep.describe(config.aggregate),
      defense=full,
      code=grants.chain(config.code)[0],
      penalty=sweep.describe(config.penalty) if config.penalty else 'none',
      **_privacy(config, len(source.y)),
    ),
    data=source.name,
    model=model,
    defense=_defenses(config),
    trials=config.trials,
  )


def _privacy(config, rows):
  """Epsilon of a clipped and noised link over the training, at delta `_DELTA`.

  Each row's gradient is sent once an epoch. What else the labels reach, the
  active party's own model, is not counted; see `defenses.accounting`.
  """
  release = accounting.release(config.defense)
  if not release or not trained(config):
    return {}
  steps_per_epoch = -(-rows // config.train.batch_size)
  epochs = -(-config.train.steps // steps_per_epoch)
  spent = accounting.epsilon(*release, steps=epochs, delta=_DELTA)
  return dict(epsilon=float(f'{spent:.3g}')) if np.isfinite(spent) else {}


def _defenses(config):
  """Names of all that defends, a bottleneck at the top included."""
  links = [*config.code, *config.defense]
  if config.penalty:
    links.append(config.penalty)
  if config.top and config.top['name'].startswith('bottleneck.'):
    links.append(config.top)
  return grants.chain(links)[1]
