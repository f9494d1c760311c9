"""Vertical FL: the labels of all rows, from a trained bottom and few labels."""

from collections.abc import Callable
import functools
from typing import NamedTuple, Optional

import chex
import jax
from ml_collections import ConfigDict
import numpy as np

from labelleak import attacks, data, metrics, sweep, vfl
from labelleak.base import (
  Attack,
  Completion,
  InputError,
  Labelled,
  MakeOptimizer,
  Pool,
)
from labelleak.experiments import grants
from labelleak.experiments.vfl import fitting, joint
from labelleak.metrics import significance

GRANTS = ('party', 'pool', 'labelled', 'labels')


class Setup(NamedTuple):
  """What a point consists of."""

  config: ConfigDict
  source: data.Source
  tested: data.Source
  specs: list
  attacks: list  # one for each spec
  runs: dict  # optimizer of the attacker, None: its own -> joint.Joint


def experiment(*, config: ConfigDict) -> Callable:
  """Trains the joint model, completes the attacker's bottom, names all rows.

  A trial is a training with a seed of its own and labelled examples of its own,
  `aux.per_class` of each class, drawn from the training rows. Attacks that have
  an optimizer get a training of their own, from the same start on the same
  batches; all others share one.

  What an attack has after its last epoch is its result: `label_accuracy` on the
  training rows without those whose labels it was given, `test_accuracy` on the
  test rows. `best_accuracy` and `best_test_accuracy` are of the epoch that the
  true labels of the training rows choose, as in the released code: no attacker
  could. With `scored_rows` that choice rests on so many rows of each split.

  Args:
    config: fields as in `configs/common.py: completion`.

  Returns:
    measure(progress) -> results, with the `main_accuracy` of the model that
    each attack met; see `labelleak.experiments`.

  Raises:
    InputError: anything in the config that cannot run.
  """
  config = config.copy_and_resolve_references()
  setup = prepare(config)

  def measure(progress):
    values = [[] for _ in setup.specs]
    for trial in range(config.trials):
      for index, found in _trial(setup, trial):
        values[index].append(found)
      progress(1)
    return _judged(setup, results(setup, values))

  return measure


def results(setup: Setup, values: list[list[dict]]) -> list[dict]:
  """What an experiment returns, from metrics of each attack and trial."""
  config = setup.config
  facts = joint.facts(config, setup.source, config.train.batch_size)
  labelled = config.aux.per_class * setup.source.num_classes
  facts['setting'].update(labelled=labelled, **_held(setup))
  if depth := config.get('depth'):
    facts['setting'].update(depth=depth)
  if weights := config.get('class_weights'):
    facts['setting'].update(class_weights=list(weights))
  return [
    dict(
      grants.identity(config, spec),
      **facts,
      values={name: np.array([f[name] for f in each]) for name in each[0]},
    )
    for spec, each in zip(setup.specs, values)
  ]


def _held(setup):
  """What the attacker has of an example: its share, and among how many."""
  config, model = setup.config, next(iter(setup.runs.values()))
  xs = model.split(setup.source.take(np.arange(1)))
  size = setup.source.take(np.arange(1)).size
  return dict(
    parties=len(xs),
    share=round(xs[config.attacker].size / size, 4),
    shared=config.split.get('shared', 0),  # parts that others hold, too
  )


def _judged(setup, found):
  """Adds what attacks with an optimizer gain over the first without one."""
  plain = next(
    (
      result
      for result, attack in zip(found, setup.attacks)
      if isinstance(attack, Completion) and not attack.optimizer
    ),
    None,
  )
  for result, attack in zip(found, setup.attacks):
    if plain and optimizer(attack):
      name = 'label_accuracy'
      off = result['values'][name] - plain['values'][name]
      result['gain'] = dict(significance.gain(off), over=plain['attack'])
  return found


def prepare(config: ConfigDict) -> Setup:
  """Everything that a point needs, checked.

  Every training is traced, and every attack sees what it will be granted.

  Raises:
    InputError: anything in the config that cannot run.
  """
  if not joint.trained(config):
    raise InputError(
      f'train.steps={config.train.steps} trains no bottom; raise it.'
    )
  source = joint.source(config)
  specs = grants.specs(
    config, GRANTS, links=config.defense, baseline='scores.random'
  )
  loaded = [attacks.load(s['name'], **grants.hyper(s)) for s in specs]
  own = (config.attacker,)
  runs = {
    make: joint.build(config, source, attackers=own, optimizer=make)
    for make in map(optimizer, loaded)
  }
  tested = joint.source(config, config.train.tested)
  setup = Setup(config, source, tested, specs, loaded, runs)
  size, steps = config.train.batch_size, config.train.steps
  for model in runs.values():
    joint.traffic(model, source, size)
    joint.check_cost(config, model, source, size, config.trials * steps)
  for attack, spec in zip(loaded, specs):
    grants.check(config, spec, attack)
    if isinstance(attack, Completion):
      attack.check(_known(setup, spec, runs[attack.optimizer], 0))
  return setup


def optimizer(attack: Attack | Completion) -> Optional[MakeOptimizer]:
  """Returns what replaces the attacker's own optimizer; None keeps it."""
  return attack.optimizer if isinstance(attack, Completion) else None


