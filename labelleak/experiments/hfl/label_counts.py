"""Horizontal FL: label counts of a client's batch from what the server sees."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

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
  registry,
  sweep,
  train,
)
from labelleak.base import InputError
from labelleak.experiments import grants, inputs
from labelleak.experiments.hfl import main_task
from labelleak.models import weights

GRANTS = ('lr', 'steps', 'clients', 'defense', 'apply', 'x', 'y')
METRICS = (
  'count_accuracy',
  'presence_precision',
  'presence_recall',
  'count_error',
)
_NOISE = ('gaussian', 'laplace')


class Scoring(NamedTuple):
  """What an experiment is after; attacks run on the same views for each."""

  baseline: str  # attack that guesses
  # (found, batches [C, B, ...], known, shared) -> metric -> [], in a trial
  score: Callable
  metrics: Callable  # clients -> names of the metrics, that of papers first
  shared: Any = ()  # arrays that `score` reads
  # (spec, known, batches) -> known, of rows that are no attack: upper bounds
  grant: Callable = lambda spec, known, batches: known


def experiment(*, config: ConfigDict) -> Callable:
  """One client's round (or C clients') and every attack on its label counts.

  Args:
    config: fields as in `configs/common.py: hfl`.

  Returns:
    measure(progress) -> results; see `labelleak.experiments`.

  Raises:
    InputError: as `observed`.
  """
  return observed(config, COUNTING)


def observed(config: ConfigDict, scoring: Scoring) -> Callable:
  """One client's round (or C clients') and every attack on the same view.

  The key is split by role. Batches depend on (seed, trial) alone; all trials
  share one initialisation, as in the published runs.

  Args:
    config: fields as in `configs/common.py: hfl`.
    scoring: what the attacks are after.

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
  specs = grants.specs(
    config, GRANTS, links=_links(config), baseline=scoring.baseline
  )
  granted = {field for spec in specs for field in grants.grant(config, spec)}
  aux, rows = {}, np.arange(len(source.y))
  if granted & {'x', 'y'}:
    aux, rows = inputs.auxiliary(config, source)
  trial = jax.jit(_trial(config, model, source, specs, scoring))
  draw = functools.partial(inputs.batches, config, source, rows)
  example = jnp.zeros((1, *source.shape))
  init = base.jit_once(lambda key: model.init(key, example))
  key = jax.random.key(config.seed)
  variables = _abstract(init, key, config, source)
  first = jax.tree.map(lambda a: a[0], draw(np.arange(1)))
  jax.eval_shape(trial, key, first, (variables, aux, scoring.shared))
  if config.weights:
    weights.load(config.weights, variables)
  if config.train:
    dry = functools.partial(_trained, config, model, steps=0, progress=False)
    jax.eval_shape(dry, variables)
  main_task.validate(config, _links(config))

  def measure(progress):
    init_key, trial_key = jax.random.split(key)
    variables, accuracy = _fitted(config, source, model, init(init_key))
    keys = sweep.trial_keys(trial_key, config.trials)
    values = sweep.spread(
      trial,
      keys,
      draw,
      (variables, aux, scoring.shared),
      per_device=config.per_device,
      finished=progress.finished,
      callback=progress,
    )
    facts = _facts(config, source, accuracy)
    names = scoring.metrics(config.clients)
    learned = main_task.accuracy(config, _links(config))
    return [
      dict(
        grants.identity(config, spec),
        **facts,
        values={m: v[m] for m in names} | learned,
        arrays={m: v[m] for m in v.keys() - set(names)},
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


def _trial(config, model, source, specs, scoring):
  """(key, batches [C, B, ...], shared) -> what each attack scored."""
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
  aggregate = registry.load('he', **config.aggregate.to_dict())
  infers = [
    attacks.load(spec['name'], **grants.hyper(spec)).infer for spec in specs
  ]

  def trial(key, batches, shared):
    variables, aux, more = shared
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
    given = dict(
      steps=config.local_steps,
      clients=config.clients,
      lr=config.lr,
      defense=_strengths(config),
      apply=apply,
      shape=source.shape,
      box=source.pixel_range,
      **aux,
    )
    results = []
    for spec, infer in zip(specs, infers):
      known = grants.known(config, spec, source.num_classes, given)
      known = scoring.grant(spec, known, batches)
      found = infer(attack_key, view, known)
      results.append(scoring.score(found, batches, known, more))
    return results

  return trial


def _scored(counts, truth):
  """Metrics of counts [K] against those of each client, [C, K]."""
  found = {m: getattr(metrics, m)(counts, truth.sum(0)) for m in METRICS}
  if len(truth) > 1:
    # A client's labels by the clients' mean, which is all that was revealed;
    # shares are what rounding them at random gives in expectation.
    share = counts / len(truth)
    own = jax.vmap(metrics.count_accuracy, (None, 0))(share, truth)
    found['client_accuracy'] = own.mean()
  return found


def _score(counts, batches, known, shared):
  del known, shared
  return _scored(counts, batches.y.sum(1).astype(jnp.int32))


def _metrics(clients):
  return METRICS + (('client_accuracy',) if clients > 1 else ())


COUNTING = Scoring('counts.random', _score, _metrics)


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
  """Variables after `config.train`, under the defenses where it is `defended`.

  A defense is part of the training's own state: it starts anew with it.
  """
  options = dict(split='train', seed=config.seed) | dict(config.train)
  main_task.check('train', options)
  options |= override
  source = inputs.source(config, options.pop('split'))
  if options.pop('defended', False):
    options['defense'] = defenses.build(_links(config))
  return train.classifier(model, source, variables=variables, **options)


def _links(config):
  """All that a client does to a gradient, in order."""
  return (*config.step_defense, *config.defense)


def _facts(config, source, accuracy):
  """Row fields that all attacks of a point share."""
  model = sweep.describe(config.model)
  full, names = grants.chain(_links(config))
  return dict(
    setting=dict(
      data=config.stands_for.data or source.name,
      model=config.stands_for.model or model,
      num_classes=source.num_classes,
      batch_size=config.batch_size,
      local_steps=config.local_steps,
      clients=config.clients,
      queries=config.queries if config.queries > 1 else None,
      partition=config.partition,
      main_task=main_task.describe(config),
      trained=bool(config.train or config.weights),
      accuracy=accuracy,
      defense=full,
      **main_task.privacy(config, _links(config)),
    ),
    data=source.name,
    model=model,
    defense=names,
    trials=config.trials,
  )


def _strengths(config):
  """(name, strength) of each transform that has one number, as in `Known`.

  Noise is that of a local step which leaves as much on the view: noise on the
  update of S steps counts 1/sqrt(S), and averaging Q queries takes 1/sqrt(Q).
  """
  strengths = {}
  places = (config.step_defense, 1), (config.defense, config.local_steps)
  for links, steps in places:
    for link in links:
      numbers = [v for k, v in link.items() if k != 'name']
      name, strength = link['name'], numbers[0] if numbers else None
      if name in _NOISE:
        strength /= (steps * config.queries) ** 0.5
        strength = float(np.hypot(strength, strengths.get(name, 0.0)))
      strengths[name] = strength
  return tuple(strengths.items())
