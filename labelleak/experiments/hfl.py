"""Horizontal FL: label counts of a client's batch from what the server sees."""

from collections.abc import Callable
import functools
import json

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from labelleak import (
  attacks,
  base,
  data,
  defenses,
  hfl,
  metrics,
  models,
  sweep,
  train,
)
from labelleak.base import Batch, InputError, Known
from labelleak.data import plans
from labelleak.models import weights

# What `config.known` and an attack's own `known` may grant; the class count and
# the batch size always are.
GRANTS = ('lr', 'steps', 'clients', 'defense', 'apply', 'x', 'y')
METRICS = (
  'count_accuracy',
  'presence_precision',
  'presence_recall',
  'count_error',
)


def experiment(*, config: ConfigDict) -> Callable:
  """One client's round (or C clients') and every attack on the same view.

  The key is split by role. Batches depend on (seed, trial) alone; all trials
  share one initialisation, as in the published runs.

  Args:
    config: fields as in `configs/common.py: hfl`.

  Returns:
    measure(progress) -> results; see `labelleak.experiments`.

  Raises:
    InputError: anything in the config that cannot run. The whole trial is
      traced once, so that an attack that lacks a grant is found here, too.
  """
  config = config.copy_and_resolve_references()
  for field in ('clients', 'queries', 'per_device'):
    if config[field] is not None and config[field] < 1:
      raise InputError(f'{field}={config[field]} must be at least 1; raise it.')
  source = _source(config)
  model = models.load(num_classes=source.num_classes, **config.model.to_dict())
  specs = _attack_specs(config)
  draw = functools.partial(_draw, config, source)
  item = draw(np.arange(1))
  aux = _auxiliary(config, source, specs)
  trial = jax.jit(_trial(config, model, source, specs))
  example = jnp.zeros((1, *source.shape))
  init = jax.jit(lambda key: model.init(key, example))
  key = jax.random.key(config.seed)
  one = jax.tree.map(lambda a: a[0], item)
  variables = _abstract(init, key, config, source)
  jax.eval_shape(trial, key, one, (variables, aux))
  if config.weights:
    weights.load(config.weights, variables)
  if config.train:
    dry = functools.partial(_trained, config, model, steps=0, progress=False)
    jax.eval_shape(dry, variables)

  def measure(progress):
    init_key, trial_key = jax.random.split(key)
    variables, accuracy = _fitted(config, source, model, init(init_key))
    keys = jax.vmap(lambda t: jax.random.fold_in(trial_key, t))(
      jnp.arange(config.trials)
    )
    values = sweep.spread(
      trial,
      keys,
      draw,
      (variables, aux),
      per_device=config.per_device,
      callback=progress,
    )
    facts = _facts(config, source, accuracy)
    return [
      dict(_identity(config, spec), **facts, values={m: v[m] for m in METRICS})
      for spec, v in zip(specs, values)
    ]

  return measure


def _trial(config, model, source, specs):
  """(key, batches [C, B, ...], (variables, aux)) -> metrics of each attack."""
  apply = lambda variables, x: model.apply(variables, x)
  loss_fn = hfl.cross_entropy(apply)
  hfl.step_sizes(config.batch_size, config.local_steps)
  step_defense = defenses.build(config.step_defense)
  client = hfl.fedsgd(loss_fn)
  if config.local_steps > 1 or config.step_defense:
    client = hfl.fedavg(
      loss_fn,
      lr=config.lr,
      steps=config.local_steps,
      step_defense=step_defense,
    )
  defense = defenses.build(config.defense)
  aggregate = base.load('he', **config.aggregate.to_dict())
  infers = [attacks.load(spec['name'], **_hyper(spec)).infer for spec in specs]

  def trial(key, batches, shared):
    variables, aux = shared
    defense_key, attack_key = jax.random.split(key)
    view = hfl.observe(
      defense_key,
      client,
      variables,
      batches,
      defense=defense,
      aggregate=aggregate,
      queries=config.queries,
    )
    truth = batches.y.sum((0, 1)).astype(jnp.int32)
    results = []
    for spec, infer in zip(specs, infers):
      known = _known(config, source, apply, aux, _grant(config, spec))
      counts = infer(attack_key, view, known)
      results.append({m: getattr(metrics, m)(counts, truth) for m in METRICS})
    return results

  return trial


def _known(config, source, apply, aux, grant):
  given = dict(
    steps=config.local_steps,
    clients=config.clients,
    lr=config.lr,
    defense=_strengths(config.step_defense),
    apply=apply,
    **(aux or {}),
  )
  granted = {field: given[field] for field in grant}
  if 'apply' in grant:
    granted['shape'] = source.shape
  return Known(
    num_classes=source.num_classes, batch_size=config.batch_size, **granted
  )


def _strengths(specs):
  """(name, strength) of each transform that has one number, as in `Known`."""
  pairs = []
  for spec in specs:
    numbers = [v for k, v in spec.items() if k != 'name']
    pairs.append((spec['name'], numbers[0] if numbers else None))
  return tuple(pairs)


