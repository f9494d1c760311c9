"""Vertical FL: the labels of a data set, from a whole training under a defense.

Attacks over time observe every step, and name all rows after some epochs.
"""

import functools
import json
import pathlib
import time
from typing import Any, NamedTuple, Optional

import jax
import numpy as np

from labelleak import metrics, runs, spec, sweep, validate, vfl
from labelleak.attacks import over_time
from labelleak.attacks.memory_folder import MemoryFolder
from labelleak.base import InputError, Labelled, Pool
from labelleak.experiments import Measure, answers, fields, grants, sources
from labelleak.experiments.progress import say, show
from labelleak.experiments.result import Result
from labelleak.experiments.vfl import batch_inference
from labelleak.experiments.vfl.build import build

GRANTS = ('bottom', 'pool', 'labelled', 'labels', 'defense')

_judge = jax.jit(batch_inference.judge)
_label_accuracy = jax.jit(metrics.label_accuracy)


def experiment(*, config: fields.WholeTraining) -> Measure:
  """Prepares one training a trial, whose every step all attacks observe.

  An attack of an instant answers with the mean of what it said of a row.
  Accuracies are over the rows that some batch held: `label_accuracy` after the
  last of the epochs `after`, as are all that name no epoch, `after_E` after E,
  beside the `main_accuracy` of the trained model. `test_accuracy` is over the
  test rows, of which no step was and whose own features the party has, too:
  what it can name from then on.
  `best_step`, on links in the clear, is the largest share of a batch that
  direct inference named right, picked by the truth: an upper bound.

  Args:
    config: fields as in `configs/common.py: vfl`, and the epochs `after`.

  Raises:
    InputError: anything in the config that cannot run; no training, epochs that
      do not ascend or lie beyond it, an attack over time on a top model, test
      rows that are trained on.
  """
  joint = build(config)
  joint.check_training()
  attackers = grants.load_attacks(
    config.attacks,
    config.known,
    kind='vertical',
    fields=GRANTS,
    baseline='scores.random',
  )
  after = tuple(config.after)
  _check(joint, after)
  _check_sources(joint, attackers)
  steps = joint.training.steps
  joint.check_cost((joint.training.batch_size, config.trials * steps))
  step = jax.jit(functools.partial(_step, joint))
  for attacker in attackers:
    _grant(joint, attacker, config.aux.per_class, 0)

  def measure(progress):
    trials = sweep.map_trials(
      lambda t: _train(
        joint,
        step,
        attackers,
        [_grant(joint, a, config.aux.per_class, t) for a in attackers],
        after,
        config.seed + t,
        progress.checkpoints,
      ),
      config.trials,
      finished=progress.finished,
      callback=progress,
    )
    results = []
    for attacker, each in zip(attackers, zip(*trials)):
      values = {k: np.array([v[k] for v in each], float) for k in each[0]}
      values = batch_inference.drop_undefined(values)
      results.append(
        Result(attacker.spec, attacker.known, _setting(joint, after), values)
      )
    return results

  return measure


def _setting(joint, after):
  extra = dict(joint.setting.extra, after=list(after), draw='all')
  size = joint.training.batch_size
  return joint.setting._replace(batch_size=size, extra=extra)


def _step(joint, state, batch):
  """Returns the state after a step, and the attacker's view of it."""
  state, (views, _) = joint.protocol.step(state, batch)
  return state, views[joint.attacker]


class _Watch(NamedTuple):
  """What attacks have of a training so far.

  Attributes:
    steps: that were observed.
    memories: of each attack.
    values: of each attack, after the epochs so far.
  """

  steps: int
  memories: tuple[Any, ...]
  values: tuple[dict[str, float], ...]


def _train(joint, step, attackers, known, after, seed, workdir):
  """Returns the values of each attack on the training of a seed.

  In a workdir a killed training runs again, and is observed from where it was
  killed: it is to observe that takes long.
  """
  lasting = [
    a._replace(attack=joint.adapt(_remember(a.attack))) for a in attackers
  ]
  memories = tuple(a.attack.init(k) for a, k in zip(lasting, known))
  watch = _Watch(0, memories, tuple({} for _ in attackers))
  keeper = _Keeper(workdir, seed, watch)
  watch = keeper.resume()
  rows, named = np.zeros(len(joint.source.y), bool), []
  state = joint.init(seed)
  with show(joint.training.steps, 'step', leave=False) as bar:
    for number in range(1, joint.training.steps + 1):
      batch = jax.tree.map(
        lambda a: a[0], joint.epochs(np.array([number]), seed)
      )
      state, view = step(state, batch)
      real = np.asarray(view.index)[np.asarray(view.index) >= 0]
      rows[real] = True
      named += _name_step(view, batch)
      bar.update(1)
      if number <= watch.steps:
        continue
      memories = zip(lasting, watch.memories)
      memories = tuple(a.attack.observe(m, view) for a, m in memories)
      watch = watch._replace(steps=number, memories=memories)
      epoch, left = divmod(number, joint.training.steps_per_epoch)
      if not left and epoch in after:
        new = _name(joint, lasting, watch.memories, known, rows, seed)
        values = tuple(
          v | {f'after_{epoch}': n['label_accuracy']} | n
          for v, n in zip(watch.values, new)
        )
        watch = watch._replace(values=values)
      keeper.keep(watch)
  keeper.keep(watch._replace(memories=()), last=True)
  shared = dict(best_step=max(named)) if named else {}
  shared |= dict(main_accuracy=joint.accuracy(state))
  return [v | shared for v in watch.values]