def _trial(setup, trial):
  """(number of the attack, its metrics), training by training."""
  config, seed = setup.config, setup.config.seed + trial
  key = sweep.trial_keys(jax.random.key(config.seed), trial + 1)[trial]
  for make, model in setup.runs.items():
    mine = [i for i, a in enumerate(setup.attacks) if optimizer(a) is make]
    name = sweep.describe(setup.specs[mine[0]]) if make else ''
    try:
      state = fitting.fit(config, model, setup.source, seed, name=name)
    except FloatingPointError as e:
      raise FloatingPointError(f'{name}: {e}' if name else str(e)) from e
    own = main(setup, model, state)
    view = vfl.final(state, config.attacker)
    for i in mine:
      found, _ = attacked(setup, i, trial, view, jax.random.fold_in(key, i))
      yield i, found | own


def attacked(
  setup: Setup, i: int, trial: int, view: vfl.View, key: chex.PRNGKey
) -> tuple[dict, Callable]:
  """Metrics of attack i on a view, and what predicts: x [n, F] -> [n, K].

  Truth meets its scores in `_scored`.
  """
  attack = setup.attacks[i]
  model = setup.runs[optimizer(attack)]
  known = _known(setup, setup.specs[i], model, trial)
  scored = functools.partial(_scored, setup, model, trial)
  if not isinstance(attack, Completion):  # it guesses
    predict = lambda x: attack.infer(key, view._replace(x=x), known)
    return scored(predict), predict
  history = []
  keep = lambda epoch, predict: history.append(scored(predict, quick=True))
  predict = attack.fit(key, view, known, keep)
  best = max(history, key=lambda found: found['label_accuracy'])
  found = dict(
    scored(predict),
    best_accuracy=best['label_accuracy'],
    best_test_accuracy=best['test_accuracy'],
  )
  return found, predict


def _scored(setup, model, trial, predict, quick=False):
  """Metrics of scores on training rows and on test rows.

  `quick` looks at accuracy alone, and at `scored_rows` rows.
  """
  config = setup.config
  mine = lambda x: model.split(x)[config.attacker]
  found = {}
  for prefix, source, rows in (
    ('', setup.source, _rest(setup, trial)),
    ('test_', setup.tested, np.arange(len(setup.tested.y))),
  ):
    if quick and config.scored_rows and config.scored_rows < len(rows):
      rng = np.random.default_rng([config.seed, trial])
      rows = rng.choice(rows, config.scored_rows, replace=False)
    scores = joint.scores(mine, predict, source, rows)
    for name, value in _measured(scores, source.y[rows], quick).items():
      found[prefix + name.removeprefix('label_' if prefix else '')] = value
  return found


def main(setup: Setup, model: joint.Joint, state: vfl.State) -> dict:
  """What the joint model itself has on the test rows."""
  source = setup.tested
  scores = joint.on_rows(model, model.protocol.predict, state, source)
  found = _measured(scores, source.y)
  return {f'main_{k.removeprefix("label_")}': v for k, v in found.items()}


def _measured(scores, labels, quick=False):
  """What scores [n, K] are worth, the headline first; `quick`: it alone."""
  return {k: float(v) for k, v in _metrics(scores, labels, quick).items()}


@functools.partial(jax.jit, static_argnames='quick')
def _metrics(scores, labels, quick):
  y = jax.nn.one_hot(labels, scores.shape[-1])
  names = ['label_accuracy']
  names += ['top5_accuracy'] if y.shape[-1] > 5 and not quick else []
  names += ['f1'] if y.shape[-1] == 2 and not quick else []
  return {name: getattr(metrics, name)(scores, y) for name in names}


def _known(setup, spec, model, trial) -> vfl.Known:
  """What an attack is granted."""
  config, source = setup.config, setup.source
  rows, rest = _labelled(setup, trial), _rest(setup, trial)
  mine = lambda rows: model.split(source.take(rows))[config.attacker]
  one_hot = np.eye(source.num_classes, dtype=np.float32)
  take = lambda index: mine(rest[np.asarray(index)])
  given = dict(
    party=model.parties[config.attacker],
    pool=Pool(take, len(rest)),
    labelled=Labelled(mine(rows), one_hot[source.y[rows]]),
    labels=one_hot[source.y[rest]],
  )
  return vfl.Known(
    num_classes=source.num_classes,
    batch_size=config.batch_size,
    **grants.granted(config, spec, given),
  )


def _labelled(setup, trial):
  """Training rows whose labels the attacker knows, some of each class.

  Raises:
    InputError: a class has no more than that.
  """
  per_class, y = setup.config.aux.per_class, setup.source.y
  fewest = np.bincount(y, minlength=setup.source.num_classes).min()
  if not 1 <= per_class < fewest:
    raise InputError(
      f'aux.per_class={per_class} must lie in 1..{fewest - 1}: the rarest class'
      f' of {setup.source.name} has {fewest} rows; change it.'
    )
  order = np.random.default_rng([setup.config.seed, trial]).permutation(len(y))
  classes = range(setup.source.num_classes)
  return np.concatenate([order[y[order] == k][:per_class] for k in classes])


def _rest(setup, trial):
  """Training rows whose labels the attacker does not know."""
  return np.setdiff1d(np.arange(len(setup.source.y)), _labelled(setup, trial))
