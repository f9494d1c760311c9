"""Vertical FL: passive parties that change what is learnt, not only look.

Backdoors and relabelling (`attacks.replacement`): each attack of each trial is
a training of its own, beside one that is not attacked.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from labelleak import attacks, data, metrics, registry, sweep
from labelleak.attacks.backdoor import Notes
from labelleak.base import InputError
from labelleak.data import poison, triggers
from labelleak.experiments import grants
from labelleak.experiments.vfl import batch_inference as attacked
from labelleak.experiments.vfl import fitting, inferred, joint

_CLEAN = 'none'  # the attack of a training that nobody attacks
_SHOWN = 4  # examples in a row


class Trial(NamedTuple):
  """One target class, rows to poison, and a seed for all else."""

  seed: int
  target: int
  poison: poison.Poison
  extra: int  # rows appended to a batch


class World(NamedTuple):
  """What the trainings of a point share."""

  config: ConfigDict
  source: data.Source
  tested: data.Source
  trigger: triggers.Trigger
  bearers: np.ndarray  # [N] of `tested`, rows whose triggered form is tested


def experiment(*, config: ConfigDict) -> Callable:
  """Trains the joint model under each attack, and once without.

  A trial has a seed, `seed` + t, that all its trainings share, and a target
  class: `poison.target`, or t modulo K where that is None. `poison` also holds
  the `attackers`, which collude, each on its own link; the `count` of rows that
  bear the `trigger`, the number of `targets`, rows of the target class that
  they know, and the `form` of a batch (see `data.poison`). With an `inference`,
  an attack that finds labels, they first watch an epoch of another training and
  know the poisoned rows' labels as far as it finds them.

  Args:
    config: fields as in `configs/common.py: vfl`, with `poisoned`.

  Returns:
    measure(progress) -> results; see `labelleak.experiments`. Values, all after
    the last step: `backdoor_rate` of triggered test rows, of other classes than
    the target; the published `backdoor_count`; `main_accuracy` on test rows
    without trigger; `norm_shift`, by how many deviations the trigger moves the
    norm of the attackers' embeddings, on average; and, with an inference,
    `label_accuracy` on the poisoned rows.

  Raises:
    InputError: anything in the config that cannot run; a trigger in an honest
      party's part, tampering that a sealed link does not allow, no training.
  """
  config = config.copy_and_resolve_references()
  if not joint.trained(config):
    raise InputError(
      f'train.steps={config.train.steps} trains nothing; raise it.'
    )
  world = _world(config)
  specs = grants.specs(
    config, attacked.GRANTS, links=config.defense, baseline=_CLEAN
  )
  joints = [_joint(world, spec) for spec in specs]
  trials = [_draw(world, t) for t in range(config.trials)]
  widest = max(trial.extra for trial in trials)  # one shape, one compilation
  trials = [trial._replace(extra=widest) for trial in trials]
  _check_trigger(world, joints[0])
  size = config.train.batch_size + widest
  steps = config.trials * len(specs) * config.train.steps
  joint.check_cost(config, joints[0], world.source, size, steps)
  observe = inferred.observer(config, joints[-1], world.source)
  unknown = np.full(len(world.source.y), -1)
  for spec, model in zip(specs, joints):
    _trace(world, spec, model, trials[0], unknown)

  def measure(progress):
    values, shown = [], None
    for trial in trials:
      labels, known = unknown, {}
      if observe:
        rows, y = trial.poison.rows, world.source.y
        labels = inferred.labels(
          config, joints[-1], world.source, observe, rows, trial.seed
        )
        known = dict(label_accuracy=float((labels[rows] == y[rows]).mean()))
      for i, (spec, model) in enumerate(zip(specs, joints)):
        batches = _batches(world, spec, model, trial, labels)
        state = fitting.fit(
          config,
          model,
          world.source,
          trial.seed,
          batches=batches,
          name=f'{sweep.describe(spec)} of {trial.target}' if batches else '',
        )
        values.append((i, _judge(world, model, state, trial) | known))
        if shown is None:
          shown = _examples(world, model, state, trial)
      progress(1)
    return [
      _result(world, spec, [v for i, v in values if i == place], trials)
      | (dict(examples=shown) if place == 0 and shown else {})
      for place, spec in enumerate(specs)
    ]

  return measure


def _world(config):
  source = joint.source(config)
  tested = joint.source(config, config.train.tested)
  trigger = registry.load(
    'data', shape=source.shape, **config.trigger.to_dict()
  )
  bearers = triggers.bearers(tested, trigger)
  return World(config, source, tested, trigger, bearers)


def _joint(world, spec):
  """The joint model under an attack."""
  name, attackers = spec['name'], tuple(world.config.poison.attackers)
  if name == _CLEAN:
    return joint.build(world.config, world.source)
  attack = attacks.load(name, **grants.hyper(spec))
  if not (attackers and (attack.send or attack.tamper)):
    raise InputError(
      f'{name} with poison.attackers={attackers} changes no message; name an'
      ' attack such as replacement.backdoor, and one party at least.'
    )
  return joint.build(world.config, world.source, attack, attackers)


def _draw(world, t):
  """The trial `t`."""
  config, source = world.config, world.source
  options = config.poison.to_dict()
  target, most = options.pop('target'), source.num_classes
  target = t % most if target is None else target
  if not 0 <= target < most:
    raise InputError(
      f'poison.target={target} must be a class, 0..{most - 1}, or None.'
    )
  del options['attackers'], options['inference']
  seed = config.seed + t
  bearers = world.trigger.detect and triggers.bearers(source, world.trigger)
  chosen = poison.choose(
    source.y, target, **options, seed=seed, bearers=bearers
  )
  order = seed if config.train.shuffle else None
  extra = poison.num_appended(
    chosen, config.train.batch_size, config.train.steps, seed=order
  )
  return Trial(seed, target, chosen, extra)


def _batches(world, spec, model, trial, labels):
  """Numbers of steps to their poisoned batches; None of a clean training."""
  if spec['name'] == _CLEAN:
    return None
  config = world.config
  source = triggers.mark(world.source, world.trigger, trial.poison.rows)
  order = trial.seed if config.train.shuffle else None

  def batches(numbers):
    plan = poison.batches(
      trial.poison, config.train.batch_size, numbers, trial.extra, seed=order
    )
    notes = Notes(
      pairs=plan.pairs,
      inferred=np.where(plan.mask > 0, labels[plan.index], -1),
      target=np.full(len(numbers), trial.target),
    )
    batch = joint.batch_of(source, model.split, plan.index, plan.mask)
    return batch._replace(notes=notes)

  return batches


def _trace(world, spec, model, trial, labels):
  """Finds what cannot run before anything does."""
  batches = _batches(world, spec, model, trial, labels)
  if not batches:
    return
  batch = jax.tree.map(lambda a: a[0], batches(np.arange(1) + 1))
  state = jax.eval_shape(model.protocol.init, jax.random.key(0), batch.xs)
  jax.eval_shape(model.protocol.step, state, batch)


def _check_trigger(world, model):
  """Refuses a trigger in what an honest party holds."""
  unset = np.full((1, *world.source.shape), np.nan, np.float32)
  parts = model.split(world.trigger.place(unset))
  attackers = set(world.config.poison.attackers)
  for p, part in enumerate(parts):
    if p not in attackers and not np.isnan(part).all():
      raise InputError(
        f'the trigger reaches into the part of party {p}, which is none of'
        f' poison.attackers={tuple(sorted(attackers))}; move it or add the'
        ' party.'
      )


def _judge(world, model, state, trial):
  """Metrics of a model at the end."""
  tested = world.tested
  rows = np.flatnonzero(world.bearers)
  marked = triggers.mark(tested, world.trigger, rows)
  y = np.eye(tested.num_classes, dtype=np.float32)[tested.y[rows]]
  p = joint.on_rows(model, model.protocol.predict, state, marked)[rows]
  plain, moved = (_norms(world, model, state, s) for s in (tested, marked))
  without = ~world.bearers if world.trigger.detect else world.bearers
  shift = moved[rows].mean() - plain[without].mean()
  return dict(
    backdoor_rate=float(metrics.backdoor_rate(p, y, trial.target)),
    backdoor_count=float(metrics.backdoor_count(p, y, trial.target)),
    main_accuracy=joint.accuracy(model, state, tested),
    norm_shift=float(shift / plain[without].std()),
  )


def _norms(world, model, state, source):
  """Norms of what the attackers send of each row together, [N]."""
  attackers = tuple(world.config.poison.attackers)
  return joint.on_rows(model, _norm(model, attackers), state, source)


@functools.lru_cache(maxsize=16)  # one function, one compilation
def _norm(model, attackers):
  """(state, xs) -> [B]."""

  def norm(state, xs):
    hs = [
      model.parties[p].apply(state.variables[p], xs[p], train=False, key=None)
      for p in attackers
    ]
    return jnp.linalg.norm(jnp.concatenate([h for h, _ in hs], -1), axis=-1)

  return norm


def _examples(world, model, state, trial):
  """Test images without and with the trigger, and what they are taken for."""
  tested = world.tested
  if len(tested.shape) != 3 or world.trigger.detect:
    return None
  rows = np.flatnonzero(tested.y != trial.target)[:_SHOWN]
  plain = tested.take(rows)
  pictures = dict(plain=plain, triggered=world.trigger.place(plain))
  predict = jax.jit(model.protocol.predict)
  return dict(
    label=tested.y[rows].tolist(),
    target=trial.target,
    **{k: np.round(x, 3).tolist() for k, x in pictures.items()},
    taken_for={
      k: np.asarray(predict(state, model.split(x))).argmax(-1).tolist()
      for k, x in pictures.items()
    },
  )


def _result(world, spec, values, trials):
  """What an experiment returns for one attack."""
  config = world.config
  facts = joint.facts(config, world.source, config.train.batch_size)
  facts['setting'].update(
    trigger=sweep.describe(config.trigger),
    poison=sweep.describe(config.poison),
  )
  return dict(
    grants.identity(config, spec),
    **facts,
    per_trial=[
      dict(target=trial.target, **{k: round(v, 4) for k, v in value.items()})
      for trial, value in zip(trials, values)
    ],
    values={k: np.array([v[k] for v in values]) for k in values[0]},
  )