class _Keeper:
  """Keeps what attacks have of a training in the workdir of its point."""

  def __init__(self, workdir: Optional[str], seed: int, start: _Watch):
    self._folder, self._start = None, start
    if workdir:
      path = pathlib.Path(workdir, f'memories_{seed}')
      made_by = json.dumps(runs.code())
      self._folder = MemoryFolder(path, start, made_by)
    self._saved, self._holds = time.perf_counter(), False

  def resume(self) -> _Watch:
    """Returns what was kept by the same code, else the start."""
    if self._folder is None:
      return self._start
    kept = self._folder.load()
    self._holds = kept is not self._start
    return kept

  def keep(self, watch: _Watch, last: bool = False) -> None:
    """Writes it where enough time has passed, or a long training has ended."""
    if self._folder is None:
      return
    passed = time.perf_counter() - self._saved
    if passed >= runs.EVERY or (last and self._holds):
      try:
        self._folder.save(watch)
      except (InputError, OSError) as e:  # a foreign attack, a full disk
        say(f'what attacks remember is not kept any more: {e}')
        self._folder = None
      self._saved, self._holds = time.perf_counter(), True


def _name(joint, attackers, memories, known, rows, seed):
  """Returns how right each attack is by now."""
  key = sweep.key(seed, 'whole_training')
  values = []
  for attacker, memory, told in zip(attackers, memories, known, strict=True):
    scores = answers.infer(attacker, key, memory, told)
    values.append(_measure(joint, attacker, scores, rows))
  return values


def _measure(joint, attacker, scores, rows):
  """Returns how right the scores of `rows` [N], and of test rows, are."""
  y, y_test = (
    np.eye(joint.num_classes, dtype=np.float32)[source.y]
    for source in (joint.source, joint.tested)
  )
  (judged,) = _judge([scores[: len(y)][rows]], y[rows])
  answers.check([attacker], np.ones(1, bool), [judged['sound'][None]])
  names = 'label_accuracy', 'permuted_label_accuracy', 'calibration_error'
  unseen = float(_label_accuracy(scores[len(y) :], y_test))
  return {k: float(judged[k]) for k in names} | dict(test_accuracy=unseen)


def _remember(attack):
  """Returns an attack over time, the mean of one of an instant."""
  if over_time.remembers(attack):
    return attack
  attack = over_time.average(attack)
  return attack._replace(observe=jax.jit(attack.observe))


def _grant(joint, attacker, per_class, trial) -> vfl.Known:
  """Returns what an attack is granted in a trial."""
  source, pool = joint.source, _hold_all(joint)
  one_hot = np.eye(joint.num_classes, dtype=np.float32)
  given = dict(
    bottom=vfl.bottom(joint.party),
    pool=pool,
    labels=one_hot[source.y],
    defense=joint.strengths,
  )
  if 'labelled' in attacker.known:
    rows = joint.draw_labelled(per_class, trial)
    x = joint.part(source.take(rows))
    given['labelled'] = Labelled(x, one_hot[source.y[rows]])
  return vfl.Known(
    num_classes=joint.num_classes,
    batch_size=joint.training.batch_size,
    num_rows=pool.size,
    loss=joint.loss,
    **grants.select(attacker, given),
  )


def _hold_all(joint) -> Pool:
  """Returns the own features of the rows to train on, then of the test rows."""
  sources = joint.source, joint.tested
  first = len(joint.source.y)

  def take(index):
    index = np.asarray(index)
    tested = index >= first
    like = joint.source.take(np.arange(1))
    x = np.zeros((len(index), *like.shape[1:]), like.dtype)
    for source, which, start in zip(sources, (~tested, tested), (0, first)):
      if which.any():
        x[which] = source.take(index[which] - start)
    return joint.part(x)

  return Pool(take, first + len(joint.tested.y))


def _name_step(view, batch):
  """Returns the share of a batch that signs of cut gradients name, in a list.

  It is empty where the link is sealed, or the cut has no entry for each class.
  """
  if view.cut_grads is None or view.cut_grads.shape[-1] != batch.y.shape[-1]:
    return []
  real = np.asarray(view.index) >= 0
  scores, y = -np.asarray(view.cut_grads)[real], np.asarray(batch.y)[real]
  return [float(_label_accuracy(scores, y))]


def _check_sources(joint, attackers):
  """Refuses scores of rows, or of test rows, that would mean nothing."""
  top = joint.setting.extra['top']
  lasting = [
    a
    for a in attackers
    if over_time.remembers(a.attack) and not a.attack.below_tops
  ]
  if top != 'sum' and lasting:
    raise InputError(
      f'config.top={spec.describe(top)}: {lasting[0].spec["name"]} reads logits'
      ' that are added; remove one of them.'
    )
  if sources.same(joint.source, joint.tested):
    raise InputError(
      'config.train.tested names the rows that are trained on; name others,'
      " such as 'test'."
    )


def _check(joint, after):
  """Refuses epochs that the training does not have."""
  last = joint.training.steps // joint.training.steps_per_epoch
  for epoch in after:
    validate.whole('after', epoch, 1, last, 'the epochs that are trained')
  if not after or list(after) != sorted(set(after)):
    raise InputError(f'after={after} must be epochs that ascend; sort them.')
