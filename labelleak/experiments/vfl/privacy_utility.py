"""Vertical FL: what a defense hides, and what its training still learns."""

import jax
import jax.numpy as jnp
import numpy as np

from labelleak import sweep, vfl
from labelleak.attacks import over_time
from labelleak.base import InputError, Labelled
from labelleak.experiments import Measure, answers, fields, grants
from labelleak.experiments.vfl import batch_inference
from labelleak.experiments.vfl.build import build


def experiment(*, config: fields.Vertical) -> Measure:
  """Prepares attacks on the first step of each training, trained to its end.

  A trial is a training with a seed of its own, `seed`, `seed` + 1, ...; its
  first batch is attacked at the initialisation, as VFLAIR does, and the model
  it ends with is tested. Trainings run together, vmapped. Values hold the
  `main_accuracy` of every trial beside what the attack scored.

  `observed.steps` > 1 attacks each of the first steps, as Fu et al. do during
  the first epoch: a trial's value is the mean over them. `observed.epochs` > 1
  observes the same batches in each of the first epochs: an attack over time
  keeps what it likes of them, one of an instant averages its scores, and with
  them a defense's noise (`attacks.over_time`).

  Args:
    config: fields as in `configs/common.py: vfl`. `draw` has no meaning here:
      the attacked batch is the first of the training.

  Raises:
    InputError: anything in the config that cannot run; no training steps, a
      batch size that is not that of the training, fewer trained steps than
      attacked ones, several epochs in random order.
  """
  joint = build(config)
  observed = config.observed.to_dict()
  _check(joint, **observed)
  attackers = grants.load_attacks(
    config.attacks,
    config.known,
    kind='vertical',
    fields=batch_inference.GRANTS,
    baseline='scores.random',
  )
  steps = joint.training.steps
  watched = observed['steps'] * observed['epochs']
  size = joint.training.batch_size
  joint.check_cost((size, config.trials * (steps + watched)))
  seeds = [config.seed + t for t in range(config.trials)]
  trial = _trial(joint, attackers, config.aux.per_class)
  each_epoch = joint.training.steps_per_epoch
  stops = tuple(each_epoch * epoch for epoch in range(observed['epochs']))
  numbers = np.arange(observed['steps']) + 1
  start = joint.init(seeds[0])
  states = jax.tree.map(lambda a: jnp.stack([a] * len(stops)), start)
  item = joint.epochs(numbers, seeds[0]), states
  key = sweep.key(config.seed, 'privacy_utility')
  jax.eval_shape(trial, key, item, ())

  def measure(progress):
    *states, end = joint.fit_all(
      seeds, (*stops, steps), workdir=progress.checkpoints
    )
    states = jax.tree.map(lambda *a: jnp.stack(a, 1), *states)  # [T, E, ...]

    def items(index):
      batches = [joint.epochs(numbers, seeds[i]) for i in index]
      chunk = jax.tree.map(lambda a: a[index], states)
      return jax.tree.map(lambda *a: np.stack(a), *batches), chunk

    finite, values = sweep.run_trials(
      trial,
      key,
      len(seeds),
      items,
      (),
      per_device=config.per_device,
      devices=joint.devices,
      finished=progress.finished,
      callback=progress,
      tell_compile=progress.tell_compile,
    )
    learned = [
      joint.accuracy(jax.tree.map(lambda a, t=t: a[t], end))
      for t in range(len(seeds))
    ]
    return batch_inference.results(
      attackers,
      _setting(joint, observed),
      finite,
      values,
      main_accuracy=np.array(learned),
    )

  return measure


def _setting(joint, observed):
  """Returns the setting as it was attacked: untrained, at the first steps."""
  draw = 'random' if joint.training.shuffle else 'first'
  extra = dict(joint.setting.extra, step=0, draw=draw)
  if observed != dict(steps=1, epochs=1):
    extra['observed'] = observed
  return joint.setting._replace(trained=False, extra=extra)


def _trial(joint, attackers, per_class):
  """Returns (key, (batches [n, ...], states [E, ...]), ()) -> finite, judged.

  Every attack observes all steps and names the rows of all batches at the end;
  an attack of an instant answers with the mean of what it said of a row.
  """
  lasting = [a._replace(attack=_remember(a.attack)) for a in attackers]

  @jax.default_matmul_precision('highest')
  def trial(key, item, shared):
    batches, states = item
    labelled = _label_batches(joint, batches, per_class)
    known = [
      vfl.Known(
        num_classes=joint.num_classes,
        batch_size=batches.mask.shape[1],
        num_rows=len(joint.source.y),
        **grants.select(
          attacker, dict(bottom=vfl.bottom(joint.party), labelled=labelled)
        ),
      )
      for attacker in attackers
    ]

    def observe(carry, batch):
      state, memories = carry
      state, (views, _) = joint.protocol.step(state, batch)
      view = views[joint.attacker]
      memories = [a.attack.observe(m, view) for a, m in zip(lasting, memories)]
      return (state, memories), view.check('view', known[0])[1]

    def observe_epoch(memories, state):
      carry, finite = jax.lax.scan(observe, (state, memories), batches)
      return carry[1], finite.all()

    memories = [a.attack.init(k) for a, k in zip(lasting, known)]
    memories, finite = jax.lax.scan(observe_epoch, memories, states)
    scores = [
      answers.infer(attacker, key, memory, own)[batches.index]
      for attacker, memory, own in zip(lasting, memories, known)
    ]  # each [n, B, K]
    judge = lambda pair: batch_inference.judge(pair[0], pair[1])
    values = jax.lax.map(judge, (scores, batches.y))
    sound = [value.pop('sound').all() for value in values]
    values = jax.tree.map(lambda a: a.mean(0), values)
    judged = [v | dict(sound=flag) for v, flag in zip(values, sound)]
    return finite.all(), judged

  return trial


def _remember(attack):
  """Returns an attack over time, the mean of one of an instant."""
  return attack if over_time.remembers(attack) else over_time.average(attack)


def _label_batches(joint, batches, per_class) -> Labelled:
  """Returns rows of every batch whose labels may be granted, together."""
  x = batches.xs[joint.attacker]
  rows = lambda x, y: batch_inference.label_rows(x, y, per_class)
  labelled = jax.vmap(rows)(x, batches.y)
  return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), labelled)


def _check(joint, *, steps, epochs):
  """Refuses what cannot be observed of a training."""
  size, trained = joint.training.batch_size, joint.training.steps
  rows, batch_size = len(joint.source.y), joint.draws.batch_size
  if not trained or batch_size != size:
    raise InputError(
      f'train.steps={trained} must be positive and batch_size={batch_size} that'
      f' of the training, {size}; change them.'
    )
  each_epoch = joint.training.steps_per_epoch
  if min(steps, epochs) < 1 or max(steps, each_epoch * (epochs - 1)) > trained:
    raise InputError(
      f'observed.steps={steps} and observed.epochs={epochs} must be at least 1'
      f' and lie within the train.steps={trained}; change them.'
    )
  if rows % size and steps >= each_epoch:
    raise InputError(
      f'observed.steps={steps} of batch_size={size} include the short last'
      f' batch of {rows} rows; use at most {rows // size}.'
    )
  if epochs > 1 and joint.training.shuffle:
    raise InputError(
      f'observed.epochs={epochs} averages over epochs of the same batches; set'
      ' train.shuffle=False.'
    )