def _draw(config, source, index):
  """Batches of the trials `index` [n], leaves [n, C, B, ...]."""
  size, clients = config.batch_size, config.clients
  rows = np.stack(
    [
      plans.draw(
        config.seed,
        int(trial) * clients + client,
        source.y,
        source.num_classes,
        partition=config.partition,
        batch_size=size,
        per_class_cap=config.per_class_cap,
      )
      for trial in index
      for client in range(clients)
    ]
  ).reshape(len(index), clients, size)
  x = source.take(rows.reshape(-1)).reshape(*rows.shape, *source.shape)
  y = np.eye(source.num_classes, dtype=np.float32)[source.y[rows]]
  return Batch((x,), y, rows, np.ones(rows.shape, np.float32))


def _source(config, split=None):
  options = config.dataset.to_dict()
  if split:
    options['split'] = split
  return _load(json.dumps(options, sort_keys=True), config.data_dir)


@functools.lru_cache(maxsize=4)
def _load(options, data_dir):
  return data.load(**json.loads(options), data_dir=data_dir)


def _attack_specs(config):
  """Attacks of a config as plain dicts, the random baseline among them."""
  for spec in (*config.attacks, *config.defense, *config.step_defense):
    if not isinstance(spec, dict) or 'name' not in spec:
      raise InputError(
        f'{spec!r} is no attack or defense; write dicts with a name, such as'
        " {'name': 'counts.llg'}."
      )
  specs = [dict(spec) for spec in config.attacks]
  for spec in specs:
    for field in _grant(config, spec):
      if field not in GRANTS:
        raise InputError(
          f'known grants {field!r}, which is none of: {", ".join(GRANTS)}.'
        )
  if all(spec['name'] != 'counts.random' for spec in specs):
    specs.append(dict(name='counts.random'))
  return specs


def _grant(config, spec):
  return tuple(spec.get('known', config.known))


def _hyper(spec):
  return {k: v for k, v in spec.items() if k not in ('name', 'known')}


def _auxiliary(config, source, specs):
  """Labelled examples of the attacker, `per_class` first ones of each class.

  Taken from another split than the attacked one, unless `overlap`: the
  published runs take them from the attacked split itself.
  """
  if not {'x', 'y'} & {f for spec in specs for f in _grant(config, spec)}:
    return None
  aux = config.aux
  if aux.per_class < 1:
    raise InputError(f'aux.per_class={aux.per_class} must be at least 1.')
  if not aux.overlap:
    attacked = config.dataset.get('split')
    if aux.split == attacked:
      raise InputError(
        f'aux.split={aux.split!r} is the attacked split; choose another, or'
        ' set aux.overlap=True for the published setting.'
      )
    source = _source(config, aux.split)
  rows = np.concatenate(
    [
      np.flatnonzero(source.y == k)[: aux.per_class]
      for k in range(source.num_classes)
    ]
  )
  y = np.eye(source.num_classes, dtype=np.float32)[source.y[rows]]
  return dict(x=source.take(rows), y=y)


def _abstract(init, key, config, source):
  """Shapes of the model's variables on examples of this data set."""
  try:
    return jax.eval_shape(init, key)
  except InputError:
    raise
  except Exception as e:  # flax and jax raise many kinds on shapes
    reason = (str(e).splitlines() or [repr(e)])[0]
    raise InputError(
      f'model {config.model.name} does not run on {source.name}, examples of'
      f' shape {source.shape}: {reason}; choose another model or size.'
    ) from e


def _fitted(config, source, model, variables):
  """Variables to attack, and their test accuracy where they were trained."""
  if config.weights:
    variables = weights.load(config.weights, variables)
  if config.train:
    variables = _trained(config, model, variables)
  if not (config.weights or config.train):
    return variables, None
  return variables, round(train.accuracy(model, variables, source), 4)


def _trained(config, model, variables, **override):
  options = dict(split='train', seed=config.seed) | dict(config.train)
  for option in ('steps', 'batch_size', 'lr'):
    if option not in options:
      raise InputError(f'config.train lacks {option!r}; add it.')
  options |= override
  source = _source(config, options.pop('split'))
  return train.classifier(model, source, variables=variables, **options)


def _facts(config, source, accuracy):
  """Row fields that all attacks of a point share."""
  model = sweep.describe(config.model)
  links = (*config.step_defense, *config.defense)
  return dict(
    setting=dict(
      data=config.stands_for.data or source.name,
      model=config.stands_for.model or model,
      num_classes=source.num_classes,
      batch_size=config.batch_size,
      local_steps=config.local_steps,
      clients=config.clients,
      partition=config.partition,
      trained=bool(config.train or config.weights),
      accuracy=accuracy,
      defense='+'.join(sweep.describe(link) for link in links) or 'none',
    ),
    data=source.name,
    model=model,
    defense='+'.join(link['name'] for link in links) or 'none',
    trials=config.trials,
  )


def _identity(config, spec):
  """Row fields of one attack."""
  return dict(
    attack=spec['name'],
    attack_args=_hyper(spec),
    known=list(_grant(config, spec)),
  )
