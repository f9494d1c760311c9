"""Vertical FL: passive parties that change what is learnt, not only look.

Backdoors and relabelling (`attacks.backdoor`): each attack of each trial is
a training of its own, beside one that is not attacked.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple, Optional

import jax
import jax.numpy as jnp
import numpy as np

from labelleak import metrics, registry, spec, sweep, validate, vfl
from labelleak.attacks.backdoor import Notes
from labelleak.base import InputError
from labelleak.data import batches as data_batches
from labelleak.data import poison, triggers
from labelleak.experiments import Measure, fields, grants
from labelleak.experiments.result import NO_ATTACK, Result, Setting
from labelleak.experiments.vfl import observation
from labelleak.experiments.vfl.build import build
from labelleak.experiments.vfl.joint import Joint
from labelleak.spec import Spec

_SHOWN = 4  # examples in a row


class Trial(NamedTuple):
  """One target class, rows to poison, and a seed for all else."""

  seed: int  # of the trainings
  target: int  # class
  # rows that bear the trigger, and those of the target class
  poison: poison.Poison
  appended: int  # rows of a batch, beside its own


class World(NamedTuple):
  """What the trainings of a point share."""

  # (tampering=, attackers=) -> the joint model under an attack
  build: Callable[..., Joint]
  joint: Joint  # the joint model that nobody attacks
  trigger: triggers.Trigger  # what opens the backdoor
  bearers: np.ndarray  # [N] test rows whose triggered form is tested
  attackers: tuple[int, ...]  # parties that collude
  setting: Setting  # identifies the point


def experiment(*, config: fields.Backdoor) -> Measure:
  """Prepares trainings of the joint model under each attack, and without one.

  A trial has a seed, `seed` + t, that all its trainings share, and a target
  class: `poison.target`, or t modulo K where that is None. `poison` also holds
  the `attackers`, which collude, each on its own link; the `count` of rows that
  bear the `trigger`, the number of `targets`, rows of the target class that
  they know, and the `form` of a batch (see `data.poison`). With an `inference`,
  an attack that finds labels, they first watch an epoch of another training and
  know the poisoned rows' labels as far as it finds them.

  Values, all after the last step: `backdoor_rate` of triggered test rows, of
  other classes than the target; the published `backdoor_count`; `main_accuracy`
  on test rows without trigger; `norm_shift`, by how many deviations the trigger
  moves the norm of the attackers' embeddings, on average; and, with an
  inference, `label_accuracy` on the poisoned rows.

  Args:
    config: fields as in `configs/common.py: vfl`, with `backdoor`.

  Raises:
    InputError: anything in the config that cannot run; a trigger in an honest
      party's part, tampering that a sealed link does not allow, no training.
  """
  trigger, options = config.trigger.to_dict(), config.poison.to_dict()
  world = _world(functools.partial(build, config), trigger, options)
  specs = _specs(config.attacks)
  joints = [_joint(world, entry) for entry in specs]
  seeds = range(config.seed, config.seed + config.trials)
  trials = _draw(world, seeds, **options)
  _check_trigger(world)
  training = world.joint.training
  observe = observation.observer(
    world.joint,
    options['inference'],
    config.known,
    per_class=config.aux.per_class,
  )
  size, watched = training.batch_size, observation.num_steps(world.joint)
  world.joint.check_cost(
    (size + trials[0].appended, config.trials * len(specs) * training.steps),
    (size, config.trials * watched if observe else 0),
  )
  unknown = np.full(len(world.joint.source.y), -1)
  for entry, joint in zip(specs, joints):
    _trace(world, entry, joint, trials[0], unknown)

  def measure(progress):
    def run(t):
      trial, labels, known = trials[t], unknown, {}
      if observe:
        rows, y = trial.poison.rows, world.joint.source.y
        labels = observation.infer_labels(
          world.joint, observe, rows, trial.seed
        )
        known = dict(label_accuracy=float((labels[rows] == y[rows]).mean()))
      values, examples = [], {}
      for entry, joint in zip(specs, joints):
        state = _fit(world, entry, joint, trial, labels, progress.checkpoints)
        values.append(_judge(world, joint, state, trial) | known)
        if not t:
          examples = examples or _examples(world, joint, state, trial)
      return values, examples

    judged = sweep.map_trials(
      run, len(trials), finished=progress.finished, callback=progress
    )
    values = zip(*(each for each, _ in judged))
    results = [
      _result(world, entry, own, trials) for entry, own in zip(specs, values)
    ]
    examples = judged[0][1]
    shown = dict(examples=examples) if examples else {}
    first = results[0]._replace(details=dict(results[0].details, **shown))
    return [first, *results[1:]]

  return measure


def _world(build, trigger, options) -> World:
  """Returns what all trainings share."""
  joint = build()
  joint.check_training()
  facts = dict(trigger=spec.plain(trigger), poison=spec.plain(options))
  trigger = registry.build('data', trigger, shape=joint.source.shape)
  setting = joint.setting._replace(
    batch_size=joint.training.batch_size,
    extra=dict(joint.setting.extra, **facts),
  )
  return World(
    build=build,
    joint=joint,
    trigger=trigger,
    bearers=triggers.bearers(joint.tested, trigger),
    attackers=tuple(options['attackers']),
    setting=setting,
  )


def _specs(entries) -> list[Spec]:
  """Returns the attacks of a config, a training without one among them."""
  for entry in entries:
    if not isinstance(entry, dict) or 'name' not in entry:
      raise InputError(
        f'{entry!r} is no attack; write dicts with a name, such as'
        " {'name': 'backdoor.backdoor'}."
      )
  specs = [dict(entry) for entry in entries]
  clean = any(entry['name'] == NO_ATTACK['name'] for entry in specs)
  return specs if clean else [*specs, NO_ATTACK]


def _joint(world, entry) -> Joint:
  """Returns the joint model under an attack."""
  if entry == NO_ATTACK:
    return world.joint
  attack = grants.load_attack(entry, 'vertical')
  changes = [getattr(attack, part, None) for part in ('send', 'tamper')]
  if not (world.attackers and any(changes)):
    raise InputError(
      f'{entry["name"]} with poison.attackers={world.attackers} changes no'
      ' message; name an attack such as backdoor.backdoor, and one party at'
      ' least.'
    )
  return world.build(tampering=attack, attackers=world.attackers)


def _draw(
  world, seeds, *, target, attackers, inference, **options
) -> list[Trial]:
  """Returns the trials, their batches of one width: one compilation."""
  del attackers, inference
  source, training = world.joint.source, world.joint.training
  most = source.num_classes
  if target is not None:
    validate.whole('poison.target', target, 0, most - 1, 'it is a class')
  bearers = None  # any row can bear the trigger
  if world.trigger.detect:
    bearers = triggers.bearers(source, world.trigger)
  trials = []
  for t, seed in enumerate(seeds):
    own = t % most if target is None else target
    chosen = poison.choose(source.y, own, **options, seed=seed, bearers=bearers)
    appended = poison.num_appended(
      chosen,
      training.batch_size,
      training.steps,
      seed=seed if training.shuffle else None,
    )
    trials.append(Trial(seed, own, chosen, appended))
  widest = max(trial.appended for trial in trials)
  return [trial._replace(appended=widest) for trial in trials]


def _batches(world, entry, joint, trial, labels) -> Optional[vfl.Batches]:
  """Returns the poisoned batches of steps; None of a clean training."""
  if entry == NO_ATTACK:
    return None
  training = joint.training
  source = triggers.mark(joint.source, world.trigger, trial.poison.rows)
  order = trial.seed if training.shuffle else None

  def batches(numbers):
    plan = poison.batches(
      trial.poison, training.batch_size, numbers, trial.appended, seed=order
    )
    notes = Notes(
      pairs=plan.pairs,
      inferred=np.where(plan.mask > 0, labels[plan.index], -1),
      target=np.full(len(numbers), trial.target),
    )
    batch = data_batches.batch(source, joint.split, plan.index, plan.mask)
    return batch._replace(notes=notes)

  return batches


def _fit(world, entry, joint, trial, labels, workdir) -> vfl.State:
  """Returns the joint model after a training under an attack."""
  batches = _batches(world, entry, joint, trial, labels)
  name = f'{spec.describe(entry)} of {trial.target}' if batches else ''
  return joint.fit(trial.seed, batches=batches, name=name, workdir=workdir)


def _trace(world, entry, joint, trial, labels):
  """Finds what cannot run before anything does."""
  batches = _batches(world, entry, joint, trial, labels)
  if not batches:
    return
  batch = jax.tree.map(lambda a: a[0], batches(np.arange(1) + 1))
  state = jax.eval_shape(joint.protocol.init, sweep.key(0, 'trace'), batch.xs)
  jax.eval_shape(joint.protocol.step, state, batch)


def _check_trigger(world):
  """Refuses a trigger in what an honest party holds."""
  unset = np.full((1, *world.joint.source.shape), np.nan, np.float32)
  parts = world.joint.split(world.trigger.place(unset))
  for p, part in enumerate(parts):
    if p not in world.attackers and not np.isnan(part).all():
      raise InputError(
        f'the trigger reaches into the part of party {p}, which is none of'
        f' poison.attackers={world.attackers}; move it or add the party.'
      )


def _judge(world, joint, state, trial) -> dict[str, float]:
  """Returns metrics of a model at the end; truth meets it here."""
  tested = joint.tested
  rows = np.flatnonzero(world.bearers)
  marked = triggers.mark(tested, world.trigger, rows)
  y = np.eye(tested.num_classes, dtype=np.float32)[tested.y[rows]]
  p = joint.score(joint.protocol.predict, state, marked)[rows]
  norm = _norm(joint.parties, world.attackers)
  plain, moved = (joint.score(norm, state, s) for s in (tested, marked))
  without = ~world.bearers if world.trigger.detect else world.bearers
  shift = moved[rows].mean() - plain[without].mean()
  return dict(
    backdoor_rate=float(metrics.backdoor_rate(p, y, trial.target)),
    backdoor_count=float(metrics.backdoor_count(p, y, trial.target)),
    main_accuracy=joint.accuracy(state),
    norm_shift=float(shift / plain[without].std()),
  )


@functools.lru_cache(maxsize=16)  # one function, one compilation
def _norm(parties, attackers):
  """Returns (state, xs) -> norms [B] of what the attackers send together."""

  def norm(state, xs):
    hs = [
      parties[p].apply(state.variables[p], xs[p], train=False, key=None)
      for p in attackers
    ]
    return jnp.linalg.norm(jnp.concatenate([h for h, _ in hs], -1), axis=-1)

  return norm


def _examples(world, joint, state, trial) -> dict[str, Any]:
  """Returns test images with and without trigger, and what they pass for."""
  tested = joint.tested
  if len(tested.shape) != 3 or world.trigger.detect:
    return {}
  rows = np.flatnonzero(tested.y != trial.target)[:_SHOWN]
  plain = tested.take(rows)
  images = dict(plain=plain, triggered=world.trigger.place(plain))
  predict = jax.jit(joint.protocol.predict)
  return dict(
    label=tested.y[rows].tolist(),
    target=trial.target,
    **{k: np.round(x, 3).tolist() for k, x in images.items()},
    taken_for={
      k: np.asarray(predict(state, joint.split(x))).argmax(-1).tolist()
      for k, x in images.items()
    },
  )


def _result(world, entry, values, trials) -> Result:
  """Returns the result of one attack."""
  return Result(
    {k: v for k, v in entry.items() if k != 'known'},
    (),
    world.setting,
    values={k: np.array([v[k] for v in values]) for k in values[0]},
    details=dict(
      per_trial=[
        dict(target=trial.target, **{k: round(v, 4) for k, v in value.items()})
        for trial, value in zip(trials, values)
      ]
    ),
  )
