"""Horizontal FL: label counts of a client's batch from what the server sees."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from labelleak import (
  attacks,
  base,
  defenses,
  hfl,
  metrics,
  models,
  sweep,
  train,
)
from labelleak.base import InputError
from labelleak.experiments import grants, inputs
from labelleak.models import weights

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
  _check(config)
  source = inputs.source(config)
  model = models.load(num_classes=source.num_classes, **config.model.to_dict())
  links = (*config.defense, *config.step_defense)
  specs = grants.specs(config, GRANTS, links=links, baseline='counts.random')
  granted = {field for spec in specs for field in grants.grant(config, spec)}
  aux, rows = {}, np.arange(len(source.y))
  if granted & {'x', 'y'}:
    aux, rows = inputs.auxiliary(config, source)
  trial = jax.jit(_trial(config, model, source, specs))
  draw = functools.partial(inputs.batches, config, source, rows)
  example = jnp.zeros((1, *source.shape))
  init = jax.jit(lambda key: model.init(key, example))
  key = jax.random.key(config.seed)
  variables = _abstract(init, key, config, source)
  first = jax.tree.map(lambda a: a[0], draw(np.arange(1)))
  jax.eval_shape(trial, key, first, (variables, aux))
  if config.weights:
    weights.load(config.weights, variables)
  if config.train:
    dry = functools.partial(_trained, config, model, steps=0, progress=False)
    jax.eval_shape(dry, variables)

  def measure(progress):
    init_key, trial_key = jax.random.split(key)
    variables, accuracy = _fitted(config, source, model, init(init_key))
    keys = sweep.trial_keys(trial_key, config.trials)
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
      dict(
        grants.identity(config, spec),
        **facts,
        values={m: v[m] for m in METRICS},
      )
      for spec, v in zip(specs, values)
    ]

  return measure


def _check(config):
  for field in ('dataset', 'model', 'aggregate'):
    if 'name' not in config[field]:
      raise InputError(f'config.{field} lacks a name; add it.')
  for field in ('clients', 'queries', 'per_device'):
    if config[field] is not None and config[field] < 1:
      raise InputError(f'{field}={config[field]} must be at least 1; raise it.')


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
  infers = [
    attacks.load(spec['name'], **grants.hyper(spec)).infer for spec in specs
  ]

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
    given = dict(
      steps=config.local_steps,
      clients=config.clients,
      lr=config.lr,
      defense=_strengths(config.step_defense),
      apply=apply,
      shape=source.shape,
      **aux,
    )
    results = []
    for spec, infer in zip(specs, infers):
      known = grants.known(config, spec, source.num_classes, given)
      counts = infer(attack_key, view, known)
      results.append({m: getattr(metrics, m)(counts, truth) for m in METRICS})
    return results

  return trial


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
  source = inputs.source(config, options.pop('split'))
  return train.classifier(model, source, variables=variables, **options)


def _facts(config, source, accuracy):
  """Row fields that all attacks of a point share."""
  model = sweep.describe(config.model)
  full, names = grants.chain((*config.step_defense, *config.defense))
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
      defense=full,
    ),
    data=source.name,
    model=model,
    defense=names,
    trials=config.trials,
  )


def _strengths(links):
  """(name, strength) of each transform that has one number, as in `Known`."""
  pairs = []
  for link in links:
    numbers = [v for k, v in link.items() if k != 'name']
    pairs.append((link['name'], numbers[0] if numbers else None))
  return tuple(pairs)
