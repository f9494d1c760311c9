"""Vertical FL: the labels of all rows, from a trained bottom and few labels."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import NamedTuple, Optional

import jax
from ml_collections import ConfigDict
import numpy as np

from labelleak import metrics, spec, sweep, vfl
from labelleak.base import (
  Attack,
  Labelled,
  MakeOptimizer,
  Pool,
  Predict,
)
from labelleak.experiments import Measure, fields, grants
from labelleak.experiments.grants import Attacker
from labelleak.experiments.result import Result
from labelleak.experiments.vfl.build import build
from labelleak.experiments.vfl.joint import Joint
from labelleak.metrics import significance

GRANTS = ('party', 'pool', 'labelled', 'labels')


class Setup(NamedTuple):
  """What a point consists of."""

  attackers: Sequence[Attacker]  # of the config
  # by the optimizer of the attacker, None of an honest one
  joints: Mapping[Optional[MakeOptimizer], Joint]
  per_class: int  # labelled examples of each class
  # of each split, that choose the best epoch; None: all
  scored_rows: Optional[int]
  # that identify the point, beside those of its joint model
  facts: Mapping[str, object]
  seed: int  # of the first trial

  @property
  def joint(self) -> Joint:
    """A joint model; all of them share their data."""
    return next(iter(self.joints.values()))


def experiment(*, config: fields.Completion) -> Measure:
  """Prepares trainings of the joint model whose bottoms attackers complete.

  A trial is a training with a seed of its own and labelled examples of its own,
  `aux.per_class` of each class, drawn from the training rows. Attacks that have
  an optimizer get a training of their own, from the same start on the same
  batches; all others share one.

  What an attack has after its last epoch is its result: `label_accuracy` on the
  training rows without those whose labels it was given, `test_accuracy` on the
  test rows. `best_accuracy` and `best_test_accuracy` are of the epoch that the
  true labels of the training rows choose, as in the released code: no attacker
  could. With `scored_rows` that choice rests on so many rows of each split. The
  `main_accuracy` is that of the model that each attack met.

  Args:
    config: fields as in `configs/common.py: completion`.

  Raises:
    InputError: anything in the config that cannot run.
  """
  setup = prepare(config)

  def measure(progress):
    trials = sweep.map_trials(
      functools.partial(_trial, setup, workdir=progress.checkpoints),
      config.trials,
      finished=progress.finished,
      callback=progress,
    )
    return _with_gains(setup, results(setup, list(zip(*trials))))

  return measure


def prepare(config: ConfigDict) -> Setup:
  """Returns everything that a point needs, checked.

  Every training is traced, and every attack sees what it will be granted.

  Raises:
    InputError: anything in the config that cannot run.
  """
  attackers = grants.load_attacks(
    config.attacks,
    config.known,
    kind='vertical',
    fields=GRANTS,
    baseline='scores.random',
  )
  joints = {
    optimizer: build(config, optimizer=optimizer, attackers=(config.attacker,))
    for optimizer in map(optimizer_of, attackers)
  }
  joint = next(iter(joints.values()))
  facts = dict(labelled=config.aux.per_class * joint.num_classes)
  facts |= _share(joint, config.split.get('shared', 0))
  facts |= {k: config[k] for k in ('depth', 'class_weights') if config.get(k)}
  setup = Setup(
    attackers,
    joints,
    config.aux.per_class,
    config.scored_rows,
    facts,
    config.seed,
  )
  for joint in joints.values():
    joint.check_training()
    size, steps = joint.training.batch_size, joint.training.steps
    joint.traffic(size)
    joint.check_cost((size, config.trials * steps))
  for attacker in attackers:
    if not isinstance(attacker.attack, Attack):
      attacker.attack.check(_grant(setup, attacker, 0))
  return setup


def optimizer_of(attacker: Attacker) -> Optional[MakeOptimizer]:
  """Returns the malicious optimizer of an attack; None of an honest one."""
  return getattr(attacker.attack, 'optimizer', None)


def _share(joint, shared) -> dict[str, object]:
  """Returns what the attacker has of an example, among how many parties."""
  example = joint.source.take(np.arange(1))
  xs = joint.split(example)
  share = round(xs[joint.attacker].size / example.size, 4)
  return dict(parties=len(xs), share=share, shared=shared)


def results(
  setup: Setup, values: Sequence[Sequence[Mapping[str, float]]]
) -> list[Result]:
  """Returns a result for each attack, from its metrics in each trial."""
  setting = setup.joint.setting
  setting = setting._replace(
    batch_size=setup.joint.training.batch_size,
    extra=dict(setting.extra, **setup.facts),
  )
  return [
    Result(
      attacker.spec,
      attacker.known,
      setting,
      values={k: np.array([trial[k] for trial in own]) for k in own[0]},
    )
    for attacker, own in zip(setup.attackers, values)
  ]


def _with_gains(setup, results):
  """Adds what attacks with an optimizer gain over the first without one."""
  pairs = list(zip(setup.attackers, results))
  passive = [
    result
    for attacker, result in pairs
    if not isinstance(attacker.attack, Attack) and not optimizer_of(attacker)
  ]

  def gain(result):
    plain, name = passive[0], 'label_accuracy'
    gain = significance.gain(result.values[name] - plain.values[name])
    return dict(gain=dict(gain, over=plain.attack['name']))

  return [
    result._replace(details=gain(result))
    if passive and optimizer_of(attacker)
    else result
    for attacker, result in pairs
  ]


def _trial(setup, trial, workdir) -> list[dict[str, float]]:
  """Returns metrics of each attack, computed training by training."""
  values = [{} for _ in setup.attackers]
  for optimizer, joint in setup.joints.items():
    places = [
      i for i, a in enumerate(setup.attackers) if optimizer_of(a) is optimizer
    ]
    name = spec.describe(setup.attackers[places[0]].spec) if optimizer else ''
    try:
      state = joint.fit(setup.seed + trial, name=name, workdir=workdir)
    except FloatingPointError as e:
      raise FloatingPointError(f'{name}: {e}' if name else str(e)) from e
    own = score_main(joint, state)
    view = vfl.view_after_training(state, joint.attacker)
    for place in places:
      values[place] = complete(setup, place, trial, view)[0] | own
  return values


def complete(
  setup: Setup, place: int, trial: int, view: vfl.View
) -> tuple[dict[str, float], Predict]:
  """Returns metrics of an attack on a view, and what it predicts with.

  Truth meets its scores in `_score`.
  """
  attacker = setup.attackers[place]
  key = sweep.key(setup.seed + trial, f'attack {place}')
  known = _grant(setup, attacker, trial)
  joint = setup.joints[optimizer_of(attacker)]
  score = functools.partial(_score, setup, joint, trial)
  if isinstance(attacker.attack, Attack):  # it guesses

    def guess(x):
      rows = dataclasses.replace(known, batch_size=len(x))
      return attacker.attack.infer(key, view._replace(x=x), rows)

    return score(guess), guess
  history = []
  keep = lambda epoch, predict: history.append(score(predict, quick=True))
  predict = attacker.attack.fit(key, view, known, keep)
  best = max(history, key=lambda scores: scores['label_accuracy'])
  scores = dict(
    score(predict),
    best_accuracy=best['label_accuracy'],
    best_test_accuracy=best['test_accuracy'],
  )
  return scores, predict


def _score(setup, joint, trial, predict, quick=False):
  """Returns metrics of scores on training rows and on test rows.

  `quick` looks at accuracy alone, and at `scored_rows` rows.
  """
  values = {}
  for prefix, source, rows in (
    ('', joint.source, _pool_rows(setup, trial)),
    ('test_', joint.tested, np.arange(len(joint.tested.y))),
  ):
    if quick and setup.scored_rows and setup.scored_rows < len(rows):
      rng = np.random.default_rng([setup.seed, trial])
      rows = rng.choice(rows, setup.scored_rows, replace=False)
    scores = vfl.score_rows(predict, source, joint.part, rows)
    for name, value in _measure(scores, source.y[rows], quick).items():
      values[prefix + name.removeprefix('label_' if prefix else '')] = value
  return values


def score_main(joint: Joint, state: vfl.State) -> dict[str, float]:
  """Returns what the joint model itself has on the test rows."""
  scores = joint.score(joint.protocol.predict, state, joint.tested)
  values = _measure(scores, joint.tested.y)
  return {f'main_{k.removeprefix("label_")}': v for k, v in values.items()}


def _measure(scores, labels, quick=False) -> dict[str, float]:
  """Returns what scores [n, K] are worth, the headline first or alone."""
  return {k: float(v) for k, v in _metrics(scores, labels, quick).items()}


@functools.partial(jax.jit, static_argnames='quick')
def _metrics(scores, labels, quick):
  y = jax.nn.one_hot(labels, scores.shape[-1])
  names = ['label_accuracy']
  names += ['top5_accuracy'] if y.shape[-1] > 5 and not quick else []
  names += ['f1'] if y.shape[-1] == 2 and not quick else []
  return {name: getattr(metrics, name)(scores, y) for name in names}


def _grant(setup, attacker, trial) -> vfl.Known:
  """Returns what an attack is granted; `labels` are those of the whole pool."""
  joint = setup.joints[optimizer_of(attacker)]
  source = joint.source
  rows, pool = (
    setup.joint.draw_labelled(setup.per_class, trial),
    _pool_rows(setup, trial),
  )
  one_hot = np.eye(source.num_classes, dtype=np.float32)
  part = lambda rows: joint.part(source.take(rows))
  given = dict(
    party=joint.party,
    pool=Pool(lambda index: part(pool[np.asarray(index)]), len(pool)),
    labelled=Labelled(part(rows), one_hot[source.y[rows]]),
    labels=one_hot[source.y[pool]],
  )
  return vfl.Known(
    num_classes=source.num_classes,
    batch_size=joint.draws.batch_size,
    **grants.select(attacker, given),
  )


def _pool_rows(setup, trial) -> np.ndarray:
  """Returns training rows whose labels the attacker does not know."""
  rows = np.arange(len(setup.joint.source.y))
  return np.setdiff1d(rows, setup.joint.draw_labelled(setup.per_class, trial))
