"""Vertical FL: the labels of one batch from what a passive party sees."""

from collections.abc import Callable
import functools

import chex
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from labelleak import attacks, metrics, sweep, vfl
from labelleak.base import InputError, Labelled
from labelleak.experiments import grants
from labelleak.experiments.vfl import fitting, joint

GRANTS = ('bottom', 'step', 'labelled')


def experiment(*, config: ConfigDict) -> Callable:
  """One training step of P parties, and every attack on the same view.

  Untrained, each trial has its own initialisation, rows and classes; after
  `train.steps` steps all trials attack the one trained model, on rows of its
  training data. The key is split by role.

  Args:
    config: fields as in `configs/common.py: vfl`.

  Returns:
    measure(progress) -> results; see `labelleak.experiments`.

  Raises:
    InputError: anything in the config that cannot run. The whole trial is
      traced once, so that an attack that lacks a grant is found here, too.
  """
  config = config.copy_and_resolve_references()
  source = joint.source(config)
  part, _ = joint.attacked(config, source, 0)
  model = joint.build(config, part)
  specs = grants.specs(
    config, GRANTS, links=config.defense, baseline='scores.random'
  )
  size, steps = config.train.batch_size, config.train.steps
  joint.check_cost(config, model, part, config.batch_size, config.trials)
  joint.check_cost(config, model, part, size, steps)
  if joint.trained(config):
    tested = joint.source(config, config.train.tested)
  attack = scorer(config, model, specs, part.num_classes)

  def trial(key, batch, state):
    init_key, attack_key = jax.random.split(key)
    state = state or model.protocol.init(init_key, batch.xs)
    return scored(attack(attack_key, batch, state), batch.y)

  draw = functools.partial(joint.batches, config, source, model.split)
  key = jax.random.key(config.seed)
  first = jax.tree.map(lambda a: a[0], draw(np.arange(1)))
  state = jax.eval_shape(model.protocol.init, key, first.xs)
  given = ()
  if joint.trained(config):
    given = jax.eval_shape(
      lambda: fitting.start(config, model, source, config.seed)
    )
    _check_links(config, given, state)
  jax.eval_shape(trial, key, first, given)

  def measure(progress):
    state, accuracy = (), None
    if joint.trained(config):
      state = fitting.fit(config, model, source, config.seed)
      accuracy = round(joint.accuracy(model, state, tested), 4)
    trial_key = jax.random.split(key)[1]
    keys = sweep.trial_keys(trial_key, config.trials)
    values = sweep.spread(
      trial,
      keys,
      draw,
      state,
      per_device=config.per_device,
      finished=progress.finished,
      callback=progress,
    )
    facts = joint.facts(config, part, config.batch_size, accuracy)
    return results(config, specs, facts, part.num_classes, values)

  return measure


def results(
  config: ConfigDict,
  specs: list,
  facts: dict,
  num_classes: int,
  values: list,
  **measured: np.ndarray,
) -> list[dict]:
  """What an experiment returns for each attack; `measured` [T] goes to all."""
  return [
    dict(
      grants.identity(config, spec),
      **facts,
      matrix=_mean(value['matrix']).round(4).tolist(),
      values=dict(
        {name: value[name] for name in _metrics(num_classes)}, **measured
      ),
    )
    for spec, value in zip(specs, values)
  ]


def scorer(
  config: ConfigDict, model: joint.Joint, specs: list, num_classes: int
) -> Callable:
  """(key, batch, state) -> scores [B, K] of each attack on the next step."""
  loaded = [attacks.load(spec['name'], **grants.hyper(spec)) for spec in specs]
  for spec, attack in zip(specs, loaded):
    grants.check(config, spec, attack)
  bottom = vfl.bottom(model.parties[config.attacker])

  @jax.default_matmul_precision('highest')
  def scores(key, batch, state):
    _, (views, _) = model.protocol.step(state, batch)
    view = views[config.attacker]
    given = dict(
      bottom=bottom, step=state.count, labelled=_labelled(config, batch)
    )
    known = [
      vfl.Known(
        num_classes=num_classes,
        batch_size=config.batch_size,
        **grants.granted(config, spec, given),
      )
      for spec in specs
    ]
    return [a.infer(key, view, own) for a, own in zip(loaded, known)]

  return scores


def scored(scores: list, y: chex.Array) -> list[dict]:
  """Metrics of each attack; truth meets the scores here."""
  names = _metrics(y.shape[-1])
  return [
    dict(
      {name: getattr(metrics, name)(each, y) for name in names},
      matrix=metrics.label_matrix(each, y),
    )
    for each in scores
  ]


def _check_links(config, trained, attacked):
  """Refuses a defense whose state, by batch position, fits no other batch."""
  shapes = lambda state: [a.shape for a in jax.tree.leaves(state.link_states)]
  if shapes(trained) != shapes(attacked):
    raise InputError(
      f'batch_size={config.batch_size}, but the defense keeps something for'
      f' each row of the training batch; set it to {config.train.batch_size}.'
    )


def _metrics(num_classes):
  """Names of what is measured, the one that papers report first."""
  names = ['label_accuracy', 'permuted_label_accuracy']
  names += ['top5_accuracy'] if num_classes > 5 else []
  return names + (['auc'] if num_classes == 2 else [])


def _mean(matrices):
  """Mean over trials [T, K, K] -> [K, K]; a class counts where it occurs."""
  present = matrices.any(-1).sum(0)
  return matrices.sum(0) / np.maximum(present, 1)[:, None]


def _labelled(config, batch):
  """Rows of this batch whose labels the attacker holds, some of each class."""
  if config.aux.per_class < 1:
    raise InputError(
      f'aux.per_class={config.aux.per_class} must be at least 1; raise it.'
    )
  most = jnp.argsort(-batch.y, axis=0, stable=True)
  index = most[: config.aux.per_class].T.reshape(-1)
  return Labelled(batch.xs[config.attacker][index], batch.y[index])
